"""sql/optional/timescaledb.sql: the history tables become hypertables, and tables again, and nothing is lost on the way."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import closing
from typing import Dict, List, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import fingerprint
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.records import Target
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.session import Session
from support import extensions, registry
from support.postgres import Database, PsqlError, installed_majors

pytestmark = pytest.mark.skipif(
    not any("timescaledb" in extensions.available(major) for major in installed_majors()), reason="Debian 12 has no package of timescaledb"
)

OPTIONAL = registry.SQL / "optional" / "timescaledb.sql"
HISTORY = {"validation_history": "validated_at", "schema_access_log": "accessed_at", "compatibility_checks": "checked_at"}


def switch(database: Database, kind: str = "hypertable", **settings: object) -> List[str]:
    """Run the script; what it says it has changed."""
    options = " ".join(f"-c registry.{name}={value}" for name, value in {"history": kind, **settings}.items())
    done = subprocess.run(
        [str(database.server.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.dsn, "-f", str(OPTIONAL)],
        env={"PGOPTIONS": options, "PATH": "/usr/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PsqlError(done.stdout)
    return [line for line in done.stdout.splitlines() if "changed: " in line]


def hypertables(database: Database) -> List[str]:
    return [name for (name,) in database.execute("select hypertable_name::text from timescaledb_information.hypertables order by 1")]


def rows(database: Database) -> Dict[str, Tuple[int, str]]:
    """How many rows each history table has, and a digest of all of them."""
    return {
        table: database.execute(f"select count(*), md5(string_agg(h::text, '|' order by {moment}, id)) from {table} h")[0]
        for table, moment in HISTORY.items()
    }


@pytest.fixture
def switched_on(registered: Database) -> Database:
    registered.execute("create extension timescaledb", user="postgres")
    return registered


def test_on_and_off_and_nothing_is_lost(switched_on: Database) -> None:
    plain, before = switched_on.dump(), rows(switched_on)
    assert registry.maintenance_state(switched_on)["hypertables"] == 0
    assert len(switch(switched_on)) == 3
    assert hypertables(switched_on) == sorted(HISTORY)
    assert rows(switched_on) == before
    assert switch(switched_on) == []
    assert registry.maintenance_state(switched_on)["hypertables"] == 3

    switched_on.execute("select refresh_subject_versions(), refresh_popular_schemas()")
    assert switched_on.execute("select count(*) from popular_schemas") == [(1000,)]

    assert len(switch(switched_on, "plain")) == 3
    assert hypertables(switched_on) == []
    assert registry.maintenance_state(switched_on)["hypertables"] == 0
    assert rows(switched_on) == before
    assert switch(switched_on, "plain") == []
    assert switched_on.dump() == plain
    switched_on.execute("drop extension timescaledb", user="postgres")
    assert switch(switched_on, "plain") == []
    assert rows(switched_on) == before


def test_the_schema_s_fingerprint_does_not_see_it(switched_on: Database) -> None:
    def text() -> str:
        parameters = {"host": str(switched_on.server.socket_directory), "port": switched_on.server.port, "user": switched_on.owner}
        with closing(Session(Target(switched_on.name, parameters))) as session:
            return fingerprint.take(session, None).text

    before = text().splitlines()
    switch(switched_on)
    assert text().splitlines() == before


def test_writers_and_readers_are_not_stopped(switched_on: Database) -> None:
    """They go on all the while, with rights that the application has; what they wrote is there, and what they deleted is not."""
    stop = threading.Event()
    written: List[int] = []
    deleted: List[int] = []
    waits: List[float] = []

    def work() -> None:
        with closing(switched_on.connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stop.is_set():
                cursor.execute("select clock_timestamp()")
                (began,) = cursor.fetchone() or ()
                cursor.execute("""insert into validation_history (schema_id, data_hash, valid, duration_ms)
                                  select id, repeat('a', 64), true, 1 from schemas limit 1 returning id, clock_timestamp()""")
                (number, ended) = cursor.fetchone() or ()
                written.append(number)
                waits.append((ended - began).total_seconds())
                if number % 5 == 0:
                    cursor.execute("delete from validation_history where id = %s", [number])
                    deleted.append(number)
                cursor.execute("delete from validation_history where id = (select min(id) from validation_history where id > %s) returning id", [len(written)])
                deleted.extend(number for (number,) in cursor.fetchall())

    writers = [threading.Thread(target=work) for _unused in range(2)]
    [(count,)] = switched_on.execute("select count(*) from validation_history")
    for writer in writers:
        writer.start()
    try:
        switch(switched_on, batch_rows=1000)
        switch(switched_on, "plain", batch_rows=1000)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert len(written) > 100
    assert max(waits) < 5
    assert len(written) == len(set(written))
    [(after,)] = switched_on.execute("select count(*) from validation_history")
    assert after == count + len(written) - len(deleted)
    present = {number for (number,) in switched_on.execute("select id from validation_history")}
    assert {*written} - {*deleted} <= present
    assert not {*deleted} & present


def test_an_interrupted_run_begins_anew(switched_on: Database) -> None:
    before = rows(switched_on)
    switched_on.execute("create table validation_history_next (left_by text)")
    switch(switched_on)
    assert rows(switched_on) == before


def test_what_would_get_lost_is_refused(switched_on: Database) -> None:
    switched_on.execute("create view todays_validations as select * from validation_history where validated_at > now() - interval '1 day'")
    with pytest.raises(PsqlError, match=r"public\.validation_history cannot be replaced.*view public\.todays_validations"):
        switch(switched_on)
    assert switched_on.execute("select count(*) from pg_class where relname like '%\\_next'") == [(0,)]


def test_without_the_extension_it_says_so(registered: Database) -> None:
    with pytest.raises(PsqlError, match="timescaledb is not installed"):
        switch(registered)


def test_retention_drops_whole_chunks(switched_on: Database) -> None:
    switch(switched_on)
    backlog = dict(switched_on.execute("select * from retention_backlog()"))
    [(old,)] = switched_on.execute("select count(*) from validation_history where validated_at < now() - interval '90 days'")
    assert 0 < backlog["validation_history"] <= old
    [(count,)] = switched_on.execute("select count(*) from validation_history")
    with closing(switched_on.connect()) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("call purge_history('validation_history', 90)")
        assert cursor.fetchall() == [(backlog["validation_history"],)]
    assert switched_on.execute("select count(*) from validation_history") == [(count - backlog["validation_history"],)]
    assert dict(switched_on.execute("select * from retention_backlog()"))["validation_history"] == 0
    # A week's chunk at most stays longer than it must.
    assert switched_on.execute("select count(*) from validation_history where validated_at < now() - interval '97 days'") == [(0,)]


def test_retention_does_not_make_others_wait(switched_on: Database) -> None:
    """To drop a chunk it needs a lock on schemas: while somebody has that in use, it tries and gives way, and never gives up soon."""
    switch(switched_on)
    backlog = dict(switched_on.execute("select * from retention_backlog()"))["validation_history"]
    purged: List[int] = []

    def purge() -> None:
        with closing(switched_on.connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("call purge_history('validation_history', 90)")
            purged.extend(count for (count,) in cursor.fetchall())

    purging = threading.Thread(target=purge)
    waits: List[float] = []
    with closing(switched_on.connect()) as holding, closing(switched_on.connect()) as reading:
        holding.cursor().execute("select count(*) from schemas")
        reading.autocommit = True
        purging.start()
        until = time.monotonic() + 8
        while time.monotonic() < until:
            began = time.monotonic()
            reading.cursor().execute("select count(*) from schemas")
            waits.append(time.monotonic() - began)
            time.sleep(0.05)
        assert purging.is_alive()
        assert purged == []
        holding.rollback()
        purging.join()
    assert purged == [backlog]
    # It was in the way, and not for longer than it may.
    assert 0.5 < max(waits) < 5


def test_deleted_schemas_take_their_history_along(switched_on: Database) -> None:
    switch(switched_on)
    switched_on.execute("update schemas set deleted_at = now() - interval '40 days' where id = (select schema_id from validation_history limit 1)")
    [(doomed,)] = switched_on.execute("select count(*) from schemas_to_purge(30)")
    with closing(switched_on.connect()) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("call purge_deleted_schemas(30, batch_size => 50)")
        assert cursor.fetchall() == [(doomed,)]
    assert switched_on.execute("select count(*) from validation_history where not exists (select from schemas where id = schema_id)") == [(0,)]


def test_migrations_go_back_and_forth_over_hypertables(switched_on: Database) -> None:
    switch(switched_on)
    for name in reversed(registry.NAMES):
        switched_on.psql(registry.down(name))
    assert hypertables(switched_on) == []
    registry.migrate(switched_on)
    assert len(switch(switched_on)) == 3
