# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The advisory lock that sqlx takes, and one of our own beside it.

sqlx's key (``sqlx-postgres/src/migrate.rs``, ``generate_lock_id``) keeps out applications that call ``migrate!()``. The
second key is held for the whole run, also while the first is given up around CREATE INDEX CONCURRENTLY: a session that
waits inside ``pg_advisory_lock`` holds a snapshot, for which the index build would wait in turn.
"""

from __future__ import annotations

import random
import time
import typing as t
import zlib

from .errors import LockError
from .session import Session, literal

_SQLX = 0x3D32AD9E
# Flips a bit that sqlx's keys, all below 2^62, never have.
_OWN = 1 << 62

_PAUSE_MIN, _PAUSE_MAX = 0.25, 5.0  # seconds

# A failed sqlx migration leaves its session in the second of these: the rollback is sent when the pool uses it again.
_IDLE = ("idle", "idle in transaction (aborted)")


def key(database: str) -> int:
    """sqlx's key for a database."""
    return _SQLX * zlib.crc32(database.encode())


class Holder(t.NamedTuple):
    """A session that stands in the way."""

    pid: int
    user: t.Optional[str]
    application: t.Optional[str]
    client: t.Optional[str]
    state: t.Optional[str]
    since: t.Optional[str]
    query: t.Optional[str]

    def __str__(self) -> str:
        return "process {0} of {1} ({2}) from {3}, {4} since {5}: {6}".format(
            self.pid,
            self.user or "an unknown user",
            self.application or "no application name",
            self.client or "the local socket",
            self.state or "state hidden",
            self.since or "unknown",
            self.query or "query hidden",
        )


# One line of what the session ran last; the server hides it from roles without pg_read_all_stats.
HOLDER_COLUMNS = (
    "a.pid, a.usename::text, a.application_name, host(a.client_addr), a.state,"
    " date_trunc('second', a.state_change)::text, left(regexp_replace(a.query, '\\s+', ' ', 'g'), 200)"
)


class AdvisoryLock:
    """Both keys of one database, in one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shared = key(session.database)
        self._own = self._shared | _OWN
        self.held = False
        self.aside = False
        """Whether sqlx's key is given up for the while."""

    def acquire(self, timeout: float, end_idle_after: float = 0.0) -> float:
        """Take both keys, asking again and again; nothing ever waits inside the server.

        :param timeout: seconds.
        :param end_idle_after: seconds after which a holder that does nothing is ended; 0 never ends one.
        :returns: seconds waited.
        :raises LockError: naming who holds a key.
        """
        waited = self._wait(self._try, timeout, end_idle_after)
        self.held, self.aside = True, False
        return waited

    def _wait(self, attempt: t.Callable[[], bool], timeout: float, end_idle_after: float = 0.0) -> float:
        began = time.monotonic()
        pause = _PAUSE_MIN
        while not attempt():
            waited = time.monotonic() - began
            if waited >= timeout:
                raise self._refused(waited)
            if end_idle_after and self._end_idle(end_idle_after):
                continue
            time.sleep(min(pause * random.uniform(0.8, 1.2), max(timeout - waited, 0.01)))
            pause = min(pause * 1.5, _PAUSE_MAX)
        return time.monotonic() - began

    def _try(self) -> bool:
        return bool(
            self._session.value(
                "select case when not pg_try_advisory_lock({0}) then false when pg_try_advisory_lock({1}) then true"
                " else not pg_advisory_unlock({0}) end".format(self._shared, self._own)
            )
        )

    def _end_idle(self, after: float) -> bool:
        """End holders that have been idle for so many seconds; whether there was one."""
        ended = self._session.rows(
            "select pg_terminate_backend(a.pid) from pg_locks l join pg_stat_activity a using (pid)"
            " where l.pid <> pg_backend_pid() and a.state in ({1}) and a.state_change < now() - interval '{0} seconds' and {2}".format(
                after, ", ".join(map(literal, _IDLE)), self._mine
            )
        )
        return bool(ended)

    def step_aside(self) -> None:
        """Give up sqlx's key but not ours; the dirty row keeps sqlx out meanwhile."""
        self._session.run("select pg_advisory_unlock({0})".format(self._shared))
        self.aside = True

    def step_back(self, timeout: float) -> None:
        """Take sqlx's key again; ours was kept, so no other run of ours came between.

        :raises LockError: naming who holds it.
        """
        self._wait(lambda: bool(self._session.value("select pg_try_advisory_lock({0})".format(self._shared))), timeout)
        self.aside = False

    def still_ours(self) -> bool:
        """Whether a migration has not dropped the locks (``pg_advisory_unlock_all``, ``discard all``)."""
        return self._session.value("select count(*) = 2 from pg_locks l where l.pid = pg_backend_pid() and " + self._mine) is True

    def release(self) -> None:
        """Give up what is held; with a lost connection it is gone already."""
        keys = [self._own] if self.aside else [self._shared, self._own]
        self.held = self.aside = False
        if not self._session.lost:
            self._session.run("select " + ", ".join("pg_advisory_unlock({0})".format(each) for each in keys))

    def holders(self) -> t.List[Holder]:
        return [
            Holder(*row)
            for row in self._session.rows(
                "select distinct {0} from pg_locks l join pg_stat_activity a using (pid)"
                " where l.pid <> pg_backend_pid() and {1}".format(HOLDER_COLUMNS, self._mine)
            )
        ]

    @property
    def _mine(self) -> str:
        return (
            "l.locktype = 'advisory' and l.granted and l.objsubid = 1"
            " and l.database = (select oid from pg_database where datname = {0})"
            " and ((l.classid::bigint << 32) | l.objid::bigint) in ({1}, {2})".format(
                literal(self._session.database), self._shared, self._own
            )
        )

    def _refused(self, waited: float) -> LockError:
        holders = self.holders()
        who = "; ".join(str(holder) for holder in holders) or "nobody any more"
        advice = "Wait for that session, then run again."
        if any(holder.state in _IDLE for holder in holders):
            advice = (
                "An idle session keeps the lock: an application whose sqlx migration failed leaves it behind in its pool."
                " End that session (select pg_terminate_backend(pid)) or restart the application, then run again;"
                " end_idle_lock_holder does it for you."
            )
        return LockError(
            "Another migration run has held the lock for {0:.0f} s: {1}.".format(waited, who),
            {"blocked_by": [holder._asdict() for holder in holders]},
            advice,
        )
