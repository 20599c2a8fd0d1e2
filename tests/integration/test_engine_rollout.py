"""One host's part in a rollout: the proof of the way back, and the return that relies on it."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import executor, rollout
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import MigrationError
from support.migrations import HISTORY, LEDGER, Release, checksum


class Killed(BaseException):
    """Stands for the end of the process."""


def dies(*_unused: object) -> None:
    raise Killed


@pytest.fixture
def proven(release: Release) -> Release:
    """Versions 1 and 2, with a proof."""
    release.add_tables(1, 2)
    assert release.roll_out(prove=True)["proved"] == [1, 2]
    return release


def known(release: Release) -> Dict[str, Any]:
    """What staging would tell production."""
    told = release.info()
    return {"ways_back": {int(version): way for version, way in told["ways_back"].items()}, "known_fingerprints": told["known_fingerprints"]}


def test_a_proof_is_remembered_for_exactly_what_it_proved(proven: Release) -> None:
    told = proven.info()
    assert told["proven"]
    assert set(told["ways_back"]) == {"1", "2"}
    assert told["known_fingerprints"][told["installed_release"]] == told["fingerprint"]
    assert 0 <= told["stands_for"] < 60
    proven.add_tables(3, 3)
    proven.migrate()
    assert not proven.info()["proven"]


def test_a_proof_takes_no_more_than_the_run_applied(proven: Release) -> None:
    proven.database.execute("insert into t2 values (7)")
    proven.add_tables(3, 3)
    assert proven.roll_out(prove=True)["proved"] == [3]
    assert proven.database.execute("select id from t2") == [(7,)]


def test_a_hot_fix_below_a_newer_version_is_proven_alone(release: Release) -> None:
    release.add_tables(1, 1)
    release.add_tables(3, 3)
    release.migrate()
    release.database.execute("insert into t3 values (7)")
    release.add_tables(2, 2)
    assert release.roll_out(prove=True)["proved"] == [2]
    assert release.versions() == [1, 2, 3]
    assert release.database.execute("select id from t3") == [(7,)]


def test_what_a_baseline_wrote_down_stays_and_what_came_after_it_is_proven(release: Release) -> None:
    release.add_tables(1, 3)
    release.database.execute("create table t1 (id int); create table t2 (id int); insert into t2 values (7)")
    answer = release.roll_out(prove=True, baseline=2)
    assert ([each["version"] for each in answer["baselined"]], answer["proved"], answer["proven"]) == ([1, 2], [3], True)
    assert release.database.execute("select id from t2") == [(7,)]
    told = release.info()
    assert (told["proven"], list(told["ways_back"])) == (True, ["3"])
    again = release.roll_out(prove=True, baseline=2)
    assert (again["changed"], again["proven"]) == (False, True)


def test_what_a_repair_mended_stays_and_what_came_after_it_is_proven(proven: Release) -> None:
    proven.add("2_table", "create table t2 (id int); -- edited", "drop table t2;")
    proven.add_tables(3, 3)
    answer = proven.roll_out(prove=True, repair=frozenset({2}))
    assert ([each["version"] for each in answer["repaired"]], answer["proved"], answer["proven"]) == ([2], [3], True)
    assert proven.info()["proven"]


@pytest.mark.parametrize("part", [1, 2], ids=["before the way back", "before the way up again"])
def test_a_proof_that_was_cut_off_is_finished_by_the_next_run(release: Release, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    release.add_tables(1, 2)
    parts = []
    run = executor.Executor.run

    def dies(self: executor.Executor) -> executor.Outcome:
        parts.append(self)
        if len(parts) > part:
            raise Killed
        return run(self)

    with monkeypatch.context() as patched:
        patched.setattr(executor.Executor, "run", dies)
        with pytest.raises(Killed):
            release.roll_out(prove=True)
    assert not release.info()["proven"]
    assert release.roll_out(prove=True)["proved"] == [1, 2]
    assert release.info()["proven"]
    assert release.versions() == [1, 2]


def test_a_down_script_that_leaves_something_behind_proves_nothing(release: Release) -> None:
    release.add("1_two", "create table a (id int); create table b (id int);", "drop table a;")
    with pytest.raises(MigrationError, match="do not restore what was there before"):
        release.roll_out(prove=True)
    assert not release.info()["proven"]


def test_what_has_no_way_back_is_said(release: Release) -> None:
    release.add("1_only_up", "create table a (id int);")
    answer = release.roll_out(prove=True)
    assert (answer["proved"], answer["irreversible"], answer["ways_back"]) == ([], [1], {})


def test_a_failure_takes_back_what_the_run_applied(proven: Release) -> None:
    terms = known(proven)
    before = proven.migrate(0, allow_revert=True)
    proven.add("3_breaks", "create table t3 (id int); select 1 / 0;", "drop table t3;")
    with pytest.raises(MigrationError) as failed:
        proven.roll_out(return_on_failure=True, **terms)
    assert failed.value.failed["returned"] == {"reverted": [2, 1], "complete": True, "fingerprint": before["fingerprint"], "why": ""}
    assert proven.versions() == []
    assert "(2, 1) was reverted, and the host is as it was before this run" in failed.value.recovery
    assert failed.value.failed["partial"]["to_version"] == 0


@pytest.mark.parametrize(("fails_in", "times"), [("migration", 2), ("verification", 1)])
def test_a_failure_of_the_first_migration_is_not_tried_again(proven: Release, fails_in: str, times: int) -> None:
    proven.database.execute("create sequence luck; grant all on luck to public", user="postgres")
    # A sequence does not go back with its transaction: the next time, it would work. A file of several statements runs
    # twice, the second time to find the one that failed.
    fails = f"select 1 / (nextval('luck') / {times + 1});"
    in_verification = fails_in == "verification"
    proven.add("3_table", "create table t3 (id int);" + ("" if in_verification else fails), "drop table t3;", fails if in_verification else "")
    before = proven.info()["fingerprint"]
    with pytest.raises(MigrationError, match="division by zero") as failed:
        proven.roll_out(return_on_failure=True, **known(proven))
    assert failed.value.failed["returned"] == {"reverted": [], "complete": True, "fingerprint": before, "why": ""}
    assert "The host is as it was before this run" in failed.value.recovery
    assert proven.database.execute("select last_value from luck", user="postgres") == [(times,)]
    assert proven.versions() == [1, 2]
    assert not proven.has("t3")


def test_a_failure_takes_nothing_back_where_one_way_is_not_proven(proven: Release) -> None:
    terms = known(proven)
    proven.migrate(0, allow_revert=True)
    proven.add("2_table", "create table t2 (id int);", "drop table if exists t2;")
    proven.add("3_breaks", "select 1 / 0;", "select 1;")
    with pytest.raises(MigrationError) as failed:
        proven.roll_out(return_on_failure=True, **terms)
    assert failed.value.failed["returned"]["why"] == "the way back of 2 was not proven on staging"
    assert proven.versions() == [1, 2]


def test_what_staging_does_not_look_like_is_taken_back(proven: Release) -> None:
    terms = known(proven)
    proven.migrate(0, allow_revert=True)
    proven.database.execute("create table by_hand (id int)")
    with pytest.raises(MigrationError, match="is not what these migrations made on staging") as failed:
        proven.roll_out(return_on_failure=True, **terms)
    assert failed.value.failed["returned"]["complete"]
    assert proven.versions() == []
    assert proven.has("by_hand")


def test_a_file_outside_of_transactions_is_not_run_back_over(proven: Release) -> None:
    terms = known(proven)
    proven.migrate(1, allow_revert=True)
    proven.add("3_outside", "-- no-transaction\ncreate table t3 (id int);\nselect 1 / 0;\n", "drop table t3;")
    with pytest.raises(MigrationError) as failed:
        proven.roll_out(return_on_failure=True, **terms)
    assert failed.value.failed["returned"]["why"] == "3 is unfinished, outside of a transaction"
    assert proven.versions() == [1, 2]


def test_exactly_these_versions_are_undone(proven: Release) -> None:
    proven.add_tables(3, 3)
    proven.migrate()
    answer = proven.migrate(undo=frozenset({2, 9}))
    assert [each["version"] for each in answer["reverted"]] == [2]
    assert proven.versions() == [1, 3]
    assert not proven.migrate(undo=frozenset({2}))["changed"]


def test_to_undo_nothing_is_not_to_migrate(proven: Release) -> None:
    proven.add_tables(3, 3)
    assert not proven.migrate(undo=frozenset())["changed"]
    assert proven.versions() == [1, 2]


def test_what_cannot_be_in_one_transaction_is_not_undone_in_one(release: Release) -> None:
    release.add("1_table", "create table t1 (id int); create index i1 on t1 (id);", "drop table t1;")
    release.add("2_index", "create index i2 on t1 (id);", "-- no-transaction\ndrop index concurrently i2;")
    assert release.roll_out(prove=True, transaction="all")["proved"] == [1, 2]
    with pytest.raises(MigrationError, match="transaction=all cannot hold"):
        release.migrate(undo=frozenset({1, 2}), transaction="all")
    assert release.versions() == [1, 2]


def test_a_way_back_that_fails_is_said_and_what_is_there_as_well(proven: Release) -> None:
    proven.add("3_table", "create table t3 (id int);", "drop table t4;")
    proven.add("4_more", "create table t5 (id int);", "drop table t5;")
    with pytest.raises(MigrationError) as failed:
        proven.roll_out(prove=True)
    assert failed.value.message.startswith("The way back does not work: ")
    assert failed.value.recovery.startswith(
        "Still applied, without a proven way back: 3. Of this run, reverted 4. The way back of 3 was rolled back whole."
    )
    partial = failed.value.failed["partial"]
    assert [entry["version"] for entry in partial["applied"]] == [3, 4]
    assert [entry["version"] for entry in partial["reverted"]] == [4]
    assert (partial["to_version"], proven.versions()) == (3, [1, 2, 3])


def test_a_proof_continues_a_file_in_the_middle(proven: Release) -> None:
    proven.add(
        "3_outside",
        "-- no-transaction\ninsert into t2 values (7);\ncreate unique index concurrently u1 on t1 (id);\ncreate table t3 (id int);\n",
        "drop table t3; drop index u1;",
    )
    proven.database.execute("insert into t1 values (1), (1)")
    for _again in range(2):
        with pytest.raises(MigrationError, match="could not create unique index"):
            proven.roll_out(prove=True)
    proven.database.execute("delete from t1")
    assert proven.roll_out(prove=True)["proved"] == [3]
    # Once, and once more for the proof.
    assert proven.database.execute("select count(*) from t2") == [(2,)]


def test_a_proof_begins_anew_where_an_older_one_is_out_of_reach(proven: Release) -> None:
    script = proven.add("3_table", "create table t3 (id int); select 1 / 0;", "drop table t3;")
    with pytest.raises(MigrationError):
        proven.roll_out(prove=True)
    proven.migrate(1, allow_revert=True)
    (proven.migrations / "2_table.up.sql").write_text("create table t2 (id bigint);")
    script.write_text("create table t3 (id int);")
    assert proven.roll_out(prove=True)["proved"] == [2, 3]
    assert proven.info()["proven"]


def test_what_others_applied_is_never_taken_back(proven: Release) -> None:
    script = proven.add("3_table", "create table t3 (id int); select 1 / 0;", "drop table t3;")
    with pytest.raises(MigrationError):
        proven.roll_out(prove=True)
    script.write_text("create table t3 (id int);")
    proven.migrate()
    proven.database.execute("insert into t3 values (7)")
    answer = proven.roll_out(prove=True)
    assert (answer["changed"], answer["proven"]) == (False, False)
    assert proven.database.execute("select id from t3") == [(7,)]


def test_what_sqlx_applied_again_is_never_taken_back(proven: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    proven.add_tables(3, 3)
    with monkeypatch.context() as patched:
        patched.setattr(rollout.Rollout, "_prove", dies)
        with pytest.raises(Killed):
            proven.roll_out(prove=True)
    proven.database.execute(f"drop table t3; delete from {LEDGER} where version = 3")
    proven.database.execute(
        f"create table t3 (id int); insert into t3 values (7); insert into {LEDGER} (version, description, success, checksum, execution_time)"
        " values (3, 'table', true, %s, 1)",
        [checksum("create table t3 (id int);")],
    )
    assert not proven.roll_out(prove=True)["changed"]
    assert proven.database.execute("select id from t3") == [(7,)]


def test_a_proof_goes_by_the_schema_as_it_was_mended(proven: Release) -> None:
    proven.add_tables(3, 3)
    proven.database.execute("create table t3 (in_the_way int)")
    with pytest.raises(MigrationError, match="already exists"):
        proven.roll_out(prove=True)
    proven.database.execute("drop table t3")
    assert proven.roll_out(prove=True)["proved"] == [3]
    assert proven.info()["proven"]


def test_another_run_waits_for_the_whole_proof(proven: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    proven.add_tables(3, 3)
    undo = rollout.Rollout._undo
    refused = []

    def meanwhile(self: rollout.Rollout, versions: Any) -> executor.Outcome:
        outcome = undo(self, versions)
        with pytest.raises(MigrationError, match="has held the lock"):
            proven.migrate(advisory_lock_timeout=0.1)
        refused.append(True)
        return outcome

    monkeypatch.setattr(rollout.Rollout, "_undo", meanwhile)
    proven.roll_out(prove=True)
    assert refused


def test_an_old_history_and_a_ledger_of_sqlx_alone_are_no_proof(proven: Release) -> None:
    proven.database.execute(f"delete from {HISTORY} where action = 'prove'")
    assert not proven.info()["proven"]
    proven.database.execute(f"drop table {HISTORY}")
    told = proven.info()
    assert not told["proven"]
    assert told["stands_for"] >= 0
    proven.database.execute(f"delete from {LEDGER}")
    assert proven.info()["stands_for"] is None
