"""The playbooks as they stand, on two servers of the tests' own; the role server, which needs a whole machine, is left out.

What becomes of a bare machine is shown by tests/machines.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest
from support.migrations import LEDGER, Release
from support.playbooks import CHECKOUT, HERE, PlaybookFailed, Playbooks, Run
from support.postgres import Database, Server

NAME = "schema_registry"
STAGING, PRODUCTION = "staging", "production"
DEPLOY = CHECKOUT / "deploy.yml"
REHEARSE = CHECKOUT / "playbooks" / "rehearse.yml"
ROLLBACK = CHECKOUT / "playbooks" / "rollback.yml"
STAIRWAY = CHECKOUT / "playbooks" / "stairway.yml"
STATUS = CHECKOUT / "playbooks" / "status.yml"

EMPTY = """
do $$
declare
    relation regclass;
begin
    for relation in select oid from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' loop
        execute 'drop table ' || relation || ' cascade';
    end loop;
end
$$
"""


def collections_without_the_server(directory: Path) -> Path:
    """The checkout's collections, but for the role server: the server is there already."""
    real = CHECKOUT / ".ansible" / "collections" / "ansible_collections"
    there = directory / "ansible_collections"
    ours = there / "schema_registry" / "postgresql"
    (ours / "roles" / "server" / "tasks").mkdir(parents=True)
    (ours / "roles" / "server" / "tasks" / "main.yml").write_text("[]")
    for path in real.iterdir():
        if path.name != "schema_registry":
            (there / path.name).symlink_to(path)
    for path in (*(CHECKOUT / "roles").iterdir(), CHECKOUT / "plugins", CHECKOUT / "sql", CHECKOUT / "meta"):
        if path.name != "server":
            (ours / path.relative_to(CHECKOUT)).symlink_to(path)
    return directory


def at(server: Server, **variables: Any) -> Dict[str, Any]:
    """How a host's roles reach its server."""
    sockets = {f"{role}_login_unix_socket": str(server.socket_directory) for role in ("database", "extensions", "migrations", "maintenance")}
    return {**sockets, "server_port": server.port, **variables}


class Stand:
    """Staging and production, and a release on its way to them."""

    def __init__(self, directory: Path, servers: Dict[str, Server]) -> None:
        self.servers = servers
        self.databases = {host: Database(server, NAME, f"{NAME}_migrator", "") for host, server in servers.items()}
        self.release = Release(directory / "release", self.databases[STAGING])
        self.first: Dict[str, Any] = {}
        """What the very first deployment said about each host."""
        self._directory = directory
        self._report = directory / "report.json"
        self._collections = collections_without_the_server(directory / "collections")
        self._playbooks = self.with_hosts({host: {host: at(server)} for host, server in servers.items()})

    def with_hosts(self, groups: Dict[str, Dict[str, Any]]) -> Playbooks:
        variables = {**HERE, "migrations_source": str(self.release.migrations), "migrations_verify": "", "deploy_report": str(self._report)}
        inventory = {"all": {"vars": variables, "children": {group: {"hosts": hosts} for group, hosts in groups.items()}}}
        return Playbooks(self._directory / f"ansible-{len(groups[STAGING])}", inventory=inventory, collections=self._collections)

    def on(self, host: str) -> Release:
        """The release, on its way to one host."""
        return Release(self.release.directory, self.databases[host])

    def begin(self) -> None:
        """Both at version 2 of a release with two tables."""
        shutil.rmtree(self.release.migrations, ignore_errors=True)
        self.release.add_tables(1, 2)
        for host, database in self.databases.items():
            database.execute(EMPTY, user="postgres")
            self.on(host).migrate()

    def play(self, playbook: Path, *arguments: str) -> Run:
        self._report.unlink(missing_ok=True)
        return self._playbooks.play(playbook, *arguments)

    def fails(self, playbook: Path, *arguments: str, playbooks: Optional[Playbooks] = None) -> str:
        """A playbook must fail; what it said, on one line."""
        with pytest.raises(PlaybookFailed) as failed:
            (playbooks or self._playbooks).play(playbook, *arguments)
        return " ".join(str(failed.value).split())

    @property
    def report(self) -> Dict[str, Any]:
        """What the last run wrote about each host."""
        return {host["host"]: host for host in json.loads(self._report.read_text())["hosts"]}

    @property
    def versions(self) -> List[List[int]]:
        """The ledgers."""
        return [self.on(host).versions() for host in self.servers]

    def picture(self, *hosts: str) -> List[str]:
        """All that is in the databases, ledger and history too."""
        return [self.databases[host].dump(data=True) for host in hosts or self.servers]

    def names(self, host: str) -> List[str]:
        """The databases of a host."""
        return [name for (name,) in self.databases[host].execute("select datname from pg_database")]

    @contextmanager
    def unchanged(self, *hosts: str) -> Iterator[None]:
        before = self.picture(*hosts)
        yield
        assert self.picture(*hosts) == before


@pytest.fixture(scope="module")
def deployed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Two empty servers, deployed once."""
    with ExitStack() as stack:
        servers = {host: stack.enter_context(Server(server.major)) for host in (STAGING, PRODUCTION)}
        stand = Stand(tmp_path_factory.mktemp("stand"), servers)
        stand.release.add_tables(1, 2)
        run = stand.play(DEPLOY)
        assert all(run.changed.values()), run.output
        stand.first = stand.report
        yield stand


@pytest.fixture
def stand(deployed: Stand) -> Stand:
    deployed.begin()
    return deployed


def test_deployed_from_nothing(deployed: Stand) -> None:
    first = deployed.first
    assert {host: (row["from_version"], row["to_version"], row["way_back_proven"]) for host, row in first.items()} == {
        STAGING: (0, 2, True),
        PRODUCTION: (0, 2, None),
    }
    assert first[STAGING]["fingerprint"] == first[PRODUCTION]["fingerprint"]


def test_the_way_back_leads_to_what_was_there_on_the_way_up(stand: Stand) -> None:
    release = stand.on(STAGING)
    bare = release.migrate(0, allow_revert=True)["fingerprint"]
    one = release.migrate(1)["fingerprint"]
    whole = release.migrate(2)["fingerprint"]
    assert whole == stand.first[PRODUCTION]["fingerprint"]
    # Nobody has proven it, and what staging has does not let anything else through.
    with stand.unchanged():
        said = stand.fails(ROLLBACK, "-e", "migrations_version=1")
    for words in ("The way back was never proven for:", "2 table", "Nothing was changed", "playbooks/stairway.yml", "deploy_allow_unproven=true"):
        assert words in said
    dry = stand.play(STAIRWAY, "--check")
    assert dry.changed == {STAGING: 1}
    walked = stand.play(STAIRWAY)
    assert walked.changed == {STAGING: 1}
    for words in ("1 table: up, down and up again, without a sample", "2 table: up, down", f"written down in the history of {NAME}"):
        assert words in walked.output
    assert stand.play(STAIRWAY, "--check", "--diff").changed == {STAGING: 0}
    assert stand.play(STAIRWAY).changed == {STAGING: 0}
    assert NAME + "_stairway" not in stand.names(STAGING)
    for version, fingerprint, left in ((1, one, [1]), (0, bare, [])):
        run = stand.play(ROLLBACK, "-e", f"migrations_version={version}")
        assert all(run.changed.values()), run.output
        assert stand.versions == [left, left]
        assert {row["fingerprint"] for row in stand.report.values()} == {fingerprint}
    assert len({bare, one, whole}) == 3

    stand.begin()
    with stand.unchanged():
        repeated = stand.play(ROLLBACK, "-e", "migrations_version=2")
    assert set(repeated.changed.values()) == {0}


def test_a_new_migration_is_shown_and_one_that_breaks_on_staging_never_reaches_production(stand: Stand) -> None:
    script = stand.release.add("3_breaks", "create table t3 (id int);\n\ninsert into t3 values ('three');\nselect 3;\n", "drop table t3;")
    with stand.unchanged():
        foretold = stand.play(DEPLOY, "--check", "--diff")
    assert foretold.output.count("insert into t3 values ('three');") == 2, "one of them is not shown"
    assert all(foretold.changed.values())

    with stand.unchanged(PRODUCTION):
        said = stand.fails(DEPLOY)
    for words in (f"{script.name}", "line 3", "22P02", "insert into t3"):
        assert words in said
    assert stand.report[STAGING]["outcome"] == "failed"
    assert stand.report[PRODUCTION]["outcome"] == "not reached"
    assert stand.versions == [[1, 2], [1, 2]]
    assert not stand.release.has("t3")


def test_a_file_that_production_has_otherwise_stops_there(stand: Stand) -> None:
    """Staging was made anew, and has the edited file."""
    stand.release.add("3_more", "create table t3 (id int);", "drop table t3;")
    stand.on(STAGING).migrate(1, allow_revert=True)
    stand.release.add("2_table", "create table t2 (id bigint);", "drop table t2;")
    with stand.unchanged(PRODUCTION):
        said = stand.fails(DEPLOY)
    assert "fatal: [production]" in said
    assert "Changed since they were applied to this database: 2 (table)" in said
    assert stand.on(STAGING).versions() == [1, 2, 3]


def test_a_file_that_is_gone_and_a_wrong_password(stand: Stand) -> None:
    server = stand.servers[STAGING]
    server.execute("alter role schema_registry_migrator password 'right'")
    over_the_network = ["-e", f"migrations_login_host={server.host}", "-e", "migrations_login_password=wrong"]
    with stand.unchanged():
        assert "password authentication failed" in stand.fails(DEPLOY, *over_the_network)
        for path in stand.release.migrations.glob("1_*"):
            path.unlink()
        said = stand.fails(DEPLOY)
    assert "fatal: [staging]" in said
    assert "missing among the migration files: 1" in said


def test_files_that_cannot_be_touch_nothing(stand: Stand) -> None:
    stand.release.add("2_second", "create table second (id int);", "drop table second;")
    stand.release.add("3-dash", "create table dash (id int);", "drop table dash;")
    with stand.unchanged():
        said = stand.fails(DEPLOY)
    for words in ("2_second.up.sql", "2_table.up.sql", "3-dash.up.sql"):
        assert words in said
    assert "Staging has the release" not in said


def test_the_gate_names_whoever_of_staging_does_not_stand_at_the_release(stand: Stand, tmp_path: Path) -> None:
    server, release = stand.servers[STAGING], stand.release
    release.add_tables(1, 3)
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho no way >&2\nexit 255\n")
    ssh.chmod(0o755)

    with ExitStack() as stack:

        def staging(version: int, source: Release = release, spoil: str = "") -> Dict[str, Any]:
            """A staging host: a database of its own on the one server, at a version."""
            database = stack.enter_context(server.database())
            Release(source.directory, database).migrate(version)
            if spoil:
                database.execute(spoil)
            return at(server, migrations_login_db=database.name)

        edited, more = Release(tmp_path / "edited", release.database), Release(tmp_path / "more", release.database)
        edited.add_tables(1, 1)
        edited.add("2_table", "create table t2 (id bigint);", "drop table t2;")
        more.add_tables(0, 2)
        hosts = {
            "good": staging(2),
            "behind": staging(1),
            "ahead": staging(3),
            "edited": staging(2, edited),
            "longer": staging(2, more),
            "dirty": staging(2, spoil=f"update {LEDGER} set success = false where version = 2"),
            "empty": staging(0),
            "down": at(server, server_port=1),
            "unreachable": {**at(server), "ansible_connection": "ssh", "ansible_ssh_executable": str(ssh)},
        }
        playbooks = stand.with_hosts({STAGING: hosts, PRODUCTION: {PRODUCTION: at(stand.servers[PRODUCTION])}})
        with stand.unchanged(PRODUCTION):
            limited = ("--limit", PRODUCTION, "-e", "migrations_version=2", "-e", "deploy_prove_rollback=false")
            said = stand.fails(DEPLOY, *limited, playbooks=playbooks)
    for words in (
        "Production is not touched",
        "behind: 2 is not there yet",
        "ahead: it stands at 3 already, above 2",
        "edited: 2 is there with the state: ",
        "longer: 0 is there with the state: ",
        "dirty: the migration 2 was left unfinished",
        "empty: 1 is not there yet",
        "down: it cannot be asked",
        "unreachable: it cannot be asked",
    ):
        assert words in said, f"{words!r} is not in: {said}"
    assert "good:" not in said


def test_a_standby_is_left_alone_and_a_server_that_is_down_is_named(stand: Stand) -> None:
    staging, production = (stand.servers[host] for host in (STAGING, PRODUCTION))
    stand.release.add("3_more", "create table t3 (id int);", "drop table t3;")
    stand.on(STAGING).migrate()
    signal = production.data_directory / "standby.signal"
    production.stop()
    signal.touch()
    try:
        production.start()
        # Staging stands at the release, so the gate opens.
        with stand.unchanged(PRODUCTION):
            left_alone = stand.play(DEPLOY, "--limit", PRODUCTION, "-e", "deploy_prove_rollback=false")
        assert left_alone.changed == {PRODUCTION: 0}
        assert not stand.report[PRODUCTION]["deployed"]

        staging.stop()
        status = stand.play(STATUS)
        assert set(status.changed.values()) == {0}
        assert "a standby" in status.output
        assert "pending      1" in status.output
        assert f"{NAME}: not there" in status.output
        assert "staging: it cannot be asked" in stand.fails(DEPLOY, "--limit", PRODUCTION)

        production.stop()
        overruled = stand.fails(DEPLOY, "--limit", PRODUCTION, "-e", "deploy_without_staging=true")
        assert "Production is not touched" not in overruled
        assert f".s.PGSQL.{production.port}" in overruled
    finally:
        signal.unlink()
        for server in (staging, production):
            if (server.data_directory / "postmaster.pid").exists():
                server.stop()
            server.start()


def test_a_rehearsal_tells_what_would_happen_and_leaves_nothing(stand: Stand) -> None:
    stand.release.add("3_more", "insert into t1 select generate_series(100, 104);\nalter table t2 add column more int;\n", "select 1;")
    with stand.unchanged():
        rehearsal = stand.play(REHEARSE)
    assert set(rehearsal.changed.values()) == {0}
    said = " ".join(rehearsal.output.split())
    for words in ("3 more: ", "5 rows", "locks public.t2 AccessExclusiveLock"):
        assert said.count(words) == 2, f"{words!r} is not there for both hosts: {said}"
    foreseen = stand.play(REHEARSE, "--check")
    assert set(foreseen.changed.values()) == {0}
    assert foreseen.output.count("nothing is run in check mode") == 2


def test_a_way_back_that_was_edited_or_never_proven_needs_a_name(stand: Stand) -> None:
    stand.play(STAIRWAY)
    stand.release.add("2_table", "create table t2 (id int);", "drop table t2; -- again")
    back = ("--limit", PRODUCTION, "-e", "migrations_version=1")
    with stand.unchanged():
        assert "never proven for: 2 table" in stand.fails(ROLLBACK, *back)
    assert stand.play(ROLLBACK, *back, "-e", "deploy_allow_unproven=true").changed == {PRODUCTION: 1}
    assert stand.versions == [[1, 2], [1]]
    # Staging, which is not part of the run, is asked for its proof.
    assert stand.play(ROLLBACK, "--limit", PRODUCTION, "-e", "migrations_version=0").changed == {PRODUCTION: 1}


def test_a_wrong_way_back_fails_the_stairway_and_proves_nothing(stand: Stand) -> None:
    stand.release.add("3_index", "create index t1_id on t1 (id);", "select 1;")
    with stand.unchanged():
        said = stand.fails(STAIRWAY)
    for words in ("3_index.down.sql", "left behind: index public.t1_id", "no other database was touched", "Mend it"):
        assert words in said
    assert NAME + "_stairway" not in stand.names(STAGING)


@pytest.mark.parametrize("how", ["template", "dump"])
def test_what_is_pending_is_measured_on_a_copy_and_production_is_held_against_it(stand: Stand, how: str) -> None:
    stand.databases[STAGING].execute("insert into t1 select generate_series(1, 1000)")
    stand.release.add("3_more", "alter table t1 alter column id type bigint;\ninsert into t2 select id from t1;\n", "select 1;")
    beside = stand.databases[STAGING].connect() if how == "dump" else None
    try:
        measured = stand.play(REHEARSE, "-e", "migrations_rehearse_copy=true")
    finally:
        if beside:
            beside.close()
    assert measured.changed == {STAGING: 1, PRODUCTION: 0}
    if how == "template":
        assert stand.play(REHEARSE, "--check", "--diff", "-e", "migrations_rehearse_copy=true").changed == {STAGING: 1, PRODUCTION: 0}
    said = " ".join(measured.output.split())
    for words in (f"made by {how}", "3 more: ", "1000 rows", "MB of log", "rewrites public.t1", "locks public.t1 AccessExclusiveLock"):
        assert words in said, f"{words!r} is not in: {said}"
    assert stand.versions == [[1, 2], [1, 2]]
    assert NAME + "_rehearse" not in stand.names(STAGING)
    (known,) = stand.on(STAGING).info()["measured"].values()
    # The table is there twice meanwhile.
    assert known["rows"] == 1000
    assert known["needs"] >= known["grows"]
    assert known["log"] > 1000 * 30

    stand.release.add("3_more", "alter table t1 alter column id type bigint;\ninsert into t2 select id from t1;\n", "-- data-loss: table x\n"
                      "delete from t2; alter table t1 alter column id type int;")
    deployed = " ".join(stand.play(DEPLOY).output.split())
    if how == "template":
        assert set(stand.play(REHEARSE, "-e", "migrations_rehearse_copy=true").changed.values()) == {0}
    assert "were measured on a copy; production took " in deployed


def test_status_tells_where_each_stands(stand: Stand) -> None:
    stand.on(STAGING).migrate(1, allow_revert=True)
    stand.databases[PRODUCTION].execute(f"update {LEDGER} set success = false where version = 2")
    with stand.unchanged():
        status = stand.play(STATUS)
    said = " ".join(status.output.split())
    assert set(status.changed.values()) == {0}
    for host, words in {
        STAGING: ("pending 1", "dirty no", "1/installed table", "2/pending table"),
        PRODUCTION: ("dirty 2", "1/installed table"),
    }.items():
        own = said.partition(f"ok: [{host}] => msg: ")[2].partition("ok: [")[0]
        for word in words:
            assert word in own, f"{word!r} is not in: {said}"
