# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs that change a database, and what they answer, as plain data: what the module migration calls."""

from __future__ import annotations

import typing as t

from . import checksum, picture, plan, rehearsal
from .errors import MigrationError
from .executor import DEFAULTS, Executor, Options
from .picture import Data
from .records import Target
from .release import Release
from .session import Session


def migrate(
    target: Target,
    release: Release,
    wanted: t.Optional[int],
    policy: plan.Policy = plan.DEFAULTS,
    options: Options = DEFAULTS,
    explain: plan.Explain = plan.unexplained,
) -> Data:
    """Bring a database to a version.

    :raises MigrationError: with ``partial`` in its details: the same answer for what was committed before the failure.
    """
    session = Session(target)
    try:
        executor = Executor(session, release, wanted, policy, options, explain)
        try:
            outcome = executor.run()
        except MigrationError as error:
            error.failed["partial"] = picture.after(release, executor.rows, executor.done, None, None)
            raise
        session = executor.session
        answer = picture.after(release, outcome.before, outcome.done, outcome.fingerprint_before, outcome.fingerprint)
        answer.update(waited_for=round(outcome.waited, 3), warnings=list(outcome.planned.warnings), messages=session.messages)
        return answer
    finally:
        session.close()


def rehearse(
    target: Target,
    release: Release,
    wanted: t.Optional[int],
    policy: plan.Policy = plan.DEFAULTS,
    options: Options = DEFAULTS,
    explain: plan.Explain = plan.unexplained,
) -> t.List[Data]:
    """Run for real what ``migrate`` would run, and roll it back.

    :returns: for each migration what its statements did, or why it was not rehearsed.
    :raises MigrationError: as migrate would.
    """

    def way_back(step: plan.Step) -> str:
        return checksum.way_back(release.migrations[step.version].script(True).content) if step.action == plan.REVERT else ""

    with Session(target) as session:
        executor = Executor(session, release, wanted, policy, options, explain)
        return [
            {
                "version": each.step.version,
                "description": each.description,
                "action": each.step.action,
                "not_rehearsed": each.not_rehearsed,
                "duration": round(sum(observed.seconds for observed in each.observed), 6),
                "statements": rehearsal.told(each.observed),
                "way_back": way_back(each.step),
                "lost": [{"what": lost.what, "rows": lost.rows} for lost in each.lost],
            }
            for each in executor.rehearse()
        ]
