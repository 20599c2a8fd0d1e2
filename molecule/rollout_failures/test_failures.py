"""What goes wrong in a rollout, played through on real hosts, and the state of every host afterwards.

The hosts are used again for each failure: what it left behind is taken away with a few statements, and all stand at version 2 of a
release of tables, proven on staging. What was observed is written to tests/output/rollout-failures.md; docs/rollout.md has it from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import pytest

SCENARIO = Path(__file__).parent
CHECKOUT = SCENARIO.parents[1]
OUTPUT = CHECKOUT / "tests" / "output"
PREFIX = f"schema-registry-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]}-{SCENARIO.name}-"

# Host: machine and port.
WHERE = {
    "staging-1": ("calm", 5431),
    "production-1": ("calm", 5432),
    "production-2": ("mortal", 5433),
    "production-3": ("calm", 5434),
    "standby": ("calm", 5435),
}
STAGING, ONE, TWO, THREE, STANDBY = WHERE
PRODUCTION = (ONE, TWO, THREE)
HOSTS = (STAGING, *PRODUCTION)
AT_ONCE = "deploy_waves=100%"
PATIENCE = 240  # seconds; a run that takes longer hangs

# Everything that any of the failures may have left behind.
RESET = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and application_name like 'schema_registry.postgresql%' and pid <> pg_backend_pid();
drop table if exists t3, t4, t5, by_hand;
delete from _sqlx_migrations where version > 2;
delete from _sqlx_migrations_history where version > 2 or (version = 2 and action = 'prove' and outcome = 'begun');
truncate t1, t2;
"""


def run(*command: object, text: str = "", check: bool = True) -> str:
    """Run a command here; what it said."""
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def on_machine(machine: str, *command: object, user: str = "postgres", **more: Any) -> str:
    return run("podman", "exec", "--interactive", "--user", user, PREFIX + machine, *command, **more)


def psql(host: str, sql: str) -> str:
    """Run statements on a host, as the superuser; the answer."""
    machine, port = WHERE[host]
    return on_machine(machine, "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-p", port, "-d", "schema_registry", text=sql).strip()


class State(NamedTuple):
    """What is in a host's database, but for the history, which also tells of failures."""

    everything: str
    """The dump: data and ledger to the last digit, so that it also says when something was applied."""
    schema: str
    """The dump without data."""
    ledger: Tuple[Tuple[str, ...], ...]
    """Version, description, success and checksum of every row."""

    @property
    def versions(self) -> List[int]:
        """Those that are applied; an unfinished one is an error."""
        assert all(row[2] == "t" for row in self.ledger), self.ledger
        return [int(row[0]) for row in self.ledger]


def state(host: str) -> State:
    """Look at a host, past the collection."""
    machine, port = WHERE[host]
    dump = on_machine(machine, "pg_dump", "-p", port, "-d", "schema_registry", "--exclude-table=*_history")
    dump = re.sub(r"^\\(un)?restrict .*\n", "", dump, flags=re.MULTILINE)
    data = r"^COPY (\S+) .*?;\n(.*?)^\\\.$"
    tables = dict(re.findall(data, dump, flags=re.MULTILINE | re.DOTALL))
    ledger = [line.split("\t") for line in tables["public._sqlx_migrations"].splitlines()]
    return State(dump, re.sub(data, "", dump, flags=re.MULTILINE | re.DOTALL), tuple((*row[:2], *row[3:5]) for row in sorted(ledger)))


def everywhere(look: Callable[[str], Any], hosts: Iterable[str]) -> Dict[str, Any]:
    """The same on every host, side by side."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(hosts, pool.map(look, hosts)))


def wait_until(truth: Callable[[], bool], what: str) -> None:
    for _attempt in range(120):
        if truth():
            return
        time.sleep(0.5)
    raise AssertionError(f"never came: {what}")


class World:
    """The hosts, a release on its way to them, and runs of deploy.yml."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.migrations = directory / "migrations"
        self.verify = directory / "verify"
        self.report_file = directory / "report.json"
        self.said = ""
        self.before: Dict[str, State] = {}
        self.observed: List[str] = []
        shared = SCENARIO.parent / "shared"
        sources = [f"--inventory={path}" for path in (shared / "inventory.yml", SCENARIO / "inventory.yml", shared / "resolved.yml")]
        variables = {
            "migrations_source": str(self.migrations),
            "migrations_verify": str(self.verify),
            "migrations_rules": {"missing-verify": "ignore", "squawk": "ignore"},
            "deploy_report": str(self.report_file),
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        self._command = [str(program), *sources, "--extra-vars", json.dumps(variables), str(CHECKOUT / "deploy.yml")]
        self._environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".ansible" / "collections"),
            # Molecule wants colours, which stand between the words that are looked for.
            "ANSIBLE_FORCE_COLOR": "0",
            "MOLECULE_PROJECT_DIRECTORY": str(CHECKOUT),
            "MOLECULE_SCENARIO_NAME": SCENARIO.name,
        }

    def add(self, name: str, up: str, down: str, verify: str = "") -> None:
        """Write a migration."""
        (self.migrations / f"{name}.up.sql").write_text(up + "\n")
        (self.migrations / f"{name}.down.sql").write_text(down + "\n")
        if verify:
            (self.verify / f"{name}.sql").write_text(verify + "\n")

    def add_tables(self, *versions: int) -> None:
        for version in versions:
            self.add(f"{version}_table", f"create table t{version} (id bigint);", f"drop table t{version};")

    def write_release(self) -> None:
        for directory in (self.migrations, self.verify):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        self.add_tables(1, 2)

    def begin(self) -> None:
        self.write_release()
        everywhere(lambda host: psql(host, RESET), HOSTS)
        self.before = everywhere(state, WHERE)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        self.report_file.unlink(missing_ok=True)
        words = [word for argument in arguments for word in (["--extra-vars", argument] if "=" in argument else [argument])]
        return subprocess.Popen(
            [*self._command, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> bool:
        """Whether the run went well."""
        try:
            self.said, _nothing = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs: {process.communicate()[0]}") from None
        return process.returncode == 0

    def deploy(self, *arguments: str) -> bool:
        return self.finish(self.start(*arguments))

    def says(self, *words: str) -> None:
        said = " ".join(self.said.split())
        for each in words:
            assert each in said, f"{each!r} is not in: {self.said}"

    def rows(self) -> Dict[str, Dict[str, Any]]:
        return {row["host"]: row for row in json.loads(self.report_file.read_text())["hosts"]}

    def outcomes(self) -> Tuple[str, ...]:
        """Of staging and the three of production; the standby is always left alone, or not reached."""
        rows = self.rows()
        assert rows.pop(STANDBY, {"outcome": "left alone"})["outcome"] in ("left alone", "not reached", "stopped")
        deployed = {row["to_version"]: row["fingerprint"] for row in rows.values() if row["deployed"]}
        assert all(row["fingerprint"] == deployed[row["to_version"]] for row in rows.values() if row["deployed"])
        found = {host: rows[host]["outcome"] for host in HOSTS if host in rows}
        self.observed.append("reported: " + ", ".join(f"{host} {outcome}" for host, outcome in found.items()))
        return tuple(found.values())

    def arrange(self, host: str, sql: str) -> None:
        """Make a host what it is before the run; that is what it shall be compared with afterwards."""
        psql(host, sql)
        self.before[host] = state(host)

    def stand_at(self, *versions: List[int]) -> None:
        """The ledgers of staging and the three of production. Whoever stands where it stood is exactly as before; others are as staging is."""
        states: Dict[str, State] = everywhere(state, WHERE)
        assert states[STANDBY] == self.before[STANDBY], "the standby is not what it was"
        for host, wanted in zip(HOSTS, versions):
            assert states[host].versions == wanted, f"{host} stands at {states[host].versions}: {self.said}"
            if wanted == [1, 2]:
                assert states[host] == self.before[host], f"{host} is not what it was"
            elif wanted == versions[0]:
                assert states[host].ledger == states[STAGING].ledger, f"{host} has other rows than staging"
                assert states[host].schema == states[STAGING].schema, f"{host} has another schema than staging"
        stand = (f"{host} {wanted[-1]}" + (" (as before)" if wanted == [1, 2] else "") for host, wanted in zip(HOSTS, versions))
        self.observed.append("found: " + ", ".join(stand))


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All at version 2 of a small release, where the registry was; and one of them a standby."""
    # Where the hosts were kept, it is a standby since the last time.
    psql(STANDBY, "select pg_promote() where pg_is_in_recovery()")
    everywhere(lambda host: psql(host, "drop schema public cascade; create schema public authorization schema_registry_owner;"), WHERE)
    world = World(tmp_path_factory.mktemp("world"))
    world.write_release()
    assert world.deploy(AT_ONCE), world.said
    machine, port = WHERE[STANDBY]
    script = (
        f"set -e; set -- $(pg_lsclusters --no-header | awk '$3 == {port} {{ print $1, $6 }}');"
        f" touch $2/standby.signal; chown postgres: $2/standby.signal; systemctl restart postgresql@$1-{STANDBY}"
    )
    on_machine(machine, "sh", "-c", script, user="root")
    wait_until(lambda: psql(STANDBY, "select pg_is_in_recovery()") == "t", "the standby")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "rollout-failures.md").write_text("")
    yield world


@pytest.fixture
def world(hosts: World, request: pytest.FixtureRequest) -> Iterator[World]:
    hosts.begin()
    hosts.observed.clear()
    yield hosts
    with (OUTPUT / "rollout-failures.md").open("a") as file:
        print(f"| {request.node.name} | {' → '.join(hosts.observed)} |", file=file)


def test_a_migration_that_fails_on_staging(world: World) -> None:
    world.add("3_breaks", "create table t3 (id bigint); select 1 / 0;", "drop table t3;")
    # Whoever connects to it now hangs.
    run("podman", "pause", PREFIX + "mortal")
    try:
        assert not world.deploy()
    finally:
        run("podman", "unpause", PREFIX + "mortal")
    world.says("division by zero", "Production is not touched")
    assert world.outcomes() == ("failed", "not reached", "not reached", "not reached")
    world.stand_at([1, 2], [1, 2], [1, 2], [1, 2])


@pytest.mark.parametrize(("on_failure", "first"), [("keep", [1, 2, 3, 4]), ("return", [1, 2])])
def test_a_migration_that_fails_on_the_second_production_host(world: World, on_failure: str, first: List[int]) -> None:
    world.add_tables(3)
    world.add("4_data", "create table t4 as select 1 / (1 - id) as id from t1;", "drop table t4;")
    world.arrange(TWO, "insert into t1 values (1)")
    assert not world.deploy(f"deploy_on_failure={on_failure}")
    world.says("fatal: [production-2]", "division by zero", "(3) was reverted, and the host is as it was before this run")
    assert world.outcomes() == ("changed", {"keep": "changed", "return": "returned"}[on_failure], "failed", "not reached")
    assert world.rows()[TWO]["restore_point"].startswith("deploy-")
    world.stand_at([1, 2, 3, 4], first, [1, 2], [1, 2])


def test_a_verification_that_fails_with_the_data_of_production(world: World) -> None:
    world.add("3_table", "create table t3 (id bigint);", "drop table t3;", "do $$ begin assert not exists (select from t1); end $$;")
    world.arrange(ONE, "insert into t1 values (1)")
    assert not world.deploy()
    world.says("its verification failed", "as it was before")
    assert world.outcomes() == ("changed", "failed", "not reached", "not reached")
    world.stand_at([1, 2, 3], [1, 2], [1, 2], [1, 2])


def sleeps(world: World, host: str) -> None:
    """A migration that takes its time on one host."""
    sleep = "select pg_sleep(60) where exists (select from t1)"
    world.add("3_table", f"create table t3 (id bigint); {sleep};", "drop table t3;")
    world.arrange(host, "insert into t1 values (1)")


def is_sleeping(host: str) -> bool:
    return psql(host, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'") != "0"


def test_a_host_that_dies_and_comes_back(world: World) -> None:
    sleeps(world, TWO)
    process = world.start()
    wait_until(lambda: is_sleeping(TWO), "the migration")
    run("podman", "kill", PREFIX + "mortal")
    assert not world.finish(process)
    world.says("It does not answer any more")
    assert world.outcomes() == ("changed", "changed", "failed", "not reached")
    run(
        *(sys.executable, CHECKOUT / "tests" / "machines" / "host.py", "create"),
        *("--kind", "postgresql", "--hostname", "mortal", "--user", "deploy", PREFIX + "mortal"),
    )
    wait_until(lambda: psql(TWO, "select 1") == "1", "the server")
    world.stand_at([1, 2, 3], [1, 2, 3], [1, 2], [1, 2])
    psql(TWO, "truncate t1")
    # It is the same release, and this time nothing goes wrong.
    assert world.deploy(), world.said
    assert world.outcomes() == ("unchanged", "unchanged", "changed", "changed")
    world.stand_at(*[[1, 2, 3]] * 4)


def test_a_controller_that_is_killed_and_started_again(world: World) -> None:
    sleeps(world, ONE)
    process = world.start(AT_ONCE)
    wait_until(lambda: is_sleeping(ONE), "the migration")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # The module goes on without its controller, or is ended with it; either way the next run waits for it, or finds it done.
    psql(ONE, "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
    psql(ONE, "truncate t1")
    assert world.deploy(AT_ONCE), world.said
    assert world.outcomes()[0] == "unchanged"
    world.stand_at(*[[1, 2, 3]] * 4)


def test_two_controllers_at_once(world: World) -> None:
    world.add_tables(3)
    first, second = world.start(AT_ONCE), world.start(AT_ONCE)
    assert world.finish(first), world.said
    assert world.finish(second), world.said
    for host in PRODUCTION:
        done = "select count(*) from _sqlx_migrations_history where version = 3 and action = 'apply' and outcome = 'done'"
        assert psql(host, done) == "1"
    world.stand_at(*[[1, 2, 3]] * 4)


def test_a_production_schema_that_drifted(world: World) -> None:
    world.add_tables(3)
    world.arrange(ONE, "create table by_hand (id bigint)")
    assert not world.deploy()
    world.says("The schema has drifted")
    assert world.outcomes() == ("changed", "failed", "not reached", "not reached")
    world.stand_at([1, 2, 3], [1, 2], [1, 2], [1, 2])


def test_a_release_that_staging_never_saw_with_a_careless_limit(world: World) -> None:
    world.add_tables(3)
    assert not world.deploy("--limit", TWO)
    world.says("staging-1: 3 is not there yet")
    world.stand_at([1, 2], [1, 2], [1, 2], [1, 2])
    assert not world.deploy("--tags", "migrations")
    world.says("A rollout runs whole or not at all")
    world.stand_at([1, 2], [1, 2], [1, 2], [1, 2])


def test_a_release_that_was_edited_since(world: World) -> None:
    world.add_tables(3)
    assert world.deploy("--limit", "staging"), world.said
    world.add("3_table", "create table t3 (id bigint primary key);", "drop table t3;")
    assert not world.deploy("--limit", "production")
    world.says("staging-1: 3 is there with the state: installed (different checksum)")
    world.stand_at([1, 2, 3], [1, 2], [1, 2], [1, 2])


def test_a_lock_that_does_not_come(world: World) -> None:
    world.add_tables(3)
    world.add("4_column", "alter table t1 add column more bigint;", "alter table t1 drop column more;")
    machine, port = WHERE[ONE]
    holder = subprocess.Popen(
        ["podman", "exec", "--interactive", "--user", "postgres", PREFIX + machine, "psql", "-qX", "-p", str(port), "-d", "schema_registry"],
        stdin=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    try:
        holder.stdin.write("begin; lock table t1;\n")
        holder.stdin.flush()
        wait_until(lambda: psql(ONE, "select count(*) from pg_locks where mode = 'AccessExclusiveLock'") != "0", "the lock")
        assert not world.deploy('{"migrations_options":{"lock_timeout":0.5,"lock_retries":2},"x":"="}')
    finally:
        holder.communicate("rollback;\n")
    world.says("canceling statement due to lock timeout", "blocked by process", "as it was before")
    assert world.outcomes() == ("changed", "failed", "not reached", "not reached")
    for host in PRODUCTION:
        assert psql(host, "select count(*) from information_schema.columns where column_name = 'more'") == "0"
    psql(STAGING, "alter table t1 drop column more")
    world.stand_at([1, 2, 3, 4], [1, 2], [1, 2], [1, 2])


def test_a_full_disk(world: World) -> None:
    directory = "/var/lib/postgresql/small"
    for machine in ("calm", "mortal"):
        on_machine(machine, "mkdir", "-p", directory)
    run("podman", "exec", "--privileged", "--user", "root", PREFIX + "calm", "mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs", directory)
    on_machine("calm", "mkdir", "-p", f"{directory}/production-1", f"{directory}/production-3", f"{directory}/staging-1")
    try:
        # On the disk that is nearly full lies production's first host.
        for host in HOSTS:
            place = f"{directory}/{host}" if host == ONE else f"/var/lib/postgresql/room-{host}"
            on_machine(WHERE[host][0], "mkdir", "-p", place)
            psql(host, f"create tablespace room location '{place}'; grant create on tablespace room to public;")
        world.add_tables(3)
        world.add("4_big", "create table t4 tablespace room as select generate_series(1, 1000000) as id;", "drop table t4;")
        assert not world.deploy()
        world.says("MB are free where the cluster writes, and 512 are wanted")
        world.stand_at([1, 2, 3, 4], [1, 2], [1, 2], [1, 2])
        assert not world.deploy("deploy_min_free_mb=1")
        world.says("No space left on device", "(3) was reverted, and the host is as it was before this run")
        assert world.outcomes() == ("unchanged", "failed", "not reached", "not reached")
        world.stand_at([1, 2, 3, 4], [1, 2], [1, 2], [1, 2])
    finally:
        for host in HOSTS:
            psql(host, "drop table if exists t4")
            psql(host, "drop tablespace if exists room")
        with contextlib.suppress(AssertionError):
            run("podman", "exec", "--privileged", "--user", "root", PREFIX + "calm", "umount", "--lazy", directory)


def test_a_hot_fix_with_a_lower_version(world: World) -> None:
    world.add_tables(4)
    assert world.deploy(AT_ONCE), world.said
    world.add_tables(3)
    assert world.deploy(AT_ONCE), world.said
    world.says("Below the newest applied version 4, but not yet applied: 3", "1 applied, way back proven")
    assert world.outcomes() == ("changed",) * 4
    world.stand_at(*[[1, 2, 3, 4]] * 4)


def test_a_standby_in_the_group(world: World) -> None:
    world.add_tables(3)
    assert world.deploy(AT_ONCE), world.said
    assert world.rows()[STANDBY]["outcome"] == "left alone"
    world.stand_at(*[[1, 2, 3]] * 4)
