# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run would do, on the host that has the files."""

from __future__ import annotations

import typing as t

from . import picture, plan, scripts
from .look import look
from .picture import Data
from .release import Release
from .session import Target


def predict(
    target: t.Optional[Target],
    ledger_table: str,
    release: Release,
    wanted: t.Optional[int],
    policy: plan.Policy,
    explain: plan.Explain = plan.unexplained,
    allow_transaction_control: bool = False,
) -> Data:
    """What ``engine.migrate`` would do; nothing is written.

    :param target: None for a database that is not there yet.
    :raises MigrationError: as migrate would, before it touched anything.
    """
    seen: Data = look(target, ledger_table, True, True) if target else {"rows": [], "fingerprint": None}
    rows = picture.rows_of(seen, release.files) or []
    planned = plan.make(release.files, release.only_down, rows, wanted, policy, explain)
    scripts.check(release, planned, allow_transaction_control)
    return picture.predicted(release, rows, planned, seen["fingerprint"])
