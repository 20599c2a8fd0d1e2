# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run would do: from what was seen of a database, wherever the files are. Pure."""

from __future__ import annotations

import typing as t

from . import checksum, picture, plan, scripts
from .errors import ExecutionError
from .picture import Data
from .release import Release


class Foreseen(t.NamedTuple):
    """What is to be done, and what would be answered."""

    planned: plan.Plan
    unproven: t.Tuple[int, ...]
    """Versions that are applied, and whose proof of the way back was cut off."""
    answer: Data

    @property
    def is_due(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.planned.steps or self.unproven)


# Of a database that is not there yet.
NOTHING: Data = {"rows": [], "fingerprint": None}


def foresee(
    release: Release,
    seen: Data,
    rows: t.Sequence[plan.Row],
    wanted: t.Optional[int],
    policy: plan.Policy = plan.DEFAULTS,
    explain: plan.Explain = plan.unexplained,
    allow_transaction_control: bool = False,
    known_fingerprints: t.Optional[t.Mapping[str, str]] = None,
) -> Foreseen:
    """Foresee what ``engine.migrate`` would do.

    :param seen: by ``look``, or NOTHING.
    :param rows: the ledger's.
    :param known_fingerprints: the schema elsewhere, by installed release.
    :raises MigrationError: as migrate would, before it touched anything.
    """
    planned = plan.make(release.files, release.only_down, rows, wanted, policy, explain)
    scripts.check(release, planned, allow_transaction_control)
    installed = checksum.installed(rows)
    _compare((known_fingerprints or {}).get(installed), seen["fingerprint"])
    answer = picture.predicted(release, rows, planned, seen["fingerprint"])
    answer.update(installed_release=installed, server_version=seen.get("server_version"))
    if "known" in seen:
        answer.update(picture.proof(seen["known"], installed))
    return Foreseen(planned, tuple(seen.get("unfinished", ())), answer)


def _compare(expected: t.Optional[str], found: t.Optional[str]) -> None:
    """:raises ExecutionError: where the schema is not what it is elsewhere at the release that is installed."""
    if expected not in (None, found):
        raise ExecutionError(
            "The schema has drifted: at the release that is installed here, staging has the fingerprint {0}, and here it is {1}.".format(
                expected, found
            ),
            {"fingerprint": found, "expected_fingerprint": expected},
            "Nothing was changed. Something was changed by hand, here or there: undo it, or put it into a migration.",
        )
