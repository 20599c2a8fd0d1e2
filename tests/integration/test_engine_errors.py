"""What goes wrong, and what is said about it: place, statement and SQLSTATE; the database as it was; what to do next."""

from __future__ import annotations

import re
import threading
import time
from contextlib import closing
from typing import Any, Callable, Iterator, List

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import executor
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import failure as failures
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import (
    ConnectionFailed,
    ExecutionError,
    MigrationError,
    PlanError,
    SourceError,
)
from support.migrations import HISTORY, LEDGER, Release
from support.postgres import Database, Server


def failure(release: Release, **arguments: Any) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        release.migrate(**arguments)
    return caught.value


def place(error: MigrationError) -> Any:
    return error.failed["line"], error.failed.get("column"), error.failed["sqlstate"], error.failed["statement"]


SYNTAX = "create table a (id int);\n\n-- été\ncreate table b (id int);\n  create tabel c (id int);\ncreate table d ();\n"
RUNTIME = "create table a (id int);\ninsert into a values (0);\n\n  -- half of it\nselect\n  1 / id from a;\ncreate table d ();\n"
UNDEFINED = "create table a (id int);\ninsert into a (id,\n   näme) values (1, 'x');\n"
FUNCTION = """create function broken() returns void language plpgsql as $$
begin
    perform 1;
    insert into nowhere values (1);
end $$;
create table a ();
select broken();
create table b ();
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SYNTAX, (5, 10, "42601", "create tabel c (id int)")),
        (SYNTAX.replace("\n", "\r\n"), (5, 10, "42601", "create tabel c (id int)")),
        (RUNTIME, (5, None, "22012", "select\n  1 / id from a")),
        (UNDEFINED, (3, 4, "42703", "insert into a (id,\n   näme) values (1, 'x')")),
        (FUNCTION, (7, None, "42P01", "select broken()")),
        ("select 1 from missing", (1, 15, "42P01", "select 1 from missing")),
        ("\n\ndo $$ begin raise exception 'enough' using errcode = 'ZZ001', hint = 'eat less'; end $$", (3, None, "ZZ001", None)),
    ],
)
def test_an_error_has_a_place(release: Release, text: str, expected: Any) -> None:
    release.add_tables(1, 2)
    script = release.add("3_broken", text)
    release.add_tables(4, 4)
    error = failure(release)

    line, column, sqlstate, statement = expected
    assert place(error) == (line, column, sqlstate, statement or error.failed["statement"])
    assert error.failed["file"] == str(script)
    assert f"{script}, line {line}" in error.message
    assert sqlstate in error.message
    assert release.versions() == [1, 2]
    assert (release.has("a"), release.has("t2"), release.has("t4")) == (False, True, False)
    assert [entry["version"] for entry in error.failed["partial"]["applied"]] == [1, 2]
    assert "applied 1; applied 2" in error.recovery
    assert "Version 3 was rolled back whole" in error.recovery
    assert error.failed["version"] == 3

    script.write_text("select 1;")
    assert [entry["version"] for entry in release.migrate()["applied"]] == [3, 4]


def test_context_detail_and_hint_are_told(release: Release) -> None:
    release.add("1_function", FUNCTION)
    error = failure(release)
    assert "PL/pgSQL function broken() line 4 at SQL statement" in error.failed["context"]
    assert error.failed["context"] in error.message

    release.add("1_function", "do $$ begin raise 'enough' using hint = 'eat less', detail = 'much'; end $$")
    error = failure(release)
    assert (error.failed["detail"], error.failed["hint"]) == ("much", "eat less")
    assert "eat less" in error.message


def test_a_first_file_that_fails_leaves_nothing(release: Release) -> None:
    empty = release.database.dump()
    release.add("1_broken", SYNTAX)
    assert "Nothing of this run is in the database" in failure(release).recovery
    release.database.execute(f"drop table {LEDGER}, {HISTORY}")
    assert release.database.dump() == empty


DEFERRED = """
create table parent (id int primary key);
create table child (id int references parent deferrable initially deferred);
insert into child values (1);
create table later ();
"""


@pytest.mark.parametrize("verify", [None, "select * from child;"])
@pytest.mark.parametrize("more", [False, True])
def test_a_deferred_constraint_that_fails_at_commit(release: Release, verify: str, more: bool) -> None:
    release.add_tables(1, 1)
    script = release.add("2_deferred", DEFERRED, verify=verify)
    if more:
        release.add_tables(3, 3)
    error = failure(release)
    assert error.failed["sqlstate"] == "23503"
    assert error.failed["file"] == str(script)
    assert "Key (id)=(1)" in error.message
    assert [entry["version"] for entry in error.failed["partial"]["applied"]] == [1]
    assert (release.versions(), release.has("parent"), release.has("t3")) == ([1], False, False)


@pytest.mark.parametrize(("slow", "runs"), [(0.0, 2), (0.3, 1)])
def test_a_long_file_is_not_run_again_for_the_place_of_an_error(release: Release, monkeypatch: pytest.MonkeyPatch, slow: float, runs: int) -> None:
    monkeypatch.setattr(failures, "_RETRACE", 0.2)
    release.add("1_runs", "create sequence runs;")
    release.add("2_slow", f"select nextval('runs'), pg_sleep({slow});", verify="select 1;\nselect 1 / 0 from runs;\n")
    error = failure(release)
    assert "its verification failed: division by zero" in error.message
    assert error.failed.get("line") == (2 if runs == 2 else None)
    # No rollback takes back what a sequence has given out.
    assert release.database.execute("select last_value from runs") == [(runs,)]


def test_a_deferred_trigger_sees_the_session_of_its_file(release: Release) -> None:
    release.add(
        "1_trigger",
        """
        create schema app;
        set search_path to app;
        create table counted (id int);
        create table log (id int);
        create function note() returns trigger language plpgsql as $$ begin insert into log values (new.id); return null; end $$;
        create constraint trigger note after insert on counted deferrable initially deferred for each row execute function note();
        insert into counted values (7);
        create temporary table passing (id int primary key, parent int references passing deferrable initially deferred);
        insert into passing values (1, 2), (2, 1);
        """,
    )
    release.migrate()
    assert release.database.execute("select id from app.log") == [(7,)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("create table a ();\ncommit;\n", 2),
        ("begin;\ncreate table a ();\nend;", 1),
        ("/* commit; */ select 'commit;', $$commit;$$;\n\nSavePoint x;", 3),
        ("start\ttransaction;", 1),
        ("select 1; prepare transaction 'x';", 1),
        ("create table a ();\n\\i other.sql", 2),
        ("create table a ();\ncopy a from stdin;\n1\n\\.\n", 2),
        ("select 1;\n\nselect 'never closed;\nbegin;", 3),
    ],
)
def test_transaction_control_is_refused_before_anything_runs(release: Release, text: str, line: int) -> None:
    release.add_tables(1, 1)
    script = release.add("2_control", text)
    with pytest.raises(ExecutionError) as predicted:
        release.predict()
    error = failure(release)
    assert error.message == predicted.value.message
    assert (error.failed["file"], error.failed["line"], error.failed["version"]) == (str(script), line, 2)
    assert f"{script}, line {line}: " in error.message
    assert not release.has(LEDGER)
    assert not release.has("t1")


def test_words_that_only_look_like_transaction_control_are_welcome(release: Release) -> None:
    release.add(
        "1_words",
        """
        create table release (id int, commit text default 'rollback;', "begin" int);
        create function f() returns int language plpgsql as $$ begin return 1; end; $$;
        create function g(x int) returns int language sql begin atomic; select case when x > 1 then 1 else 2 end; end;
        prepare release as select 1; deallocate release;
        -- commit;
        """,
    )
    release.migrate()
    assert release.versions() == [1]


def test_transaction_control_can_be_allowed(release: Release) -> None:
    release.add("1_moved", "begin;\ncreate table a ();\ncommit;\n", verify="select from a;")
    release.add_tables(2, 2)
    release.migrate(allow_transaction_control=True)
    assert (release.versions(), release.has("a")) == ([1, 2], True)


def test_every_wrong_file_is_named_before_anything_is_connected_to(release: Release) -> None:
    release.add_tables(1, 1)
    (release.migrations / "V2__x.sql").write_text("")
    (release.migrations / "01_again.sql").write_text("")
    (release.migrations / "3_latin.sql").write_bytes(b"select 1;\nselect '\xe9';")
    (release.migrations / "4_nul.sql").write_bytes(b"select 1;\n\n\0")
    (release.migrations / "notes.sql").write_text("")
    with pytest.raises(SourceError) as caught:
        release.migrate(parameters={"port": 1})
    problems = "\n".join(caught.value.failed["problems"])
    assert len(caught.value.failed["problems"]) == 5
    assert all(name in problems for name in ("V2__x.sql", "3_latin.sql, line 2", "4_nul.sql, line 3", "notes.sql"))
    assert "version 1 is also in" in problems


# The connection


@pytest.fixture
def unreachable(server: Server) -> Iterator[int]:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_no_connection_is_one_clear_error(release: Release, unreachable: int) -> None:
    release.add_tables(1, 1)
    server = release.database.server
    tcp = {"host": server.host, "port": server.port}
    for parameters, fields, said in (
        ({**tcp, "password": "wrong"}, {}, "password authentication failed"),
        ({**tcp, "port": unreachable}, {}, "[Cc]onnection refused"),
        ({"host": "/nowhere"}, {}, "No such file"),
        ({}, {"session_role": "nobody_at_all"}, "nobody_at_all"),
        ({}, {"session_role": "postgres"}, "permission denied"),
        ({"user": "nobody_at_all"}, {}, "nobody_at_all"),
    ):
        error = failure(release, parameters=parameters, **fields)
        assert isinstance(error, ConnectionFailed)
        assert re.search(said, error.message)
        assert error.recovery.startswith("Nothing was changed.")
    gone = Release(release.directory, Database(server, "never_was", release.database.owner, ""))
    assert '"never_was" does not exist' in failure(gone).message
    assert not release.has(LEDGER)


def test_a_read_only_login_is_refused(release: Release) -> None:
    release.add_tables(1, 1)
    release.database.execute(f"alter role {release.database.owner} set default_transaction_read_only to on", user="postgres")
    assert "read-only" in failure(release).message
    with pytest.raises(ConnectionFailed):
        release.predict()
    assert release.info()["pending"] == [1]


def test_a_role_that_may_only_read_gets_information(release: Release) -> None:
    reader = f"{release.database.owner}_reader"
    release.database.server.execute(f"create role {reader} login")
    try:
        release.add_tables(1, 2)
        as_reader = release.as_user(reader)
        assert (as_reader.info()["ledger_exists"], as_reader.info()["pending"]) == (False, [1, 2])
        error = failure(as_reader)
        assert error.failed["sqlstate"] == "42501"
        assert "permission denied for schema public" in error.message

        release.migrate()
        error = failure(as_reader)
        assert "permission denied for table _sqlx_migrations" in error.message
        release.database.execute(f"grant select on {LEDGER} to {reader}")
        assert as_reader.info()["migrations"] == release.info()["migrations"]
        assert as_reader.info()["fingerprint"] == release.info()["fingerprint"]
        assert not as_reader.migrate()["changed"], "where there is nothing to do, nothing but reading is needed"
    finally:
        release.database.execute(f"drop owned by {reader}", user="postgres")
        release.database.server.execute(f"drop role {reader}")


# The connection goes while it is needed


def kill_soon(database: Database, running: str) -> threading.Thread:
    """End the session that runs a statement, as soon as it does."""

    def kill() -> None:
        with closing(database.server.connect()) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                cursor.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and state = 'active' and query like %s",
                    [database.name, running],
                )
                if cursor.fetchall():
                    return
                time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_connection_lost_in_a_file_undoes_the_file(release: Release) -> None:
    release.add_tables(1, 1)
    release.add("2_slow", "create table slow ();\nselect pg_sleep(20);")
    killer = kill_soon(release.database, "%pg_sleep(20)%")
    error = failure(release)
    killer.join()
    assert "server closed the connection" in error.message or "terminating connection" in error.message
    assert "Version 2 was rolled back whole" in error.recovery
    assert (release.versions(), release.has("slow")) == ([1], False)
    release.add("2_slow", "create table slow ();")
    assert [entry["version"] for entry in release.migrate()["applied"]] == [2]


class Cut:
    """A connection that breaks around a commit: before the server got the message, or after it did what it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, database: Database, arrives: bool, number: int) -> None:
        self.left = number
        self.database = database
        self.arrives = arrives
        self.send: Callable[..., None] = executor.Session.run

        def run(session: Any, sql: Any) -> None:
            self(session, sql)

        monkeypatch.setattr(executor.Session, "run", run)

    def __call__(self, session: Any, sql: Any) -> None:
        if isinstance(sql, str) and "commit;" in sql and "reset all" in sql:
            self.left -= 1
            if self.left == 0:
                if self.arrives:
                    self.send(session, sql.split("commit;")[0] + "commit;")
                self.database.server.execute(f"select pg_terminate_backend({session.connection.info.backend_pid}, 5000)")
        self.send(session, sql)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_a_connection_lost_around_a_commit_is_decided_by_the_row(
    release: Release, monkeypatch: pytest.MonkeyPatch, arrives: bool, last: bool, verb: str
) -> None:
    release.add_tables(1, 2)
    target = None
    if verb == "revert":
        release.migrate()
        target = 0
    expected: List[int] = [1, 2] if verb == "apply" else [2, 1]
    with monkeypatch.context() as patched:
        Cut(patched, release.database, arrives, 2 if last else 1)
        if last and arrives:
            answer = release.migrate(target, allow_revert=True)
            done = answer["applied"] + answer["reverted"]
            assert answer["fingerprint"]
        else:
            with pytest.raises(ExecutionError) as caught:
                release.migrate(target, allow_revert=True)
            done = caught.value.failed["partial"]["applied"] + caught.value.failed["partial"]["reverted"]
            if not arrives:
                assert "rolled back whole" in caught.value.recovery
    count = last + arrives
    assert [entry["version"] for entry in done] == expected[:count]
    in_database = {n for n in (1, 2) if release.has(f"t{n}")}
    assert set(release.versions()) == in_database == (set(expected[:count]) if verb == "apply" else {1, 2} - set(expected[:count]))
    release.migrate(target, allow_revert=True)
    assert release.versions() == ([1, 2] if verb == "apply" else [])


@pytest.mark.parametrize("arrives", [False, True])
def test_a_server_that_restarts_in_a_commit_is_waited_for(tmp_path: Any, server: Server, monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    with Server(server.major) as own, own.database() as database:
        release = Release(tmp_path, database)
        release.add_tables(1, 1)
        send = executor.Session.run

        def restart(session: Any, sql: Any) -> None:
            if isinstance(sql, str) and "commit;" in sql and "reset all" in sql:
                if arrives:
                    send(session, sql)
                own.stop("immediate")
                threading.Timer(0.5, own.start).start()
            send(session, sql)

        with monkeypatch.context() as patched:
            patched.setattr(executor.Session, "run", restart)
            if arrives:
                assert [entry["version"] for entry in release.migrate()["applied"]] == [1]
            else:
                assert "rolled back whole" in failure(release).recovery
        assert (release.versions(), release.has("t1")) == ([1] if arrives else [], arrives)


def test_somebody_else_with_another_file_is_noticed(release: Release) -> None:
    release.add_tables(1, 1)
    release.migrate()
    release.add("2_ours", "create table ours ();")
    # As sqlx-cli does: without any lock, between our look and our claim.
    send = executor.Session.run
    other = f"insert into {LEDGER} (version, description, success, checksum, execution_time) values (2, 'theirs', true, '\\x00', -1)"

    def first(session: Any, sql: Any) -> None:
        if isinstance(sql, str) and sql.startswith("begin;insert into"):
            release.database.execute(other)
        send(session, sql)

    executor.Session.run = first
    try:
        with pytest.raises(PlanError, match="applied by someone else meanwhile, from another file"):
            release.migrate()
    finally:
        executor.Session.run = send
    assert not release.has("ours")
