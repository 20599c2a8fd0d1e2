# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages to the server that are watched while they wait, and transactions that are tried again."""

from __future__ import annotations

import random
import time
import typing as t

from .lock import Holder
from .session import ServerError, Session
from .watch import Watch

# SQLSTATEs after which the same transaction may well pass: lock_not_available, deadlock_detected, serialization_failure.
DEADLOCK = "40P01"
TRANSIENT = ("55P03", DEADLOCK, "40001")

# Seconds between two tries, growing, with jitter so that two runs do not meet again and again.
_PAUSE_MIN, _PAUSE_MAX = 0.5, 5.0

Result = t.TypeVar("Result")


def pause(tried: int) -> None:
    """Wait before the next try.

    :param tried: how many there were, from 1.
    """
    time.sleep(min(_PAUSE_MIN * 2 ** (tried - 1), _PAUSE_MAX) * random.uniform(0.5, 1.0))


class Sender:
    """What sends, for one session.

    :param retries: how often a transaction is tried again that did not get its locks.
    """

    def __init__(self, session: Session, retries: int) -> None:
        self.session = session
        self.retries = retries
        self._watch = Watch(session.target, session.connection.info.backend_pid)

    def send(self, sql: t.Union[str, bytes]) -> None:
        """Send one message.

        :raises ServerError: as the server reports it.
        """
        self._watch.begin()
        try:
            self.session.run(sql)
        finally:
            self._watch.end()

    def in_turn(self, *messages: str) -> None:
        for message in messages:
            self.send(message)

    def patiently(self, attempt: t.Callable[[], Result], transient: t.Sequence[str] = TRANSIENT) -> Result:
        """Try a transaction until it gets its locks, a bounded number of times.

        :param transient: the SQLSTATEs after which another try makes sense.
        :raises ServerError: of the last try.
        """
        tried = 0
        while True:
            tried += 1
            try:
                return attempt()
            except ServerError as error:
                if error.pgcode not in transient or tried > self.retries:
                    raise
                self.session.rollback()
            pause(tried)

    @property
    def blockers(self) -> t.List[Holder]:
        """Sessions that the last message waited for."""
        return self._watch.blockers

    def close(self) -> None:
        """Stop watching; the session stays open."""
        self._watch.close()
