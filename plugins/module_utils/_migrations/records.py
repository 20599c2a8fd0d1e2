# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the parts of the engine tell each other: files, rows of the ledger, steps, targets. Apart from the plan, for who only looks."""

from __future__ import annotations

import typing as t

APPLY = "apply"
REVERT = "revert"
BASELINE = "baseline"
REPAIR = "repair"


class File(t.NamedTuple):
    """What the plan needs to know of a migration's files."""

    version: int
    description: str
    checksum: bytes
    reversible: bool = True
    no_transaction: bool = False
    down_no_transaction: bool = False


class Row(t.NamedTuple):
    """A row of the ledger."""

    version: int
    checksum: bytes
    success: bool = True
    description: str = ""
    reverting: bool = False
    """Of a row without success: whether a revert was interrupted, not an apply."""


class Policy(t.NamedTuple):
    """What the caller allows. The fields are the module's parameters of the same names."""

    allow_revert: bool = False
    out_of_order: str = "warn"
    missing: str = "fail"
    repair: t.FrozenSet[int] = frozenset()
    baseline: t.Optional[int] = None
    transaction: str = "each"
    undo: t.Optional[t.FrozenSet[int]] = None


DEFAULTS = Policy()


class Step(t.NamedTuple):
    """One thing to do to one version."""

    action: str
    version: int
    resume: bool = False
    """Whether an interrupted file outside a transaction is to be continued."""


class Done(t.NamedTuple):
    """One step that was taken."""

    step: Step
    description: str
    checksum: bytes
    seconds: float
    notices: t.Tuple[str, ...] = ()


class Target(t.NamedTuple):
    """Where and as whom to connect."""

    database: str
    parameters: t.Mapping[str, t.Any]
    """Further libpq parameters: host, port, user, password, sslmode, ..."""
    session_role: t.Optional[str] = None
    application: str = "schema_registry.postgresql"
    lock_timeout: float = 2.0
    """Seconds; 0 waits for ever."""
    statement_timeout: float = 0.0
    """Seconds; 0: no limit."""

    def __str__(self) -> str:
        host = self.parameters.get("host") or "the local socket"
        return "database {0} on {1}, port {2}".format(self.database, host, self.parameters.get("port") or 5432)
