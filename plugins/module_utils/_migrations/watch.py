# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the database from beside: who blocks the statement that is running.

A session that waits for a lock cannot ask anything, so a second connection asks for it, and only once it waits.
"""

from __future__ import annotations

import threading
import time
import typing as t

from .errors import ConnectionFailed
from .lock import HOLDER_COLUMNS, Holder
from .records import Target
from .session import ServerError, Session

# Seconds: nobody is asked about a statement that is done sooner, and a longer one is asked about as often. Where waits
# end sooner than that, so does the patience.
_PATIENCE, _PATIENCE_MIN = 0.5, 0.05


class Watch:
    """Remembers who blocked one backend's current message.

    :param target: how to connect a second time.
    :param backend_pid: the process watched.
    """

    def __init__(self, target: Target, backend_pid: int) -> None:
        self._target = target._replace(application=target.application + " (watch)", session_role=None)
        self._pid = backend_pid
        self._patience = max(_PATIENCE_MIN, min(_PATIENCE, target.lock_timeout / 4)) if target.lock_timeout else _PATIENCE
        self._since: t.Optional[float] = None
        self._seen: t.Dict[int, Holder] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A message is about to be sent."""
        self._seen = {}
        self._since = time.monotonic()

    def end(self) -> None:
        """Its answer is here."""
        self._since = None

    @property
    def blockers(self) -> t.List[Holder]:
        """Sessions that the last message waited for."""
        return list(self._seen.values())

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        session: t.Optional[Session] = None
        while not self._ended.wait(self._patience):
            since = self._since
            if since is None or time.monotonic() - since < self._patience:
                continue
            try:
                session = session or Session(self._target)
                found = session.rows(
                    "select {0} from pg_stat_activity a where a.pid = any(pg_blocking_pids({1}))".format(HOLDER_COLUMNS, self._pid)
                )
            except (ConnectionFailed, ServerError):
                # Without a second connection the wait is bounded all the same; only the blocker's name is missing.
                session = None
                continue
            if self._since == since:
                self._seen.update((row[0], Holder(*row)) for row in found)
        if session:
            session.close()
