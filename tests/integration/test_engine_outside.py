"""Files marked -- no-transaction: statement by statement, remembered, resumed; indexes that failed are built again."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Dict

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import executor, outside
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError, MigrationError, PlanError
from support.migrations import LEDGER, Release, checksum

MARKER = "-- no-transaction\n"


class Killed(BaseException):
    """Stands for the end of the process."""


def failure(release: Release, **arguments: Any) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        release.migrate(**arguments)
    return caught.value


def indexes(release: Release) -> Dict[str, bool]:
    """Every index of the migrations', and whether it is valid."""
    return dict(
        release.database.execute(
            "select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid"
            " where c.relnamespace = 'public'::regnamespace and t.relname !~ '^_sqlx'"
        )
    )


def rows_with(release: Release, table: str, *values: int) -> None:
    release.add("1_rows", f"create table {table} (id int); insert into {table} values {', '.join(f'({value})' for value in values)};")


def test_any_number_of_statements(release: Release) -> None:
    rows_with(release, "rows", 1, 2)
    release.add(
        "2_outside",
        MARKER + "vacuum (analyze) rows;\ncreate index concurrently i on rows (id);\nalter table rows add x int;\n"
        "reindex index concurrently i;\ndrop index concurrently i;\ncreate unique index concurrently u on rows (id);\ncomment on table rows is 'a;b';",
        "-- no-transaction\ndrop index concurrently u;\nalter table rows drop x;",
        verify="select x from rows;",
    )
    release.migrate()
    assert (release.versions(), indexes(release)) == ([1, 2], {"u": True})
    assert [row.checksum for row in release.rows()] == [migration.checksum for migration in release.read().migrations]
    assert release.database.execute(f"select execution_time > 0 from {LEDGER} where version = 2") == [(True,)]
    assert not release.migrate()["changed"]
    release.migrate(1, allow_revert=True)
    assert (release.versions(), indexes(release)) == ([1], {})


def test_what_failed_in_the_middle_continues_there(release: Release) -> None:
    release.add("1_counted", "create table counted (step text);")
    script = release.add(
        "2_outside",
        MARKER + "insert into counted values ('one');\nvacuum counted;\ninsert into counted values ('two');\n\ninsert into nowhere values (1);\n"
        "insert into counted values ('three');\n",
    )
    release.add_tables(3, 3)
    error = failure(release)
    assert (error.failed["line"], error.failed["column"], error.failed["sqlstate"]) == (6, 13, "42P01")
    assert "it continues here" in error.recovery
    assert [(row.version, row.success) for row in release.rows()] == [(1, True), (2, False)]
    assert release.info()["dirty"] == [2]
    assert release.predict()["dirty"] == []
    assert [entry["version"] for entry in release.predict()["applied"]] == [2, 3]

    # Nothing was corrected: the same again, and nothing runs twice.
    assert failure(release).failed["line"] == 6
    script.write_text(script.read_text().replace("nowhere values (1)", "counted values ('corrected')"))
    answer = release.migrate()
    assert ([entry["version"] for entry in answer["applied"]], answer["dirty"]) == ([2, 3], [])
    steps = [step for (step,) in release.database.execute("select step from counted")]
    assert steps == ["one", "two", "corrected", "three"]
    assert release.rows()[1].checksum == checksum(script.read_text())
    assert release.rows()[1].success


def test_what_a_file_set_is_set_again_where_it_continues(release: Release) -> None:
    release.add("1_tables", "create schema tenant; create table t (id int); create table tenant.t (id int); insert into tenant.t values (1), (1);")
    release.add(
        "2_outside",
        MARKER + "set search_path to tenant;\nselect set_config('work_mem', '7MB', false);\ncreate unique index concurrently u on t (id);\n"
        "create table said as select current_setting('work_mem') as memory;\n",
        verify="select from said;\nselect from t where id = 1;\n",
    )
    assert failure(release).failed["sqlstate"] == "23505"
    release.database.execute("delete from tenant.t")
    release.migrate()
    assert (release.has("tenant.u"), release.has("public.u")) == (True, False)
    assert release.database.execute("select memory from tenant.said") == [("7MB",)]


def test_a_run_that_continued_and_was_cut_off_did_not_fail(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    release.add("1_table", "create table t (id int); insert into t values (1), (1);")
    release.add("2_outside", MARKER + "create unique index concurrently u on t (id);\n")
    assert failure(release).failed["sqlstate"] == "23505"
    release.database.execute("delete from t")

    def built_and_killed(sender: Any, statement: Any, interrupted: bool) -> None:
        sender.send("drop index concurrently u")
        sender.send(statement.text)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(outside, "_alone", built_and_killed)
        with pytest.raises(Killed):
            release.migrate()
    assert release.migrate()["dirty"] == []


def test_a_block_may_call_what_commits(release: Release) -> None:
    release.add(
        "1_procedure",
        "create table t (id int); create procedure moves() language plpgsql as $$ begin insert into t values (1); commit; end $$;",
    )
    release.add("2_outside", MARKER + "do $$ begin for i in 1 .. 3 loop call moves(); end loop; end $$;\n")
    release.migrate()
    assert release.database.execute("select count(*) from t") == [(3,)]


def test_a_finished_statement_must_stay_as_it_was(release: Release) -> None:
    release.add("1_counted", "create table counted (step text);")
    script = release.add("2_outside", MARKER + "insert into counted values ('one');\nselect broken;")
    failure(release)
    script.write_text(MARKER + "-- a comment is nothing\n\n insert into counted values ('ONE');\nselect 1;")
    error = failure(release)
    assert isinstance(error, PlanError)
    assert (error.failed["file"], error.failed["line"]) == (str(script), 4)
    assert "was edited since" in error.message

    script.write_text(MARKER)
    assert "1 of its statements ran" in failure(release).message

    script.write_text(MARKER + "insert into counted values ('ONE');\nselect 1;")
    answer = release.migrate(repair=frozenset([2]))
    assert [entry["version"] for entry in answer["repaired"]] == [2]
    assert release.database.execute("select step from counted") == [("one",), ("ONE",)]
    assert release.versions() == [1, 2]


@pytest.mark.parametrize("clause", ["", "if not exists "])
@pytest.mark.parametrize("schema", ["", 'app."My Table"'])
def test_an_index_that_could_not_be_built_is_built_again(release: Release, clause: str, schema: str) -> None:
    table = schema or "rows"
    release.add("1_rows", f"create schema app; create table {table} (id int); insert into {table} values (1), (1);")
    release.add("2_index", MARKER + f"create unique index concurrently {clause}u on {table} (id);")
    error = failure(release)
    assert (error.failed["sqlstate"], error.failed["line"]) == ("23505", 2)
    invalid = "select count(*) from pg_index where not indisvalid"
    assert release.database.execute(invalid) == [(1,)]
    # Again without a change: the same error, never a success because something of that name is there.
    assert failure(release).failed["sqlstate"] == "23505"
    assert [row.success for row in release.rows()] == [True, False]

    release.database.execute(f"truncate {table}")
    release.migrate()
    assert release.versions() == [1, 2]
    assert release.database.execute(invalid) == [(0,)]


def test_an_invalid_index_left_by_somebody_else_is_not_hidden_by_if_not_exists(release: Release) -> None:
    rows_with(release, "rows", 1, 1)
    release.migrate()
    with closing(release.database.connect()) as connection:
        connection.autocommit = True
        with pytest.raises(Exception, match="could not create unique index"):
            connection.cursor().execute("create unique index concurrently u on rows (id)")
    release.database.execute("truncate rows")
    release.add("2_index", MARKER + "create unique index concurrently if not exists u on rows (id);")
    release.migrate()
    assert indexes(release) == {"u": True}


def test_another_index_of_the_same_name_is_an_error_every_time(release: Release) -> None:
    rows_with(release, "rows", 1)
    release.migrate()
    release.database.execute("alter table rows add other int; create index i on rows (other)")
    release.add("2_index", MARKER + "create index concurrently i on rows (id);")
    for _unused in range(2):
        assert failure(release).failed["sqlstate"] == "42P07"
    release.database.execute("drop index i")
    release.migrate()
    assert "(id)" in release.database.execute("select pg_get_indexdef('i'::regclass)")[0][0]


def test_an_index_that_was_built_before_the_run_died_is_kept(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_with(release, "rows", 1)
    release.add("2_index", MARKER + "create index concurrently i on rows (id);\ninsert into rows values (2);")
    send = executor.Session.run

    def die(session: Any, sql: Any) -> None:
        send(session, sql)
        if isinstance(sql, str) and sql.startswith("create index concurrently"):
            release.database.server.execute(f"select pg_terminate_backend({session.connection.info.backend_pid}, 5000)")

    with monkeypatch.context() as patched:
        patched.setattr(executor.Session, "run", die)
        with pytest.raises(ExecutionError):
            release.migrate()
    assert [row.success for row in release.rows()] == [True, False]
    assert indexes(release) == {"i": True}
    built = release.database.execute("select oid from pg_class where relname = 'i'")
    release.migrate()
    assert release.database.execute("select oid from pg_class where relname = 'i'") == built
    assert release.database.execute("select id from rows") == [(1,), (2,)]


def test_a_build_that_was_ended_is_done_anew(release: Release) -> None:
    rows_with(release, "rows", 1)
    release.migrate()
    release.add("2_index", MARKER + "create index concurrently i on rows (id);")
    with closing(release.database.connect()) as writer:
        writer.cursor().execute("insert into rows values (2)")  # keeps the build waiting
        errors = []
        run = threading.Thread(target=lambda: errors.append(failure(release)))
        run.start()
        ending = (
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = '{release.database.name}' and query like 'create index concurrently%' and wait_event_type = 'Lock'"
        )
        deadline = time.monotonic() + 10
        while not release.database.execute(ending, user="postgres") and time.monotonic() < deadline:
            time.sleep(0.05)
        run.join()
    assert indexes(release) == {"i": False}
    assert "unfinished (success = false" in errors[0].recovery
    release.migrate()
    assert (indexes(release), release.versions()) == ({"i": True}, [1, 2])


def test_a_build_waits_longer_than_one_lock_timeout_but_not_for_ever(release: Release) -> None:
    rows_with(release, "rows", 1)
    release.migrate()
    release.add("2_index", MARKER + "create index concurrently i on rows (id);\ncreate table patience as select current_setting('lock_timeout') as after;")
    with closing(release.database.connect(application_name="a report")) as writer:
        writer.cursor().execute("insert into rows values (2)")
        began = time.monotonic()
        error = failure(release, lock_timeout=0.5, lock_retries=2)
        assert 1.4 < time.monotonic() - began < 6
        assert error.failed["sqlstate"] == "55P03"
        assert [holder["application"] for holder in error.failed["blocked_by"]] == ["a report"]
        timer = threading.Timer(0.8, writer.rollback)
        timer.start()
        release.migrate(lock_timeout=0.5, lock_retries=4)
        timer.join()
    assert indexes(release) == {"i": True}
    assert release.database.execute("select after from patience") == [("500ms",)]


def test_a_failed_verification_leaves_the_row_unfinished(release: Release) -> None:
    rows_with(release, "rows", 1)
    release.add("2_outside", MARKER + "insert into rows values (2);", verify="select 1;\nselect 1 / 0;")
    error = failure(release)
    assert (error.failed["file"], error.failed["line"]) == (str(release.proofs / "2_outside.sql"), 2)
    assert "its verification failed" in error.message
    assert [row.success for row in release.rows()] == [True, False]

    release.add("2_outside", MARKER + "insert into rows values (2);", verify="insert into rows values (3);")
    assert failure(release).failed["sqlstate"] == "25006", "a verification outside of the transaction may only read"

    release.add("2_outside", MARKER + "insert into rows values (2);", verify="select 1;")
    release.migrate()
    assert release.database.execute("select id from rows") == [(1,), (2,)]
    assert release.versions() == [1, 2]


def test_a_revert_that_failed_in_the_middle_goes_on_downwards(release: Release) -> None:
    rows_with(release, "rows", 1)
    release.add(
        "2_outside",
        MARKER + "create index concurrently i on rows (id);\nalter table rows add x int;",
        MARKER + "drop index concurrently i;\nselect broken;\nalter table rows drop x;",
    )
    release.migrate()
    with pytest.raises(ExecutionError) as error:
        release.migrate(1, allow_revert=True)
    assert error.value.failed["line"] == 3
    assert (indexes(release), release.info()["dirty"]) == ({}, [2])

    down = release.migrations / "2_outside.down.sql"
    down.write_text(down.read_text().replace("select broken", "select 1"))
    answer = release.migrate(1, allow_revert=True)
    assert [entry["version"] for entry in answer["reverted"]] == [2]
    assert release.versions() == [1]
    assert release.migrate()["to_version"] == 2


def test_an_unfinished_way_up_is_finished_before_the_way_down(release: Release) -> None:
    release.add("1_outside", MARKER + "select 1;\nselect broken;", MARKER + "select 1;")
    failure(release)
    with pytest.raises(PlanError, match="must be finished before it can be reverted"):
        release.migrate(0, allow_revert=True)


def test_procedures_may_commit(release: Release) -> None:
    release.add(
        "1_procedure",
        "create table batches (id int);"
        "create procedure fill() language plpgsql as $$ begin insert into batches values (1); commit; insert into batches values (2); commit; end $$;",
    )
    release.add(
        "2_call",
        MARKER + "call fill();\ndo $$ begin insert into batches values (3); commit; end $$;\ndo $$ begin insert into batches values (4); end $$;",
    )
    release.migrate()
    assert release.database.execute("select id from batches") == [(1,), (2,), (3,), (4,)]


def test_transaction_control_is_refused_outside_too(release: Release) -> None:
    release.add("1_control", MARKER + "select 1;\nbegin;\nselect 2;\ncommit;")
    error = failure(release)
    assert error.failed["line"] == 3
    assert not release.has(LEDGER)


def test_empty_files_are_fine(release: Release) -> None:
    for version, text in enumerate((MARKER, MARKER + "-- just a comment", MARKER.strip(), MARKER + ";;"), 1):
        release.add(f"{version}_empty", text)
    release.migrate()
    assert release.versions() == [1, 2, 3, 4]


def test_the_marker_counts_only_at_the_first_byte(release: Release) -> None:
    release.add("1_early", "-- no-transactional notes are one as well\nvacuum;")
    release.migrate()
    release.add("2_late", "\n-- no-transaction\nvacuum;")
    assert failure(release).failed["sqlstate"] == "25001"
    assert release.versions() == [1]


def test_ddl_outside_is_remembered_with_its_statement(release: Release, tmp_path: Path) -> None:
    """An ordinary statement and the note that it ran are one transaction: there is no moment at which only one is there."""
    release.add("1_outside", MARKER + "create table a ();\ncreate table b ();")
    release.migrate()
    together = release.database.execute(
        "select count(*) from _sqlx_migrations_history h join pg_class c on c.xmin = h.xmin where h.action = 'statement' and c.relname in ('a', 'b')"
    )
    assert together == [(2,)]
