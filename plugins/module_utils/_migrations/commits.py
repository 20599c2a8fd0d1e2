# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits: each closes a step and opens the next in one message, and only the last of a run waits for the disk.

What became of a commit that got no answer, and of commits that a crash has forgotten, the side table tells.
"""

from __future__ import annotations

import time
import typing as t

from . import plan
from .errors import ConnectionFailed, LockError
from .history import Entry, entry
from .lock import AdvisoryLock
from .sender import Sender
from .session import ServerError, Session
from .source import Script

# The last commit of a run waits for the disk, and for standbys: it cannot be there without all that went before it.
# A server that crashes meanwhile forgets the last migrations together with their rows in the ledger.
_SOON = "set local synchronous_commit = off;commit;"
_FLUSH = "select pg_logical_emit_message(true, 'schema_registry', '')"

# Seconds in which a server that restarts must be back to be asked how a commit ended.
_RECONNECT = 15.0

_LOST = "The connection was lost during a commit, and how it ended cannot be seen. "
_UNKNOWN = "Whether the last migration was committed is not known. Run again later: the ledger decides, and nothing runs twice."

Answer = t.TypeVar("Answer")


class Closing(t.NamedTuple):
    """A step whose closing message is not yet sent."""

    script: Script
    statements: str
    done: plan.Done


class CommitFailed(Exception):
    """A step was not committed.

    :param error: what the server said.
    """

    def __init__(self, step: Closing, error: Exception) -> None:
        super().__init__(str(error))
        self.step = step
        self.error = error


class Commits:
    """The commits of one run.

    :param together: whether all steps are one transaction.
    :param recorded: reads the run's entries in the side table, over any session.
    :param lock_timeout: seconds that the advisory lock is waited for, where a connection was lost.
    """

    def __init__(self, sender: Sender, together: bool, recorded: t.Callable[[Session], t.Set[Entry]], lock_timeout: float) -> None:
        self._sender = sender
        self._together = together
        self._recorded = recorded
        self._lock_timeout = lock_timeout
        self._unflushed = False
        self.open: t.Optional[Closing] = None
        """The step that the next message closes."""
        self.done: t.List[plan.Done] = []
        """The steps that are committed."""

    def begin(self, opening: str) -> None:
        """Close the open step, and send the opening of the next in the same message.

        On an error the side table decides whether it was the closing or the opening that failed.

        :raises CommitFailed: if it was the closing.
        :raises ServerError: if it was the opening, or only the answer was lost.
        """
        step, self.open = self.open, None
        goes_on = bool(step and opening)
        message = opening
        if step:
            commit = "" if self._together and goes_on else _SOON if goes_on else "commit;"
            message = step.statements + commit + opening
        if not message:
            return
        soon = goes_on and not self._together
        self._unflushed = self._unflushed or soon
        try:
            self._sender.send(message)
        except ServerError as error:
            if step is None or (self._together and goes_on):
                raise
            if not self._is_committed(step):
                raise CommitFailed(step, error) from error
            self.done.append(step.done)
            raise
        if step:
            self.done.append(step.done)
            self._unflushed = soon

    def settle(self) -> None:
        """Wait for the disk before anything is reported; after a crash, what is not there was not done.

        :raises ConnectionFailed: if the server is not back in time to tell.
        """
        if not self._unflushed:
            return
        self._unflushed = False
        session = self._sender.session
        if not session.lost:
            try:
                session.rollback()
                session.run(_FLUSH)
                return
            except ServerError:
                # The server may crash for the same reason, so what it says now does not count.
                session.close()

        def ask(session: Session) -> t.Set[Entry]:
            session.run(_FLUSH)
            return self._recorded(session)

        recorded = self._ask_again(ask)
        self.done = [done for done in self.done if entry(done) in recorded]

    def _is_committed(self, step: Closing) -> bool:
        session = self._sender.session
        if not session.lost:
            try:
                session.rollback()
                return entry(step.done) in self._recorded(session)
            except ServerError:
                # As good as lost; and it must not keep the lock.
                session.close()

        def ask(session: Session) -> bool:
            # The old backend may be about to commit still; its lock comes free when it is gone.
            AdvisoryLock(session).acquire(self._lock_timeout)
            return entry(step.done) in self._recorded(session)

        try:
            return self._ask_again(ask)
        except LockError as error:
            raise ConnectionFailed(_LOST + error.message, error.failed, _UNKNOWN) from error

    def _ask_again(self, ask: t.Callable[[Session], Answer]) -> Answer:
        """Ask over a new connection, as often as it takes.

        :raises ConnectionFailed: if the server is not back in time.
        """
        deadline = time.monotonic() + _RECONNECT
        while True:
            try:
                with self.reconnect() as session:
                    return ask(session)
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise ConnectionFailed(_LOST + str(error), recovery=_UNKNOWN) from error

    def reconnect(self) -> Session:
        """A new connection to a server that may be restarting.

        :raises ConnectionFailed: if it is not back in time; how the commit ended is not known then.
        """
        deadline = time.monotonic() + _RECONNECT
        while True:
            try:
                return Session(self._sender.session.target)
            except ConnectionFailed as error:
                if time.monotonic() > deadline:
                    raise ConnectionFailed(_LOST + error.message, recovery=_UNKNOWN) from error
            time.sleep(0.5)
