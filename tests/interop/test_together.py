"""Everybody at once: runs of ours, sqlx-cli without a lock, and applications with sqlx's."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import List, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import lock
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import LockError
from support.migrations import Release
from support.sqlx import APP, Cli

COUNT = 20
RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from support.migrations import Release
from support.postgres import Database
server = SimpleNamespace(socket_directory=sys.argv[2], port=int(sys.argv[3]))
answer = Release(Path(sys.argv[1]), Database(server, sys.argv[4], sys.argv[5], "")).migrate(advisory_lock_timeout=60.0, lock_timeout=2.0)
print(len(answer["applied"]))
"""


def fill(release: Release) -> None:
    release.migrations.mkdir()
    release.database.execute("create table steps (version int)")
    for version in range(1, COUNT + 1):
        text = f"create table t{version} (id int); insert into steps values ({version}); select pg_sleep(0.01);"
        (release.migrations / f"{version}_step.sql").write_text(text)


def start(*command: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd="/")


def ours(release: Release) -> "subprocess.Popen[str]":
    database = release.database
    server = database.server
    return start(sys.executable, "-c", RUN, release.directory, server.socket_directory, server.port, database.name, database.owner)


def theirs(release: Release, cli: Cli) -> "subprocess.Popen[str]":
    return start(cli.program, "migrate", "run", "--source", release.migrations, "--database-url", release.database.url)


def applications(release: Release) -> "subprocess.Popen[str]":
    return start(APP, "run", release.migrations, release.database.url)


def outcome(process: "subprocess.Popen[str]") -> Tuple[int, str]:
    output = process.communicate(timeout=90)[0]
    return process.returncode, output


def each_once(release: Release) -> None:
    assert release.versions() == list(range(1, COUNT + 1))
    assert release.database.execute("select version from steps order by 1") == [(version,) for version in range(1, COUNT + 1)]


@pytest.mark.parametrize("attempt", range(3))
def test_everybody_at_once(release: Release, cli: Cli, attempt: int) -> None:
    fill(release)
    processes = []
    for _unused in range(3):
        processes += [applications(release), ours(release), theirs(release, cli)]
    outcomes = [outcome(process) for process in processes]
    ours_too: List[Tuple[int, str]] = outcomes[1::3]
    assert all(code == 0 for code, _unused in ours_too), ours_too
    # Who finds the work half done by one without a lock may give up, but never with half a migration.
    assert not release.migrate()["changed"]
    each_once(release)


def test_applications_and_runs_of_ours_never_fail(release: Release) -> None:
    """All of them lock: whoever comes first does everything."""
    fill(release)
    outcomes = [outcome(process) for process in [start_one(release) for _unused in range(4) for start_one in (applications, ours)]]
    assert [code for code, _unused in outcomes] == [0] * 8, outcomes
    each_once(release)


def test_an_application_waits_while_an_index_is_built(release: Release) -> None:
    """It gets sqlx's lock for the time of the build, finds the ledger dirty and gives up; it neither deadlocks nor disturbs."""
    fill(release)
    (release.migrations / "7_step.sql").write_text(
        "-- no-transaction\ninsert into steps values (7);\ncreate index concurrently i on t1 (id);\ncreate index concurrently j on t2 (id);"
    )
    processes = [ours(release)] + [applications(release) for _unused in range(4)] + [ours(release) for _unused in range(2)]
    outcomes = [outcome(process) for process in processes]
    assert [code for code, _unused in (outcomes[0], *outcomes[5:])] == [0] * 3, outcomes
    for code, output in outcomes[1:5]:
        assert code == 0 or "PartiallyApplied" in output.replace(" ", "") or "Dirty(7)" in output or "cannot run inside a transaction" in output, output
    release.migrate()
    each_once(release)


def test_a_lock_leaked_by_an_application_is_explained(release: Release) -> None:
    """Its migration failed, and its pool keeps the connection, lock and all."""
    release.add("1_broken", "select broken;")
    command = [APP, "hold", release.migrations, release.database.url]
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as application:
        assert application.stdin and application.stdout
        assert application.stdout.readline() == "failed\n"
        release.add("1_broken", "select 1;")
        with pytest.raises(LockError) as error:
            release.migrate(advisory_lock_timeout=0.3)
        (holder,) = error.value.failed["blocked_by"]
        assert (holder["user"], holder["state"]) == (release.database.owner, "idle in transaction (aborted)")
        assert "An idle session keeps the lock" in error.value.recovery
        assert release.migrate(end_idle_lock_holder=0.1)["changed"]
        application.stdin.close()
        assert application.wait(timeout=10) == 0


def test_the_key_is_the_one_that_sqlx_takes(release: Release) -> None:
    """An application waits for it, and goes on once it is free."""
    release.add_tables(1, 1)
    with closing(release.database.connect()) as connection:
        connection.cursor().execute(f"select pg_advisory_lock({lock.key(release.database.name)})")
        process = applications(release)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        connection.close()
        assert outcome(process)[0] == 0
    assert release.versions() == [1]
