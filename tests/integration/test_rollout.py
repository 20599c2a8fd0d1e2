"""The rollout as a whole, over two hosts of staging and three of production: each a database of its own on one server.

What needs real hosts is in the scenarios rollout and rollout_failures.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from support.migrations import HISTORY, Release
from support.playbooks import CHECKOUT, HERE, PlaybookFailed, Playbooks
from support.postgres import Database, Server
from test_playbooks import EMPTY, at, collections_without_the_server

STAGING, PRODUCTION = ["s1", "s2"], ["p1", "p2", "p3"]
DEPLOY = CHECKOUT / "deploy.yml"
BREAKS_IN_PRODUCTION = """\
create table t4 (id int);
do $$ begin if current_database() = 'db_p2' then raise 'not with the data of this one'; end if; end $$;
"""


class Stand:
    """Five hosts and a release on its way to them."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.databases = {host: Database(server, f"db_{host}", f"db_{host}_migrator", "") for host in STAGING + PRODUCTION}
        self.release = Release(directory / "release", self.databases["s1"])
        self._report = directory / "report.json"
        variables = {**HERE, "migrations_source": str(self.release.migrations), "migrations_verify": "", "deploy_report": str(self._report)}
        # Hosts are deployed in the state that others have left them in; what is on the way is only what a migration needs.
        groups = {
            group: {"hosts": {host: at(server, database_name=self.databases[host].name) for host in hosts}}
            for group, hosts in (("staging", STAGING), ("production", PRODUCTION))
        }
        inventory = {"all": {"vars": variables, "children": groups}}
        self._playbooks = Playbooks(
            directory / "ansible", inventory=inventory, collections=collections_without_the_server(directory / "collections")
        )

    def on(self, host: str) -> Release:
        return Release(self.release.directory, self.databases[host])

    def begin(self) -> None:
        """All at version 2, proven on staging."""
        shutil.rmtree(self.release.migrations, ignore_errors=True)
        self.release.add_tables(1, 2)
        for host, database in self.databases.items():
            database.execute(EMPTY, user="postgres")
            self.on(host).roll_out(prove=host in STAGING)

    def deploy(self, *arguments: str, playbook: Path = DEPLOY) -> Tuple[bool, str]:
        """Whether it went well, and what it said."""
        self._report.unlink(missing_ok=True)
        words = [word for argument in arguments for word in (["-e", argument] if "=" in argument else [argument])]
        try:
            return True, self._playbooks.play(playbook, *words).output
        except PlaybookFailed as failed:
            return False, str(failed)

    @property
    def report(self) -> Dict[str, Any]:
        return json.loads(self._report.read_text())  # type: ignore[no-any-return]

    @property
    def outcomes(self) -> Dict[str, str]:
        return {host["host"]: host["outcome"] for host in self.report["hosts"]}

    @property
    def versions(self) -> Dict[str, List[int]]:
        return {host: self.on(host).versions() for host in self.databases}

    def row(self, host: str) -> Dict[str, Any]:
        return next(row for row in self.report["hosts"] if row["host"] == host)

    def fingerprint(self, host: str) -> str:
        return str(self.on(host).info()["fingerprint"])


@pytest.fixture(scope="module")
def deployed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Server(server.major) as own:
        stand = Stand(tmp_path_factory.mktemp("rollout"), own)
        stand.release.add_tables(1, 2)
        went_well, said = stand.deploy()
        assert went_well, said
        # One, then a tenth, and that again until all are done.
        assert said.count("PLAY [4. Production has the release, wave after wave]") == 3
        assert set(stand.outcomes.values()) == {"changed"}
        assert len({row["fingerprint"] for row in stand.report["hosts"]}) == 1
        went_well, said = stand.deploy()
        assert went_well, said
        assert set(stand.outcomes.values()) == {"unchanged"}
        assert not re.search(r"changed=[1-9]", said)
        yield stand


@pytest.fixture
def stand(deployed: Stand) -> Stand:
    deployed.begin()
    return deployed


def test_a_restore_point_is_named_before_each_first_migration(stand: Stand) -> None:
    stand.release.add_tables(3, 3)
    went_well, said = stand.deploy("deploy_waves=['100%']")
    assert went_well, said
    names = [stand.row(host)["restore_point"] for host in PRODUCTION]
    assert all(name.startswith(f"deploy-{stand.report['release'][:12]}-") for name in names)
    assert stand.row("s1")["restore_point"] is None
    assert names[0] in said


@pytest.mark.parametrize(("on_failure", "first"), [("keep", [1, 2, 3, 5]), ("return", [1, 2])])
def test_a_failure_on_the_second_host(stand: Stand, on_failure: str, first: List[int]) -> None:
    stand.release.add_tables(3, 3)
    before = stand.fingerprint("p2")
    stand.release.add("5_data", BREAKS_IN_PRODUCTION, "drop table t4;")
    went_well, said = stand.deploy(f"deploy_on_failure={on_failure}")
    assert not went_well
    assert "fatal: [p2]" in said
    assert "not with the data of this one" in said
    assert stand.versions == {"s1": [1, 2, 3, 5], "s2": [1, 2, 3, 5], "p1": first, "p2": [1, 2], "p3": [1, 2]}
    assert stand.fingerprint("p2") == before
    assert stand.row("p2")["returned"]["complete"]
    done = {"keep": "changed", "return": "returned"}[on_failure]
    assert stand.outcomes == {"s1": "changed", "s2": "changed", "p1": done, "p2": "failed", "p3": "not reached"}

    # Mended, the same command finishes what was begun.
    for path in stand.release.migrations.glob("5_*"):
        path.unlink()
    for host in ("s1", "s2", *(["p1"] if on_failure == "keep" else [])):
        stand.on(host).database.execute("drop table t4; delete from _sqlx_migrations where version = 5")
    stand.release.add_tables(6, 6)
    went_well, said = stand.deploy()
    assert went_well, said
    assert set(map(tuple, stand.versions.values())) == {(1, 2, 3, 6)}


def test_a_failure_on_staging_leaves_production_alone(stand: Stand) -> None:
    stand.release.add("3_leaves", "create table t3 (id int); create table left_behind (id int);", "drop table t3;")
    went_well, said = stand.deploy()
    assert not went_well
    assert "do not restore what was there before" in said
    assert [stand.outcomes[host] for host in PRODUCTION] == ["not reached"] * 3
    assert "Production is not touched" in said
    assert all("failed" in why for why in stand.report["production_refused"])


def test_the_release_must_have_soaked(stand: Stand) -> None:
    stand.release.add_tables(3, 3)
    went_well, said = stand.deploy("deploy_soak_minutes=30")
    assert not went_well
    assert "s1: it has stood at this release for 0 of 30 minutes" in " ".join(said.split())
    assert stand.versions["p1"] == [1, 2]
    for host in STAGING:
        stand.databases[host].execute(f"update {HISTORY} set at = at - interval '31 minutes'")
    went_well, said = stand.deploy("deploy_soak_minutes=30", "--limit", "production[0]")
    assert went_well, said
    assert [stand.versions[host] for host in PRODUCTION] == [[1, 2, 3], [1, 2], [1, 2]]


def test_a_person_must_say_yes(stand: Stand) -> None:
    stand.release.add_tables(3, 3)
    went_well, said = stand.deploy("deploy_approval=true")
    assert not went_well
    assert "nobody said yes" in said
    assert stand.versions["p1"] == [1, 2]
    went_well, said = stand.deploy("deploy_approval=true", f"deploy_approved_release={'0' * 12}")
    assert not went_well
    went_well, said = stand.deploy("deploy_approval=true", f"deploy_approved_release={stand.report['release'][:12]}")
    assert went_well, said
    assert stand.versions["p3"] == [1, 2, 3]


def test_what_was_not_proven_or_was_edited_since_stays_out(stand: Stand) -> None:
    stand.release.add_tables(3, 3)
    for host in STAGING:
        stand.on(host).migrate()
    went_well, said = stand.deploy("--limit", "production")
    assert not went_well
    assert said.count("the way back from this release is not proven there") >= 2
    for host in STAGING:
        stand.on(host).migrate(2, allow_revert=True)
        stand.on(host).roll_out(prove=True)
    stand.release.add("3_table", "create table t3 (id int);", "drop table if exists t3;")
    went_well, said = stand.deploy()
    assert not went_well
    assert "the down script of 3 was edited since it was proven there" in said
    assert stand.versions["p1"] == [1, 2]
    went_well, said = stand.deploy("deploy_prove_rollback=false")
    assert went_well, said


def test_a_drifted_schema_is_found_before_anything_is_migrated(stand: Stand) -> None:
    stand.release.add_tables(3, 3)
    stand.databases["p1"].execute("create table by_hand (id int)", user="postgres")
    went_well, said = stand.deploy()
    assert not went_well
    assert "The schema has drifted" in said
    assert stand.versions["p1"] == [1, 2]
    assert stand.row("p1")["restore_point"] is None
    assert stand.outcomes["p2"] == "not reached"
    stand.databases["p1"].execute("drop table by_hand", user="postgres")
    stand.databases["p2"].execute("alter table t1 add column by_hand int", user="postgres")
    went_well, said = stand.deploy("deploy_compare_fingerprints=false")
    assert went_well, said


@pytest.mark.parametrize(
    ("obstacle", "bound", "words"),
    [
        ("begin; select count(*) from t1", "deploy_max_transaction_minutes=0", "transactions: open for more than 0 minutes"),
        ("begin; select 1; prepare transaction 'left'", "x=1", "prepared: transactions that were prepared"),
        ("select 1", "deploy_min_free_mb=999999999", "disk: "),
    ],
    ids=["transaction", "prepared", "disk"],
)
def test_preflight(stand: Stand, obstacle: str, bound: str, words: str) -> None:
    stand.release.add_tables(3, 3)
    connection = stand.databases["p1"].connect()
    connection.autocommit = True
    try:
        connection.cursor().execute(obstacle)
        went_well, said = stand.deploy(bound)
        assert not went_well
        assert words in " ".join(said.split())
        assert stand.versions["p1"] == [1, 2]
        assert stand.outcomes["p1"] == "failed"
    finally:
        connection.close()
        if "prepare" in obstacle:
            stand.databases["p1"].execute("select 1")
            rollback = stand.databases["p1"].connect()
            rollback.autocommit = True
            rollback.cursor().execute("rollback prepared 'left'")
            rollback.close()


@pytest.mark.parametrize("careless", [["--tags", "migrations"], ["--skip-tags", "gate"], ["deploy_on_failure=perhaps"]])
def test_careless(stand: Stand, careless: List[str]) -> None:
    stand.release.add_tables(3, 3)
    went_well, said = stand.deploy(*careless)
    assert not went_well, said
    assert set(map(tuple, stand.versions.values())) == {(1, 2)}


def test_starting_in_the_middle_opens_no_gate(stand: Stand) -> None:
    stand.release.add_tables(3, 3)
    stand.deploy("--start-at-task", "The server runs")
    assert [stand.versions[host] for host in PRODUCTION] == [[1, 2]] * 3


def test_the_role_in_a_play_of_ones_own_fails_where_it_fails(stand: Stand, tmp_path: Path) -> None:
    stand.release.add("3_breaks", "select 1 / 0;", "select 1;")
    alone = tmp_path / "alone.yml"
    alone.write_text("- hosts: production\n  gather_facts: false\n  roles: [schema_registry.postgresql.deploy]\n")
    went_well, said = stand.deploy(playbook=alone)
    assert not went_well, said
    assert "division by zero" in said
    assert set(map(tuple, stand.versions.values())) == {(1, 2)}


def test_what_a_task_hides_stays_hidden(tmp_path: Path) -> None:
    said = {}
    for no_log in (True, False):
        failing = {"name": "The password is set", "ansible.builtin.fail": {"msg": "se{{ 'sa' }}me"}, "no_log": no_log}
        kept = {"ansible.builtin.include_role": {"name": "schema_registry.postgresql.deploy", "tasks_from": "failed"}}
        with pytest.raises(PlaybookFailed) as failed:
            Playbooks(tmp_path).run([{"block": [failing], "rescue": [kept]}], "-vv")
        # What the task itself shows is Ansible's.
        said[no_log] = str(failed.value).partition("TASK [schema_registry.postgresql.deploy")[2]
    assert "sesame" in said[False]
    assert "sesame" not in said[True]
    assert "What it said is hidden, since there may be secrets in it (no_log): The password is set" in said[True]


def test_staging_is_asked_with_the_characters_that_checksums_leave_out(stand: Stand) -> None:
    stand.release.add("3_table", "create table t3 (id int);\r\n", "drop table t3;\r\n")
    options = ["-e", json.dumps({"migrations_options": {"ignored_chars": "\r"}})]
    for group in ("staging", "production"):
        went_well, said = stand.deploy("--limit", group, *options)
        assert went_well, said
    assert set(map(tuple, stand.versions.values())) == {(1, 2, 3)}


def test_a_hot_fix_with_a_lower_version(stand: Stand) -> None:
    stand.release.add_tables(5, 5)
    assert stand.deploy("deploy_waves=['100%']")[0]
    stand.databases["p1"].execute("insert into t5 values (7)")
    stand.release.add_tables(4, 4)
    went_well, said = stand.deploy("deploy_waves=['100%']")
    assert went_well, said
    assert set(map(tuple, stand.versions.values())) == {(1, 2, 4, 5)}
    assert stand.databases["p1"].execute("select id from t5") == [(7,)]
    assert [migration["version"] for migration in stand.row("s1")["applied"]] == [4]
    assert stand.row("s1")["way_back_proven"]
