"""A plan either reaches the wanted version or is refused with a reason: by example, and for any files, ledger and wish."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Set, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import plan
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import PlanError
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.plan import (
    APPLY,
    BASELINE,
    REPAIR,
    REVERT,
    File,
    Policy,
    Row,
    Step,
)
from hypothesis import assume, given
from hypothesis import strategies as st

BACK = Policy(allow_revert=True)


def digest(version: int) -> bytes:
    return b"checksum of %d" % version


def files(*versions: int) -> List[File]:
    return [File(version, f"file {version}", digest(version)) for version in versions]


def rows(*versions: int) -> List[Row]:
    return [Row(version, digest(version)) for version in versions]


def steps(*given: Tuple[str, int]) -> Tuple[Step, ...]:
    return tuple(Step(*each) for each in given)


def refusal(*arguments: object, **options: object) -> PlanError:
    with pytest.raises(PlanError) as error:
        plan.make(*arguments, **options)  # type: ignore[arg-type]
    return error.value


# Forward and back


@pytest.mark.parametrize(
    ("applied", "target", "expected"),
    [
        ((), None, [(APPLY, -1), (APPLY, 2), (APPLY, 10)]),
        ((-1,), None, [(APPLY, 2), (APPLY, 10)]),
        ((-1, 2, 10), None, []),
        ((), 2, [(APPLY, -1), (APPLY, 2)]),
        ((-1, 2), 2, []),
        ((-1, 2, 10), 2, [(REVERT, 10)]),
        ((-1, 2, 10), -1, [(REVERT, 10), (REVERT, 2)]),
        ((-1, 2, 10), 0, [(REVERT, 10), (REVERT, 2)]),
        ((), 0, []),
        ((10,), 2, [(REVERT, 10), (APPLY, -1), (APPLY, 2)]),
    ],
)
def test_the_way_leads_down_from_the_newest_then_up_from_the_oldest(
    applied: Sequence[int], target: Optional[int], expected: List[Tuple[str, int]]
) -> None:
    # Whatever order files and rows come in.
    made = plan.make(files(10, -1, 2), frozenset(), rows(*applied)[::-1], target, BACK)
    assert made == plan.Plan(steps(*expected))


def test_a_plan_lists_the_versions_of_its_actions() -> None:
    made = plan.make(files(1, 2, 3), frozenset(), rows(3), 2, BACK)
    assert (made.versions(APPLY), made.versions(REVERT), made.versions(APPLY, REVERT)) == ([1, 2], [3], [3, 1, 2])


def test_going_back_must_be_allowed() -> None:
    error = refusal(files(1, 2, 3), frozenset(), rows(1, 2, 3), 1)
    assert "stands at 3; going back to 1 would revert 2, 3, which needs allow_revert" in error.message
    assert error.failed == {"would_revert": [3, 2]}


@pytest.mark.parametrize(
    ("available", "only_down"),
    [
        ([*files(1, 2), File(3, "", digest(3), reversible=False)], frozenset()),
        (files(1, 2), frozenset({3})),
        (files(1, 2), frozenset()),
    ],
    ids=["no down script", "only a down script", "no file at all"],
)
def test_there_must_be_a_way_back(available: List[File], only_down: Set[int]) -> None:
    error = refusal(available, only_down, rows(1, 2, 3), 1, Policy(allow_revert=True, missing="ignore"))
    assert "No way back to 1" in error.message
    assert error.failed == {"irreversible": [3]}
    assert "version 3 or later" in error.recovery


def test_every_version_without_a_way_back_is_named() -> None:
    available = [file._replace(reversible=file.version == 2) for file in files(1, 2, 3, 4)]
    assert refusal(available, frozenset(), rows(1, 2, 3, 4), 1, BACK).failed == {"irreversible": [3, 4]}


def test_what_is_below_the_target_needs_no_way_back() -> None:
    available = [File(1, "", digest(1), reversible=False), *files(2)]
    assert plan.make(available, frozenset(), rows(1, 2), 1, BACK).steps == steps((REVERT, 2))


# What is wanted must be there


@pytest.mark.parametrize("target", [4, -1])
def test_an_unknown_version_is_refused(target: int) -> None:
    assert f"Version {target} is not among the migration files (1 to 3, 2 in all)" in refusal(files(1, 3), frozenset(), [], target).message


def test_an_unknown_version_is_refused_where_there_are_no_files() -> None:
    assert "(there are none)" in refusal([], frozenset(), [], 4).message


def test_a_version_of_which_only_a_down_file_is_there_can_be_wanted() -> None:
    assert plan.make(files(1, 3), frozenset({2}), [], 2).steps == steps((APPLY, 1))


# The ledger must fit the files


def test_applied_versions_must_have_files() -> None:
    error = refusal(files(2), frozenset({3}), rows(8, 1, 2, 3), None)
    assert "missing among the migration files: 1, 8." in error.message
    assert error.failed == {"missing": [1, 8]}


def test_missing_files_can_be_ignored_aloud() -> None:
    made = plan.make(files(2, 5), frozenset(), rows(1, 2, 4), None, Policy(missing="ignore"))
    assert made == plan.Plan(steps((APPLY, 5)), ("Applied, but missing among the migration files: 1, 4.",))


def test_a_down_file_alone_is_not_missing() -> None:
    assert plan.make(files(2), frozenset({1}), rows(1, 2), None) == plan.Plan(())


def test_changed_files_are_refused_all_at_once_also_above_the_target() -> None:
    ledger = [Row(3, b"\x03"), *rows(2), Row(1, b"\x01")]
    error = refusal(files(1, 2, 3), frozenset(), ledger, 2, explain=lambda version, recorded: "line endings" if recorded == b"\x01" else "")
    assert error.failed["modified"] == [
        f"1 (file 1): recorded 01, file {digest(1).hex()}; line endings",
        f"3 (file 3): recorded 03, file {digest(3).hex()}",
    ]
    assert "Changed since they were applied" in error.message
    assert "repair" in error.recovery


def test_nobody_explains_without_the_files() -> None:
    assert plan.unexplained(1, b"") == ""


# Order


def test_gaps_are_filled_aloud() -> None:
    made = plan.make(files(1, 2, 3, 4), frozenset(), rows(1, 3), None)
    assert made == plan.Plan(steps((APPLY, 2), (APPLY, 4)), ("Below the newest applied version 3, but not yet applied: 2.",))


def test_gaps_can_be_refused() -> None:
    error = refusal(files(1, 2, 3), frozenset(), rows(3), None, Policy(out_of_order="fail"))
    assert error.failed == {"out_of_order": [1, 2]}


def test_what_is_reverted_makes_no_gap() -> None:
    policy = Policy(allow_revert=True, out_of_order="fail")
    assert plan.make(files(1, 2, 3), frozenset(), rows(1, 3), 2, policy).steps == steps((REVERT, 3), (APPLY, 2))


# Repair


def test_a_changed_checksum_is_repaired_once() -> None:
    policy = Policy(repair=frozenset({8, 2, 1}))
    ledger = [Row(8, b"other"), *rows(2), Row(1, b"other")]
    assert plan.make(files(1, 2, 8), frozenset(), ledger, None, policy).steps == steps((REPAIR, 1), (REPAIR, 8))
    assert plan.make(files(1, 2, 8), frozenset(), rows(1, 2, 8), None, policy).steps == ()


def test_only_named_versions_are_repaired() -> None:
    assert "3 (file 3)" in refusal(files(1, 3), frozenset(), [Row(1, b"other"), Row(3, b"other")], None, Policy(repair=frozenset({1}))).message


def test_an_unfinished_row_is_repaired_by_running_its_file_again() -> None:
    ledger = [*rows(1), Row(2, digest(2), success=False)]
    assert plan.make(files(1, 2), frozenset(), ledger, None, Policy(repair=frozenset({2}))).steps == steps((REPAIR, 2), (APPLY, 2))


def test_a_repair_of_what_is_not_applied_or_has_no_file_does_nothing() -> None:
    policy = Policy(missing="ignore", repair=frozenset({1, 2}))
    assert plan.make(files(2), frozenset(), rows(1), None, policy).steps == steps((APPLY, 2))


def test_a_repair_of_an_unknown_version_is_refused() -> None:
    error = refusal(files(1), frozenset({3}), rows(1), None, Policy(repair=frozenset({1, 3, 7, 9})))
    assert "neither among the files nor in the ledger: 7, 9." in error.message


# Baseline


def test_a_baseline_records_what_it_covers_and_applies_the_rest() -> None:
    policy = Policy(baseline=2)
    made = plan.make(files(3, 2, 1), frozenset(), [], None, policy)
    assert made == plan.Plan(steps((BASELINE, 1), (BASELINE, 2), (APPLY, 3)))
    assert plan.make(files(3, 2, 1), frozenset(), [], 2, policy) == plan.Plan(steps((BASELINE, 1), (BASELINE, 2)))
    assert plan.make(files(3, 2, 1), frozenset(), rows(1, 2, 3), None, policy) == plan.Plan(())


@pytest.mark.parametrize(
    ("available", "applied", "target", "message"),
    [
        ((1, 2), (), None, "The baseline 3 is not among the migration files"),
        ((1, 2, 3), (), 2, "The version 2 is below the baseline 3"),
        ((1, 2, 3), (2,), None, "this one has rows, but not 1, 3."),
        ((1, 3, 4), (4,), None, "this one has rows, but not 1, 3."),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused(
    available: Sequence[int], applied: Sequence[int], target: Optional[int], message: str
) -> None:
    assert message in refusal(files(*available), frozenset(), rows(*applied), target, Policy(baseline=3)).message


# Interrupted runs

OUTSIDE = File(2, "", digest(2), no_transaction=True, down_no_transaction=True)
UP_CUT_OFF = Row(2, digest(2), success=False)
DOWN_CUT_OFF = Row(2, digest(2), success=False, reverting=True)


def test_an_interrupted_apply_goes_on_before_anything_else() -> None:
    available = [*files(1, 3), OUTSIDE]
    assert plan.make(available, frozenset(), [UP_CUT_OFF], None).steps == (Step(APPLY, 2, resume=True), Step(APPLY, 1), Step(APPLY, 3))
    assert plan.make(available, frozenset(), [*rows(1), UP_CUT_OFF], 2).steps == (Step(APPLY, 2, resume=True),)


def test_interrupted_files_go_on_in_their_order() -> None:
    both = [OUTSIDE._replace(version=version) for version in (2, 3)]
    made = plan.make(both, frozenset(), [UP_CUT_OFF._replace(version=3), UP_CUT_OFF], None)
    assert made.steps == (Step(APPLY, 2, resume=True), Step(APPLY, 3, resume=True))


def test_an_interrupted_revert_goes_on_down_and_then_to_the_target() -> None:
    ledger = [*rows(1), DOWN_CUT_OFF]
    assert plan.make([*files(1), OUTSIDE], frozenset(), ledger, 1).steps == (Step(REVERT, 2, resume=True),)
    assert plan.make([*files(1), OUTSIDE], frozenset(), ledger, None).steps == (Step(REVERT, 2, resume=True), Step(APPLY, 2))


def test_an_interrupted_file_may_have_been_corrected() -> None:
    corrected = OUTSIDE._replace(checksum=b"corrected")
    assert plan.make([corrected], frozenset(), [UP_CUT_OFF], None).steps == (Step(APPLY, 2, resume=True),)


@pytest.mark.parametrize(
    ("available", "row"),
    [
        (files(2), UP_CUT_OFF),
        (files(2), DOWN_CUT_OFF),
        (files(2), UP_CUT_OFF._replace(checksum=b"changed")),
        ([OUTSIDE._replace(no_transaction=False)], UP_CUT_OFF),
        ([OUTSIDE._replace(down_no_transaction=False)], DOWN_CUT_OFF),
        (files(1), UP_CUT_OFF),
    ],
    ids=["up in a transaction", "down in a transaction", "changed", "only down outside", "only up outside", "no file"],
)
def test_what_cannot_be_resumed_is_refused_as_unfinished(available: List[File], row: Row) -> None:
    error = refusal(available, frozenset(), [row], None, Policy(missing="ignore"))
    assert "Version 2 is recorded as begun but not finished" in error.message
    assert error.failed == {"dirty": 2}
    assert "undo it by hand" in error.recovery


def test_an_interrupted_apply_is_finished_before_it_is_reverted() -> None:
    error = refusal([*files(1), OUTSIDE], frozenset(), [*rows(1), UP_CUT_OFF], 1, BACK)
    assert "must be finished before it can be reverted" in error.message
    assert "version=2" in error.recovery


# One transaction for all


@pytest.mark.parametrize(
    ("file", "applied", "target"),
    [
        (File(2, "", digest(2), no_transaction=True), (1,), None),
        (File(2, "", digest(2), down_no_transaction=True), (1, 2), 1),
    ],
)
def test_one_transaction_cannot_hold_what_runs_outside(file: File, applied: Sequence[int], target: Optional[int]) -> None:
    policy = Policy(allow_revert=True, transaction="all")
    assert "transaction=all cannot hold" in refusal([*files(1), file], frozenset(), rows(*applied), target, policy).message


@pytest.mark.parametrize(
    ("file", "applied", "target", "expected"),
    [
        (File(2, "", digest(2), down_no_transaction=True), (1,), None, [(APPLY, 2)]),
        (File(2, "", digest(2), no_transaction=True), (1, 2), 1, [(REVERT, 2)]),
        (File(1, "", digest(1), no_transaction=True), (1,), None, [(APPLY, 2)]),
    ],
)
def test_one_transaction_holds_what_runs_inside(
    file: File, applied: Sequence[int], target: Optional[int], expected: List[Tuple[str, int]]
) -> None:
    available = [file, *(each for each in files(1, 2) if each.version != file.version)]
    assert plan.make(available, frozenset(), rows(*applied), target, Policy(allow_revert=True, transaction="all")).steps == steps(*expected)


# Any files, any ledger, any wish

VERSIONS = st.integers(-2, 5)
RARELY = st.sampled_from([False] * 9 + [True])
MOSTLY = RARELY.map(lambda drawn: not drawn)


@st.composite
def cases(draw: st.DrawFn) -> Tuple[List[File], Set[int], List[Row], Optional[int], Policy]:
    """Anything at all, but mostly what is not refused at once."""
    available = [
        File(version, "", digest(version), draw(MOSTLY), draw(st.booleans()), draw(st.booleans()))
        for version in draw(st.lists(VERSIONS, unique=True, max_size=6))
    ]
    # As release.of makes them: what has no down script has none outside a transaction.
    available = [file._replace(down_no_transaction=file.reversible and file.down_no_transaction) for file in available]
    here = {file.version for file in available}
    only_down = draw(st.sets(VERSIONS, max_size=1)) - here
    applied = {version for version in sorted(here) if draw(st.booleans())}
    applied |= draw(st.sets(VERSIONS, max_size=1)) if draw(RARELY) else set()
    ledger = [
        Row(version, digest(version) if draw(MOSTLY) else b"other", draw(MOSTLY), "", draw(st.booleans()))
        for version in draw(st.permutations(sorted(applied)))
    ]
    target = draw(st.sampled_from([None, 0, *sorted(here | only_down)]) if draw(MOSTLY) else VERSIONS)
    policy = Policy(
        allow_revert=draw(MOSTLY),
        out_of_order=draw(st.sampled_from(["warn", "warn", "fail"])),
        missing=draw(st.sampled_from(["fail", "ignore"])),
        repair=frozenset(draw(st.sets(st.sampled_from(sorted(here | applied)))) if here | applied and draw(st.booleans()) else ()),
        baseline=draw(VERSIONS) if draw(RARELY) else None,
        transaction="all" if draw(RARELY) else "each",
    )
    return available, only_down, ledger, target, policy


def walk(available: Sequence[File], ledger: Sequence[Row], steps: Sequence[Step], policy: Policy) -> Dict[int, Row]:
    """Take a plan's steps as the executor would, and see to it that each can be taken where it stands."""
    by_version = {file.version: file for file in available}
    state = {row.version: row for row in ledger}
    for step in steps:
        row, file = state.get(step.version), by_version[step.version]
        if step.action == REPAIR:
            assert row
            assert step.version in policy.repair
            if row.success:
                assert row.checksum != file.checksum
                state[step.version] = row._replace(checksum=file.checksum)
            else:
                del state[step.version]
        elif step.action == REVERT:
            assert row
            assert file.reversible
            assert (not row.success and row.reverting and file.down_no_transaction) if step.resume else row.success
            del state[step.version]
        elif step.action == BASELINE:
            assert row is None
            state[step.version] = Row(step.version, file.checksum)
        else:
            assert (row and not row.success and not row.reverting and file.no_transaction) if step.resume else row is None
            state[step.version] = Row(step.version, file.checksum)
    return state


@given(cases())
def test_a_plan_reaches_the_target_by_allowed_steps_or_is_refused(
    case: Tuple[List[File], Set[int], List[Row], Optional[int], Policy],
) -> None:
    available, only_down, ledger, target, policy = case
    by_version = {file.version: file for file in available}
    try:
        made = plan.make(available, only_down, ledger, target, policy)
    except PlanError as error:
        assert error.message
        assert error.recovery.startswith("Nothing was changed.")
        return

    state = walk(available, ledger, made.steps, policy)
    # It stands where it shall.
    applied = set(state)
    if target == 0:
        assert all(version <= 0 for version in applied)
    else:
        assert applied & set(by_version) == {version for version in by_version if target is None or version <= target}
        assert target is None or all(version <= target for version in applied)
    # Every row is whole and true.
    assert all(row.success for row in state.values())
    assert all(row.checksum == by_version[version].checksum for version, row in state.items() if version in by_version)
    # What has no file was applied before, and that was allowed.
    strangers = applied - set(by_version)
    assert strangers <= {row.version for row in ledger}
    assert policy.missing == "ignore" or strangers <= only_down
    assert bool(strangers - only_down) == any("missing" in warning for warning in made.warnings)
    # Only what is allowed was done.
    fresh = [step for step in made.steps if not step.resume]
    back, forth = ([step.version for step in fresh if step.action == action] for action in (REVERT, APPLY))
    assert policy.allow_revert or not back
    assert back == sorted(back, reverse=True)
    assert forth == sorted(forth)
    assert not made.versions(BASELINE) or policy.baseline == max(made.versions(BASELINE))
    late = {version for version in forth if any(version < other for other in applied - set(forth))}
    assert bool(late) == any("newest applied" in warning for warning in made.warnings)
    assert policy.out_of_order == "warn" or not late
    if policy.transaction == "all":
        assert not any(by_version[version].no_transaction for version in made.versions(APPLY))
        assert not any(by_version[version].down_no_transaction for version in made.versions(REVERT))
    # And having done it, there is nothing left to do.
    assert plan.make(available, only_down, list(state.values()), target, policy).steps == ()


@given(cases())
def test_a_clean_ledger_and_a_way_back_are_never_refused(
    case: Tuple[List[File], Set[int], List[Row], Optional[int], Policy],
) -> None:
    available, only_down, ledger, target, _unused = case
    here = {file.version for file in available}
    assume(target in {None, 0} | here | only_down)
    available = [file._replace(reversible=True) for file in available]
    clean = rows(*(row.version for row in ledger if row.version in here))
    walk(available, clean, plan.make(available, only_down, clean, target, BACK).steps, BACK)


# States


def test_every_version_has_a_state() -> None:
    ledger = [*rows(1, 3, 5), Row(2, b"other"), Row(6, digest(6), success=False), Row(7, b"other", success=False)]
    assert plan.states(files(1, 2, 4, 6), frozenset({5}), ledger) == {
        1: plan.INSTALLED,
        2: plan.DIFFERENT,
        3: plan.MISSING,
        4: plan.PENDING,
        5: plan.INSTALLED,
        6: plan.DIRTY,
        7: plan.DIRTY,
    }
    assert list(plan.states(files(8, 1), frozenset(), rows(2))) == [1, 2, 8]


@pytest.mark.parametrize(("applied", "current"), [((), 0), ((1, 3, 2), 3), ((-5, -7), -5)])
def test_the_current_version_is_the_highest_applied(applied: Sequence[int], current: int) -> None:
    assert plan.current_version(rows(*applied)) == current
