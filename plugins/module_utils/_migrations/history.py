# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a database, by whom and when: a side table beside the ledger, which sqlx never looks at.

It also remembers the finished statements of files that run outside a transaction, so that they can be resumed.
"""

from __future__ import annotations

import hashlib
import typing as t

from . import records
from .ledger import Ledger, TableName, bytea, revoke_writes
from .session import Session, literal

BEGUN = "begun"
DONE = "done"
FAILED = "failed"

# Actions besides those of the plan: a statement outside of a transaction, the proofs of the way back (see proofs.py and
# stairway.py), and what was measured on a copy (see trial.py).
STATEMENT = "statement"
PROVE = "prove"
STAIRWAY = "stairway"
TRIAL = "trial"

# The actions that run a file. A proof stands beside the newest version as well, and is not that version's own beginning.
_SCRIPTS = ", ".join(map(literal, (records.APPLY, records.REVERT)))

# An identifier holds 63 bytes; the longest ledger name still gets a side table of its own.
_SUFFIX = "_history"
_STEM_BYTES = 63 - len(_SUFFIX)


class Entry(t.NamedTuple):
    """What happened to a version."""

    version: int
    action: str
    outcome: str
    duration: t.Optional[int]
    """Nanoseconds."""


def entry(done: records.Done) -> Entry:
    """The entry of a step that is done."""
    return Entry(done.step.version, done.step.action, DONE, nanoseconds(done.seconds))


def nanoseconds(seconds: float) -> int:
    """As ledger and side table have it."""
    return round(seconds * 1e9)


def table_for(ledger: TableName) -> TableName:
    """The side table of a ledger."""
    return TableName(ledger.schema, ledger.table.encode()[:_STEM_BYTES].decode("utf-8", "ignore") + _SUFFIX)


def statement_digest(text: str) -> bytes:
    """What tells a finished statement from one that was edited since: SHA-256 of its text."""
    return hashlib.sha256(text.encode()).digest()


class History:
    """The side table of one database.

    :param release: digest of the release that this run brings.
    :param controller: the machine and user that the run was started from.
    """

    def __init__(self, session: Session, ledger: Ledger, release: str, controller: str) -> None:
        self._session = session
        self._release = release
        self._controller = controller
        self.table = table_for(ledger.name)

    def create(self) -> None:
        """Make the table where it is not there yet."""
        self._session.run(
            "begin; create table if not exists {0} (at timestamptz not null default clock_timestamp(),"
            " version bigint not null, action text not null, outcome text not null, position integer, digest bytea,"
            " actor text not null default session_user, controller text not null, release text not null,"
            " duration_ns bigint, detail text);"
            " comment on table {0} is 'what was done to this database by migrations, when and by whom'; {1} commit".format(
                self.table.sql, revoke_writes(self.table)
            )
        )

    @property
    def exists(self) -> bool:
        return self._session.value("select to_regclass({0}) is not null".format(literal(self.table.sql))) is True

    def record(
        self,
        version: int,
        action: str,
        outcome: str,
        duration: t.Optional[int] = None,
        position: t.Optional[int] = None,
        digest: t.Optional[bytes] = None,
        detail: str = "",
    ) -> str:
        """The statement that adds an entry."""
        return (
            "insert into {0} (version, action, outcome, position, digest, controller, release, duration_ns, detail)"
            " values ({1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9});".format(
                self.table.sql,
                version,
                literal(action),
                literal(outcome),
                "null" if position is None else position,
                "null" if digest is None else bytea(digest),
                literal(self._controller),
                literal(self._release),
                "null" if duration is None else duration,
                literal(detail) if detail else "null",
            )
        )

    def told(self) -> t.Set[Entry]:
        """What runs like this one, of the same release and from the same controller, have recorded as done.

        Durations tell them apart.
        """
        return {
            Entry(*row)
            for row in self._session.rows(
                "select version, action, outcome, duration_ns from {0} where outcome = {1} and controller = {2} and release = {3}".format(
                    self.table.sql, literal(DONE), literal(self._controller), literal(self._release)
                )
            )
        }

    def begun(self, versions: t.Iterable[int]) -> t.Dict[int, str]:
        """The action that was begun last on each of these versions."""
        wanted = ", ".join(str(version) for version in versions)
        return dict(
            self._session.rows(
                "select distinct on (version) version, action from {0} where outcome = {1} and action in ({2})"
                " and version in ({3}) order by version, at desc".format(self.table.sql, literal(BEGUN), _SCRIPTS, wanted or "null")
            )
        )

    def failed(self, version: int) -> bool:
        """Whether the last that is known of a version is an error, and not that a run was cut off."""
        outcomes = self._session.rows(
            "select outcome from {0} where version = {1} and action in ({2}, {3}) order by at desc limit 1".format(
                self.table.sql, version, _SCRIPTS, literal(STATEMENT)
            )
        )
        return outcomes == [(FAILED,)]

    def finished_statements(self, version: int) -> t.List[bytes]:
        """Digests of the statements that ran since the version's file was begun, in their order."""
        return [
            bytes(digest)
            for (digest,) in self._session.rows(
                "select digest from {0} where version = {1} and action = {2} and outcome = {3} and at > (select max(at)"
                " from {0} where version = {1} and outcome = {4} and action in ({5})) order by position".format(
                    self.table.sql, version, literal(STATEMENT), literal(DONE), literal(BEGUN), _SCRIPTS
                )
            )
        ]


def read_rows(session: Session, ledger: Ledger) -> t.List[records.Row]:
    """The ledger's rows; of unfinished ones, the side table tells which way they went."""
    if not ledger.exists:
        return []
    rows = ledger.rows()
    dirty = [row.version for row in rows if not row.success]
    if not dirty:
        return rows
    history = History(session, ledger, "", "")
    begun = history.begun(dirty) if history.exists else {}
    return [row._replace(reverting=begun.get(row.version) == records.REVERT) for row in rows]
