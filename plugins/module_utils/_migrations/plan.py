# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done: from files, ledger and a wanted version to an ordered list of steps, or to a refusal.

Pure: no file, no database. The order of the checks is that of ``sqlx migrate run`` and ``revert``
(``sqlx-cli/src/migrate.rs``), except that everything is checked before the first step.
"""

from __future__ import annotations

import typing as t

from .errors import PlanError
from .records import APPLY, BASELINE, DEFAULTS, REPAIR, REVERT, Done, File, Policy, Row, Step

__all__ = [
    "APPLY",
    "BASELINE",
    "DEFAULTS",
    "REPAIR",
    "REVERT",
    "Done",
    "Explain",
    "File",
    "Plan",
    "Policy",
    "Row",
    "Step",
    "current_version",
    "make",
    "may_revert",
    "states",
    "unexplained",
]

# States of a version, as `sqlx migrate info` words them, and those that it does not tell apart.
INSTALLED = "installed"
PENDING = "pending"
DIFFERENT = "installed (different checksum)"
MISSING = "missing"
DIRTY = "dirty"


class Plan(t.NamedTuple):
    """Steps in the order in which they are to be taken; none where the database stands where it shall."""

    steps: t.Tuple[Step, ...]
    warnings: t.Tuple[str, ...] = ()

    def versions(self, *actions: str) -> t.List[int]:
        return [step.version for step in self.steps if step.action in actions]


Explain = t.Callable[[int, bytes], str]
"""Says, if it can, how the file of a version differs from the recorded checksum."""


def unexplained(version: int, recorded: bytes) -> str:
    """The explanation of those who do not have the files."""
    return ""


def current_version(rows: t.Iterable[Row]) -> int:
    """The highest version that is applied; 0 where none is, as sqlx words it."""
    return max((row.version for row in rows), default=0)


def written_down(rows: t.Iterable[Row], planned: Plan, files: t.Mapping[int, File]) -> t.List[Row]:
    """The ledger once everything is done that is only rows of ours, before the first script runs."""
    ledger = {row.version: row for row in rows}
    for step in planned.steps:
        if step.action == BASELINE:
            ledger[step.version] = Row(step.version, files[step.version].checksum)
        elif step.action == REPAIR:
            row = ledger.pop(step.version)
            if row.success:
                ledger[step.version] = row._replace(checksum=files[step.version].checksum)
    return [ledger[version] for version in sorted(ledger)]


def make(
    files: t.Sequence[File],
    only_down: t.AbstractSet[int],
    rows: t.Sequence[Row],
    target: t.Optional[int],
    policy: Policy = DEFAULTS,
    explain: Explain = unexplained,
) -> Plan:
    """Plan the way from where the ledger stands to the target.

    :param files: the migrations of the release.
    :param only_down: versions of which only a down file exists.
    :param rows: the ledger.
    :param target: the version at which the database shall stand; None: the newest; 0: nothing above 0 applied.
    :param policy: what is allowed on the way.
    :param explain: adds to the refusal of a changed file what kind of change it is.
    :raises PlanError: where there is no allowed way; nothing must be done then.
    """
    by_version = {file.version: file for file in files}
    ledger = {row.version: row for row in rows}
    _check_versions_exist(by_version, only_down, ledger, target, policy)

    steps: t.List[Step] = []
    warnings: t.List[str] = []
    _repair(by_version, ledger, policy, steps)
    _check_missing(by_version, only_down, ledger, policy, warnings)
    _check_checksums(by_version, ledger, explain)
    _baseline(by_version, ledger, target, policy, steps)
    _continue_interrupted(by_version, ledger, target, policy, steps)

    # To undo nothing is not to migrate.
    if policy.undo is not None:
        undone = sorted(policy.undo.intersection(ledger), reverse=True)
        _check_reversible(by_version, undone, "To be taken back")
        steps.extend(Step(REVERT, version) for version in undone)
        _check_one_transaction(by_version, steps, policy)
        return Plan(tuple(steps), tuple(warnings))

    backward = [] if target is None else [version for version in sorted(ledger, reverse=True) if version > target]
    _check_way_back(by_version, backward, target, policy)
    steps.extend(Step(REVERT, version) for version in backward)

    applied = [version for version in ledger if target is None or version <= target]
    forward = [v for v in sorted(by_version) if v not in ledger and (target is None or v <= target)]
    if target == 0:
        # A release may have a version 0.
        forward = [version for version in forward if version == 0]
    _check_order(forward, max(applied, default=None), policy, warnings)
    steps.extend(Step(APPLY, version) for version in forward)

    _check_one_transaction(by_version, steps, policy)
    return Plan(tuple(steps), tuple(warnings))


def may_revert(rows: t.Iterable[Row], target: t.Optional[int], policy: Policy) -> t.Set[int]:
    """The versions whose down scripts a plan may want."""
    undo = policy.undo or frozenset()
    return {row.version for row in rows if row.reverting or row.version in undo or (target is not None and row.version > target)}


def states(files: t.Sequence[File], only_down: t.AbstractSet[int], rows: t.Sequence[Row]) -> t.Dict[int, str]:
    """The state of every version that is in the files or in the ledger, in order of version."""
    by_version = {file.version: file for file in files}
    ledger = {row.version: row for row in rows}

    def state(version: int) -> str:
        row, file = ledger.get(version), by_version.get(version)
        if row is None:
            return PENDING
        if not row.success:
            return DIRTY
        if file is None:
            return INSTALLED if version in only_down else MISSING
        return INSTALLED if file.checksum == row.checksum else DIFFERENT

    return {version: state(version) for version in sorted(set(by_version) | set(ledger))}


def _list(versions: t.Iterable[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))


def _check_versions_exist(
    by_version: t.Mapping[int, File],
    only_down: t.AbstractSet[int],
    ledger: t.Mapping[int, Row],
    target: t.Optional[int],
    policy: Policy,
) -> None:
    known = set(by_version) | set(only_down)
    if target is not None and target != 0 and target not in known:
        raise PlanError("Version {0} is not among the migration files ({1}).".format(target, _span(by_version)))
    if policy.baseline is not None and policy.baseline not in by_version:
        raise PlanError("The baseline {0} is not among the migration files ({1}).".format(policy.baseline, _span(by_version)))
    unknown = policy.repair.difference(known, ledger)
    if unknown:
        raise PlanError("To be repaired, but neither among the files nor in the ledger: {0}.".format(_list(unknown)))


def _span(versions: t.Collection[int]) -> str:
    return "{0} to {1}, {2} in all".format(min(versions), max(versions), len(versions)) if versions else "there are none"


def _repair(
    by_version: t.Mapping[int, File], ledger: t.Dict[int, Row], policy: Policy, steps: t.List[Step]
) -> None:
    """Replace recorded checksums; a dirty row is taken out, so that its file runs again from its first statement."""
    for version in sorted(policy.repair):
        row, file = ledger.get(version), by_version.get(version)
        if row is None or file is None:
            continue
        if not row.success:
            steps.append(Step(REPAIR, version))
            del ledger[version]
        elif row.checksum != file.checksum:
            steps.append(Step(REPAIR, version))
            ledger[version] = row._replace(checksum=file.checksum)


def _check_missing(
    by_version: t.Mapping[int, File],
    only_down: t.AbstractSet[int],
    ledger: t.Mapping[int, Row],
    policy: Policy,
    warnings: t.List[str],
) -> None:
    missing = set(ledger).difference(by_version, only_down)
    if not missing:
        return
    if policy.missing == "fail":
        raise PlanError(
            "Applied to this database, but missing among the migration files: {0}.".format(_list(missing)),
            {"missing": sorted(missing)},
            "Nothing was changed. Is this an older release than the database's? Bring the files back, or set missing=ignore.",
        )
    warnings.append("Applied, but missing among the migration files: {0}.".format(_list(missing)))


def _check_checksums(
    by_version: t.Mapping[int, File], ledger: t.Mapping[int, Row], explain: Explain
) -> None:
    changed = []
    for version, row in sorted(ledger.items()):
        file = by_version.get(version)
        # A file that was interrupted may be corrected: _continue_interrupted judges whether it can be resumed, and the
        # executor whether what ran of it is still its beginning.
        if file is None or file.checksum == row.checksum or not row.success:
            continue
        hint = explain(version, row.checksum)
        changed.append(
            "{0} ({1}): recorded {2}, file {3}{4}".format(
                version, file.description, row.checksum.hex() or "nothing", file.checksum.hex(), "; " + hint if hint else ""
            )
        )
    if changed:
        raise PlanError(
            "Changed since they were applied to this database:\n  " + "\n  ".join(changed),
            {"modified": changed},
            "Nothing was changed. Restore the files as they were and put the change into a new migration; "
            "where the change does not matter (a comment), name the versions in repair.",
        )


def _baseline(
    by_version: t.Mapping[int, File],
    ledger: t.Dict[int, Row],
    target: t.Optional[int],
    policy: Policy,
    steps: t.List[Step],
) -> None:
    if policy.baseline is None:
        return
    if target is not None and target < policy.baseline:
        raise PlanError("The version {0} is below the baseline {1}.".format(target, policy.baseline))
    covered = [version for version in sorted(by_version) if version <= policy.baseline]
    if ledger:
        lacking = [version for version in covered if version not in ledger]
        if lacking:
            raise PlanError(
                "A baseline goes into an empty ledger only: this one has rows, but not {0}.".format(_list(lacking))
            )
        return
    for version in covered:
        steps.append(Step(BASELINE, version))
        ledger[version] = Row(version, by_version[version].checksum)


def _continue_interrupted(
    by_version: t.Mapping[int, File], ledger: t.Dict[int, Row], target: t.Optional[int], policy: Policy, steps: t.List[Step]
) -> None:
    for version in sorted(ledger):
        row, file = ledger[version], by_version.get(version)
        if row.success:
            continue
        outside = file is not None and (file.down_no_transaction if row.reverting else file.no_transaction)
        if not outside:
            raise PlanError(
                "Version {0} is recorded as begun but not finished (success = false), and its file cannot be resumed.".format(version),
                {"dirty": version},
                "Nothing was changed. Find out what of the migration is in the database and undo it by hand, "
                "then name the version in repair, with its file at hand: its row is removed and the file runs again.",
            )
        if not row.reverting and (policy.undo is not None or (target is not None and version > target)):
            raise PlanError(
                "Version {0} was interrupted on its way up; it must be finished before it can be reverted.".format(version),
                {"dirty": version},
                "Nothing was changed. Run again with version={0} first.".format(version),
            )
        if row.reverting:
            steps.append(Step(REVERT, version, resume=True))
            del ledger[version]
        else:
            steps.append(Step(APPLY, version, resume=True))
            ledger[version] = row._replace(success=True)


def _check_way_back(
    by_version: t.Mapping[int, File], backward: t.Sequence[int], target: t.Optional[int], policy: Policy
) -> None:
    if not backward:
        return
    if not policy.allow_revert:
        raise PlanError(
            "The database stands at {0}; going back to {1} would revert {2}, which needs allow_revert.".format(
                backward[0], target, _list(backward)
            ),
            {"would_revert": list(backward)},
        )
    _check_reversible(by_version, backward, "No way back to {0}".format(target))


def _check_reversible(by_version: t.Mapping[int, File], backward: t.Sequence[int], what: str) -> None:
    stuck = [version for version in backward if version not in by_version or not by_version[version].reversible]
    if stuck:
        raise PlanError(
            "{0}: a down script, or the up script beside it, is not there for {1}.".format(what, _list(stuck)),
            {"irreversible": sorted(stuck)},
            "Nothing was changed. Add these scripts, or choose version {0} or later.".format(max(stuck)),
        )


def _check_order(
    forward: t.Sequence[int], newest: t.Optional[int], policy: Policy, warnings: t.List[str]
) -> None:
    late = [] if newest is None else [version for version in forward if version < newest]
    if not late:
        return
    message = "Below the newest applied version {0}, but not yet applied: {1}.".format(newest, _list(late))
    if policy.out_of_order == "fail":
        raise PlanError(message, {"out_of_order": late}, "Nothing was changed. Give them later versions, or set out_of_order=warn.")
    warnings.append(message)


def _check_one_transaction(by_version: t.Mapping[int, File], steps: t.Sequence[Step], policy: Policy) -> None:
    if policy.transaction != "all":
        return
    outside = [
        step.version
        for step in steps
        if step.action in (APPLY, REVERT)
        and (by_version[step.version].no_transaction if step.action == APPLY else by_version[step.version].down_no_transaction)
    ]
    if outside:
        raise PlanError("transaction=all cannot hold what is marked -- no-transaction: {0}.".format(_list(outside)))
