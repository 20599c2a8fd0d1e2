"""The procedures of retention, on plain tables: what goes, what stays, in batches, and beside those who write."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import closing
from typing import Any, Callable, Dict, List

import pytest
from psycopg2 import errors
from support import registry
from support.postgres import Database

NEEDS = (registry.SQL / "maintenance" / "needs.sql").read_text()
MONITORING = registry.SQL / "monitoring"
HISTORY = {"validation_history": "validated_at", "schema_access_log": "accessed_at", "compatibility_checks": "checked_at"}


@pytest.fixture
def filled(database: Database) -> Database:
    registry.migrate(database)
    registry.fill(database, schemas=1000, subjects=50, validations=5000)
    database.execute("""
        insert into validation_history (schema_id, data_hash, valid, duration_ms, validated_at)
        select id, repeat('0', 64), true, 1, now() - interval '90 days' - n * interval '1 hour' from schemas, generate_series(0, 2) as n;
        insert into schema_access_log (schema_id, accessed_at) select id, now() - interval '91 days' from schemas;
        update compatibility_checks set checked_at = checked_at - interval '400 days' where id % 2 = 0
    """)
    return database


def call(database: Database, statement: str) -> List[Any]:
    """Run a procedure, which commits on its way."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
        return list(cursor.fetchall()[0])


def backlog(database: Database) -> Dict[str, int]:
    return dict(database.execute("select kind, total from retention_backlog()"))


@pytest.mark.parametrize(("history", "days"), [("validation_history", 90), ("schema_access_log", 90), ("compatibility_checks", 365)])
def test_history_goes_by_its_age(filled: Database, history: str, days: int) -> None:
    expected = backlog(filled)[history]
    young = f"{HISTORY[history]} >= now() - interval '{days} days' + interval '1 minute'"
    kept = f"select count(*), md5(string_agg(h::text, '|' order by id)) from {history} h where {young}"
    before = filled.execute(kept)
    assert expected > 400
    assert call(filled, f"call purge_history('{history}', {days}, batch_size => 7)") == [expected]
    assert filled.execute(kept) == before
    assert backlog(filled)[history] == 0
    assert call(filled, f"call purge_history('{history}', {days})") == [0]


def test_batches_are_transactions_of_their_own(filled: Database) -> None:
    """What it has deleted stays deleted when it is stopped, and no lock is held for longer than a batch."""
    before = backlog(filled)["validation_history"]
    with closing(filled.connect()) as connection:
        connection.autocommit = True
        filled.execute("""
            create function slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(0.002); return old; end $$;
            create trigger slowly before delete on validation_history for each row execute function slowly()
        """)

        def purge() -> None:
            with pytest.raises(errors.QueryCanceled):
                connection.cursor().execute("call purge_history('validation_history', 90, batch_size => 50)")

        purging = threading.Thread(target=purge)
        purging.start()
        time.sleep(1.5)
        connection.cancel()
        purging.join()
    assert 0 < backlog(filled)["validation_history"] < before


def test_the_planner_knows_how_small_a_batch_is(filled: Database) -> None:
    """Or it would take a batch for all that is old, and read whatever index it likes from end to end."""
    filled.execute("""
        insert into validation_history (schema_id, data_hash, valid, duration_ms, validated_at)
        select (select id from schemas limit 1), repeat('0', 64), true, 1, now() - interval '91 days' - n * interval '1 minute'
        from generate_series(1, 20000) as n
    """)
    filled.execute("analyze validation_history")
    with closing(filled.connect(user="postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on")
        cursor.execute("set auto_explain.log_level = notice")
        connection.notices = deque()  # its own list keeps the last fifty
        cursor.execute("call purge_history('validation_history', 90, batch_size => 1000)")
        plans = [notice for notice in connection.notices if "Delete on" in notice]
    assert len(plans) >= 20
    for plan in plans:
        assert "validation_history_pkey" in plan, plan
        assert int(re.findall(r"Scan .*rows=(\d+)", plan)[0]) < 3000, plan


def test_deleted_schemas_go_with_all_that_is_theirs(filled: Database) -> None:
    # Some that others depend on, and some that nobody does.
    for some in (
        "select depends_on_id from schema_dependencies order by 1 limit 10",
        "select id from schemas where id not in (select depends_on_id from schema_dependencies) limit 20",
    ):
        filled.execute(f"update schemas set deleted_at = now() - interval '31 days' where id in ({some})")
    doomed = filled.execute("select schemas_to_purge(30)")
    kept = filled.execute("select count(*) from schemas")[0][0] - len(doomed)
    live = "select count(*) from schema_dependencies join schemas a on a.id = schema_id join schemas b on b.id = depends_on_id where a.deleted_at is null"
    dependencies = filled.execute(live)
    assert doomed
    assert call(filled, "call purge_deleted_schemas(30, batch_size => 3)") == [len(doomed)]
    assert filled.execute("select count(*) from schemas") == [(kept,)]
    # What a live one depends on has stayed.
    assert filled.execute(live) == dependencies
    assert call(filled, "call purge_deleted_schemas(30)") == [0]


def test_a_schema_that_is_brought_back_stays(filled: Database) -> None:
    filled.execute("update schemas set deleted_at = now() - interval '31 days' where id = (select schema_id from validation_history order by id limit 1)")
    filled.execute("update schemas set deleted_at = null")
    assert call(filled, "call purge_deleted_schemas(30)") == [0]


@pytest.mark.parametrize(
    "statement",
    ["call purge_history('validation_history', -1)", "call purge_history('schemas', 1)", "call purge_history(null, 1)", "call purge_deleted_schemas(null)"],
)
def test_nonsense_is_refused(filled: Database, statement: str) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        call(filled, statement)


def test_what_there_is_to_do_is_said_and_then_done(filled: Database) -> None:
    """A bloated index, an invalid one, and what REINDEX left behind; then nothing is left to do."""

    def needs() -> List[Any]:
        return filled.execute(f"set registry.reindex_mb = 0; set registry.reindex_percent = 50; {NEEDS.replace('%', '%%')}", [])

    def do(statement: str) -> None:
        with closing(filled.connect()) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)

    def eventually(met: Callable[[], bool]) -> bool:
        """The server's statistics arrive a little later."""
        deadline = time.monotonic() + 30
        while not met() and time.monotonic() < deadline:
            time.sleep(0.5)
        return met()

    # The server's own care would come in between.
    filled.execute("alter table compatibility_checks set (autovacuum_enabled = off)")
    for table in ("schemas", "schema_dependencies", "subjects", *HISTORY, "maintenance_runs", "subject_versions", "popular_schemas"):
        do(f"vacuum (analyze) {table}")
    filled.execute("""
        insert into compatibility_checks (subject, old_version, new_version, compatibility_level, compatible)
        select 's' || n, '1', '2', 'FULL', true from generate_series(1, 30000) n
    """)
    filled.execute("delete from compatibility_checks where subject like 's%' and id % 20 <> 0")
    filled.execute("update pg_index set indisvalid = false where indexrelid = 'schemas_live_created_at_idx'::regclass", user="postgres")
    filled.execute("alter index schemas_live_subject_idx rename to schemas_live_subject_idx_ccnew")
    filled.execute("update pg_index set indisvalid = false where indexrelid = 'schemas_live_subject_idx_ccnew'::regclass", user="postgres")

    wanted = {
        "vacuum compatibility_checks",
        "analyze compatibility_checks",
        "reindex index concurrently schemas_live_created_at_idx",
        "drop index concurrently schemas_live_subject_idx_ccnew",
    }
    assert eventually(lambda: wanted <= {statement for _reason, statement in needs()}), needs()
    for _round in range(3):
        for _reason, statement in needs():
            do(statement)
    assert eventually(lambda: not needs()), needs()
    assert filled.execute("select indisvalid from pg_index where indexrelid = 'schemas_live_created_at_idx'::regclass") == [(True,)]


def test_bloat_is_told_from_statistics_and_not_from_their_lack(filled: Database) -> None:
    listed = "select index::text, percent_bloat::float from index_bloat()"
    counted = "select oid::regclass::text from pg_class where relam = (select oid from pg_am where amname = 'btree') and reltuples > 0"
    filled.execute("analyze")
    btrees = {name for (name,) in filled.execute(f"{counted} and relnamespace = 'public'::regnamespace")}
    assert {"schemas_pkey", "schemas_live_precedence_idx", "schemas_live_version_idx", "validation_history_pkey"} <= btrees
    assert {name for name, _percent in filled.execute(listed)} == btrees

    filled.execute("""
        create table grown (id integer primary key, word text) with (autovacuum_enabled = off);
        create index grown_word_idx on grown (word);
        insert into grown select n, 'word number ' || n from generate_series(1, 20000) n
    """)
    # The build has counted, but how wide a word is, nobody knows.
    filled.execute("create index grown_word_too_idx on grown (word)")
    assert not {name for name, _percent in filled.execute(listed) if name.startswith("grown_word")}

    filled.execute("analyze grown")
    assert {name: percent for name, percent in filled.execute(listed) if name.startswith("grown") and percent > 40} == {}
    filled.execute("delete from grown where id % 20 > 0; analyze grown")
    assert {name for name, percent in filled.execute(listed) if name.startswith("grown") and percent > 80} == {
        *("grown_pkey", "grown_word_idx", "grown_word_too_idx")
    }


def test_an_index_that_somebody_builds_is_left_to_him(filled: Database) -> None:
    """Another role's build too, of which the statistics of progress say nothing to the owner."""

    def needed() -> List[Any]:
        listed = filled.execute(NEEDS.replace("%", "%%"), [])
        return [statement for reason, statement in listed if reason == "invalid"]

    invalid = "select count(*) from pg_index where indexrelid = to_regclass('slowly_built') and not indisvalid"
    with closing(filled.connect()) as writing, closing(filled.connect(user="postgres")) as building:
        filled.execute("alter table compatibility_checks set (autovacuum_enabled = off)")
        writing.cursor().execute("lock table compatibility_checks in row exclusive mode")
        building.autocommit = True

        def build() -> None:
            # It waits for the writer's transaction.
            with pytest.raises(errors.QueryCanceled):
                building.cursor().execute("create index concurrently slowly_built on compatibility_checks (new_version)")

        builder = threading.Thread(target=build)
        builder.start()
        try:
            deadline = time.monotonic() + 30
            while filled.execute(invalid) == [(0,)] and time.monotonic() < deadline:
                time.sleep(0.1)
            assert filled.execute(invalid) == [(1,)]
            assert needed() == []
        finally:
            building.cancel()
            builder.join()
    assert needed() == ["reindex index concurrently slowly_built"]


def test_superfluous_indexes_are_named_and_no_others(filled: Database) -> None:
    def superfluous() -> List[Any]:
        return filled.execute((MONITORING / "duplicate_indexes.sql").read_text(), user="postgres")

    # Some that are shipped are beginnings of others, and smaller.
    assert superfluous() == []
    filled.execute("""
        create index twin_idx on schemas (created_at) where deleted_at is null;
        create index words_idx on subjects (description);
        create index bytes_idx on subjects (description collate "C");
        create table pairs as select n as one, n % 10 as digit, n as other from generate_series(1, 100000) n;
        create index pairs_one_other_idx on pairs (one, other);
        create index pairs_one_idx on pairs (one);
        create index pairs_digit_other_idx on pairs (digit, other);
        create index pairs_digit_idx on pairs (digit)
    """)
    assert {(index, covered_by) for index, _size, covered_by, *_rest in superfluous()} == {
        ("twin_idx", "schemas_live_created_at_idx"),
        ("pairs_one_idx", "pairs_one_other_idx"),
    }


def test_a_prepared_transaction_that_is_in_the_way_is_shown(filled: Database) -> None:
    with closing(filled.connect()) as preparing, closing(filled.connect()) as waiting:
        preparing.autocommit = waiting.autocommit = True
        for statement in ("begin", "lock table subjects", "prepare transaction 'left behind'"):
            preparing.cursor().execute(statement)
        waiter = threading.Thread(target=lambda: waiting.cursor().execute("select count(*) from subjects"))
        waiter.start()
        try:
            shown = ""
            deadline = time.monotonic() + 30
            while "prepared transaction" not in shown and time.monotonic() < deadline:
                shown = filled.psql(MONITORING / "blocked_sessions.sql", user="postgres")
            assert "prepared transaction" in shown
            assert "select count(*) from subjects" in shown
        finally:
            preparing.cursor().execute("rollback prepared 'left behind'")
            waiter.join()


@pytest.mark.parametrize("path", sorted(MONITORING.glob("*.sql")), ids=lambda path: path.stem)
def test_monitoring_runs_on_any_database(filled: Database, path: Any) -> None:
    assert "row" in filled.psql(path, user="postgres") or path.stem == "slow_statements"
    for name in reversed(registry.NAMES):
        filled.psql(registry.down(name))
    filled.psql(path, user="postgres")


def test_down_keeps_what_it_can(filled: Database) -> None:
    """The second migration's way back takes its own tables along, and no row of the first one's."""
    tables = ("schemas", "schema_dependencies", "subjects", "validation_history", "compatibility_checks")

    def rows() -> List[Any]:
        return [filled.execute(f"select count(*), md5(string_agg(t::text, '|' order by t::text)) from {table} t") for table in tables]

    before = rows()
    filled.psql(registry.down(registry.NAMES[1]))
    assert rows() == before
    filled.psql(registry.up(registry.NAMES[1]))
    assert rows() == before
