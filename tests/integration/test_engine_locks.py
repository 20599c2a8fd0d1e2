"""Waiting: every wait has an end, who is waited for is named, and many at once get along."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import lock, outside
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError, LockError, MigrationError
from support.migrations import HISTORY, LEDGER, Release
from support.postgres import Database

TESTS = Path(__file__).parents[1]


@contextmanager
def session(database: Database, *statements: str, application: str = "a report", user: Optional[str] = None) -> Iterator[Any]:
    """A session of somebody else that did something, and keeps what it has."""
    with closing(database.connect(application_name=application, user=user)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)
        yield connection


def process(connection: Any) -> int:
    return connection.info.backend_pid  # type: ignore[no-any-return]


def wait_until(database: Database, query: str) -> None:
    """Wait for a query's answer to be yes, however busy the machine is."""
    deadline = time.monotonic() + 30
    while database.execute(query) != [(True,)]:
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


def test_a_lock_on_a_table_is_waited_for_within_bounds(release: Release) -> None:
    release.add_tables(1, 1)
    release.migrate()
    release.add("2_alter", "create table before_it ();\nalter table t1 add x int;\n")
    before = release.database.dump()
    with session(release.database, "begin", "select count(*) from t1 /* for ages */") as blocker:
        pid = process(blocker)
        began = time.monotonic()
        with pytest.raises(ExecutionError) as error:
            release.migrate(lock_timeout=1.2, lock_retries=1)
        assert 2.4 <= time.monotonic() - began < 6
        (holder,) = error.value.failed["blocked_by"]
    assert holder["pid"] == pid
    assert (holder["user"], holder["application"], holder["state"]) == (release.database.owner, "a report", "idle in transaction")
    assert "for ages" in holder["query"]
    assert error.value.failed["sqlstate"] == "55P03"
    assert f"blocked by process {pid} of {release.database.owner} (a report)" in error.value.message
    assert "Version 2 was rolled back whole" in error.value.recovery
    assert (release.versions(), release.database.dump()) == ([1], before)


def test_it_passes_once_the_lock_is_freed(release: Release) -> None:
    release.add_tables(1, 1)
    release.migrate()
    release.add("2_alter", "alter table t1 add x int;")
    with session(release.database, "begin", "lock t1 in access share mode") as blocker:
        timer = threading.Timer(0.7, lambda: blocker.cursor().execute("commit"))
        timer.start()
        answer = release.migrate(lock_timeout=0.2, lock_retries=5)
        timer.join()
    assert [entry["version"] for entry in answer["applied"]] == [2]


def test_nobody_waits_long_behind_a_waiting_migration(release: Release) -> None:
    release.add("1_table", "create table t1 (id int);")
    release.migrate()
    release.add("2_alter", "alter table t1 add x int;")
    stalls: List[float] = []
    done = threading.Event()

    def write() -> None:
        with session(release.database, application="a writer") as writer:
            cursor = writer.cursor()
            while not done.is_set():
                began = time.monotonic()
                cursor.execute("insert into t1 values (1)")
                stalls.append(time.monotonic() - began)

    with session(release.database, "begin", "select * from t1"):
        writer = threading.Thread(target=write)
        writer.start()
        with pytest.raises(ExecutionError):
            release.migrate(lock_timeout=0.3, lock_retries=2)
        done.set()
        writer.join()
    assert 0.25 < max(stalls) < 0.3 + 0.5


def test_a_deadlock_is_tried_again(release: Release) -> None:
    release.add_tables(1, 2)
    release.migrate()
    release.add("3_both", "lock t1; select pg_sleep(0.4); lock t2; create table done ();")
    # It is not the one that the server ends.
    with session(release.database, "set deadlock_timeout = '10s'", user="postgres") as other:
        other.autocommit = False

        def cross() -> None:
            cursor = other.cursor()
            cursor.execute("lock t2")
            ready.set()
            wait_until(release.database, "select exists (select from pg_locks where relation = 't1'::regclass and granted)")
            try:
                cursor.execute("lock t1")
            finally:
                other.rollback()

        ready = threading.Event()
        thread = threading.Thread(target=cross)
        thread.start()
        assert ready.wait(30)
        answer = release.migrate(lock_timeout=5.0)
        thread.join()
    assert [entry["version"] for entry in answer["applied"]] == [3]
    wait_until(release.database, "select deadlocks > 0 from pg_stat_database where datname = current_database()")


# The lock that sqlx takes


def sqlx_key(database: Database) -> int:
    return int(lock.key(database.name))


@pytest.mark.parametrize("held", ["theirs", "ours"])
def test_another_run_is_waited_for_and_named(release: Release, held: str) -> None:
    release.add_tables(1, 1)
    key = sqlx_key(release.database) | (0 if held == "theirs" else 1 << 62)
    with session(release.database, "begin", f"select pg_advisory_lock({key})", application="another run") as holder:
        pid = process(holder)
        began = time.monotonic()
        with pytest.raises(LockError) as error:
            release.migrate(advisory_lock_timeout=0.6)
        assert 0.6 <= time.monotonic() - began < 3
    (blocker,) = error.value.failed["blocked_by"]
    assert (blocker["pid"], blocker["application"]) == (pid, "another run")
    assert f"process {pid} of {release.database.owner} (another run)" in error.value.message
    assert "idle session keeps" not in error.value.recovery
    assert not release.has(LEDGER)


def test_a_lock_leaked_by_an_idle_session_is_explained_and_can_be_ended(release: Release) -> None:
    release.add_tables(1, 1)
    with session(release.database, f"select pg_advisory_lock({sqlx_key(release.database)})", application="a pool"):
        with pytest.raises(LockError) as error:
            release.migrate(advisory_lock_timeout=0.3)
        assert "An idle session keeps the lock" in error.value.recovery
        assert "pg_terminate_backend" in error.value.recovery
        assert release.migrate(end_idle_lock_holder=0.1)["changed"]


def test_a_lock_that_may_not_be_ended_is_one_clear_error(release: Release) -> None:
    release.add_tables(1, 1)
    # Who sees that a superuser's session is idle may still not end it.
    release.database.server.execute(f"grant pg_read_all_stats to {release.database.owner}")
    with session(release.database, f"select pg_advisory_lock({sqlx_key(release.database)})", user="postgres"):
        for run in (release.migrate, release.roll_out):
            with pytest.raises(MigrationError, match="SQLSTATE 42501"):
                run(end_idle_lock_holder=0.1)


def test_the_lock_of_another_database_is_no_obstacle(release: Release) -> None:
    release.add_tables(1, 1)
    with release.database.server.database() as other, session(other, f"select pg_advisory_lock({sqlx_key(release.database)})"):
        assert release.migrate(advisory_lock_timeout=0.1)["changed"]


def test_a_run_that_had_to_wait_finds_the_work_done(release: Release) -> None:
    release.add_tables(1, 1)
    with session(release.database, f"select pg_advisory_lock({sqlx_key(release.database)})") as other:
        answers: List[Dict[str, Any]] = []
        thread = threading.Thread(target=lambda: answers.append(release.migrate()))
        thread.start()
        wait_until(release.database, "select exists (select from pg_stat_activity where application_name like 'schema_registry.postgresql%')")
        time.sleep(0.6)
        release.database.execute(
            f"create table {LEDGER} (version bigint primary key, description text not null, installed_on timestamptz not null"
            " default now(), success boolean not null, checksum bytea not null, execution_time bigint not null);"
            f"insert into {LEDGER} values (1, 'table', now(), true, decode('{release.read().migrations[0].checksum.hex()}', 'hex'), 1)"
        )
        other.close()
        thread.join()
    assert not answers[0]["changed"]
    assert answers[0]["waited_for"] > 0.5
    assert not release.has("t1")


def test_an_uncommitted_row_of_a_run_without_lock_is_waited_for(release: Release) -> None:
    """sqlx-cli takes no lock; its row is what is met."""
    release.add_tables(1, 2)
    release.migrate(1)
    theirs = (
        f"insert into {LEDGER} (version, description, success, checksum, execution_time)"
        f" values (2, 'table', true, decode('{release.read().migrations[1].checksum.hex()}', 'hex'), -1)"
    )
    with session(release.database, "begin", "create table t2 (id int)", theirs) as other:
        threading.Timer(0.5, lambda: other.cursor().execute("commit")).start()
        answer = release.migrate()
    assert not answer["changed"]
    assert release.versions() == [1, 2]


def test_nothing_of_ours_stays_locked(release: Release) -> None:
    release.add_tables(1, 1)
    release.add("2_outside", "-- no-transaction\nvacuum;")
    release.add("3_broken", "select broken;")
    with pytest.raises(ExecutionError):
        release.migrate()
    assert release.database.execute("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]
    sessions = (
        "select count(*) = 0 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'"
    )
    wait_until(release.database, sessions)


# Many at once

RUN = """
import json, sys
from support.migrations import Release
from support.postgres import Database
from types import SimpleNamespace
from pathlib import Path
server = SimpleNamespace(socket_directory=sys.argv[2], port=int(sys.argv[3]))
answer = Release(Path(sys.argv[1]), Database(server, sys.argv[4], sys.argv[5], "")).migrate(advisory_lock_timeout=60.0)
print(json.dumps([entry["version"] for entry in answer["applied"]]))
"""


def start(release: Release) -> "subprocess.Popen[str]":
    server = release.database.server
    arguments = [str(release.directory), str(server.socket_directory), str(server.port), release.database.name, release.database.owner]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(run: "subprocess.Popen[str]") -> Tuple[str, str]:
    return run.communicate(timeout=90)


def test_ten_runs_at_once_apply_everything_once(release: Release) -> None:
    release.add_tables(1, 8)
    # Tables and an index that is built while others ask for the lock.
    release.add("9_rows", "insert into t1 select generate_series(1, 20000);")
    release.add("10_index", "-- no-transaction\ncreate index concurrently i on t1 (id);\nanalyze t1;\ncreate unique index concurrently u on t1 (id);")
    release.add_tables(11, 20)
    outputs = [finish(run) for run in [start(release) for _unused in range(10)]]
    assert [error for _unused, error in outputs] == [""] * 10
    applied = sorted(output.strip() for output, _unused in outputs)
    assert applied == [str(list(range(1, 21)))] + ["[]"] * 9
    assert release.versions() == list(range(1, 21))
    done = f"select version, count(*) from {HISTORY} where action = 'apply' and outcome = 'done' group by 1 having count(*) > 1"
    assert release.database.execute(done) == []


def test_an_index_build_does_not_deadlock_with_an_application_that_waits(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application's pg_advisory_lock waits inside the server with a snapshot, for which a concurrent build would wait in turn."""
    release.add("1_rows", "create table rows as select generate_series(1, 1000) as id;")
    release.add("2_index", "-- no-transaction\ncreate index concurrently i on rows (id);")
    release.add_tables(3, 3)
    waiting = threading.Event()
    ended: List[float] = []

    def wait() -> None:
        with session(release.database, application="an application") as application:
            waiting.set()
            application.cursor().execute(f"select pg_advisory_lock({sqlx_key(release.database)})")
            ended.append(time.monotonic())
            # As sqlx's library does: the ledger is dirty, it gives up.
            time.sleep(0.3)

    application = threading.Thread(target=wait)
    build = outside.run

    def with_a_waiter(*arguments: Any) -> None:
        application.start()
        waiting.wait()
        time.sleep(0.2)
        build(*arguments)

    monkeypatch.setattr(outside, "run", with_a_waiter)
    began = time.monotonic()
    release.migrate()
    assert time.monotonic() - began < 10
    application.join()
    assert ended
    assert release.versions() == [1, 2, 3]
