# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, as exceptions that carry what a person needs to act."""

from __future__ import annotations

import typing as t


class MigrationError(Exception):
    """Base of everything that the engine raises on purpose.

    :param message: what happened, where, the state of the database, and what to do next.
    :param failed: structured details of the same (file, line, statement, sqlstate, ...), for programs.
    :param recovery: what to do next, and whether the same run may simply be started again.
    """

    def __init__(
        self,
        message: str,
        failed: t.Optional[t.Dict[str, t.Any]] = None,
        recovery: str = "Nothing was changed. Correct what is named above and run again.",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.failed: t.Dict[str, t.Any] = failed or {}
        self.recovery = recovery

    @property
    def text(self) -> str:
        """What a person reads: the message, and below it what to do."""
        return self.message + "\n" + self.recovery


class SourceError(MigrationError):
    """The migration files are not a usable release: nothing was connected to."""


class PlanError(MigrationError):
    """The files, the ledger and the wanted version do not fit together: nothing was changed."""


class LedgerError(MigrationError):
    """The table at the ledger's name is not one that sqlx could have made."""


class ConnectionFailed(MigrationError):
    """No usable session: the server is away, refuses the login, is a standby, or was reached through a pooler."""


class LockError(MigrationError):
    """The advisory lock did not come within its bound."""


class ExecutionError(MigrationError):
    """A statement failed. The message says what of the run is in the database and what is not."""
