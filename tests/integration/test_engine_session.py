"""Nothing that one file does to its session reaches the next file, the ledger, or whoever comes after."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ConnectionFailed
from support.migrations import Release
from support.postgres import Database, Server

SETTINGS = """
select set_config('search_path', '', false);
set statement_timeout = '9s'; reset statement_timeout; set lock_timeout = '7s';
set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set extra_float_digits = -3;
set idle_in_transaction_session_timeout = '9s';
set check_function_bodies = off; set row_security = off; set standard_conforming_strings = off;
set client_encoding = 'latin1'; set client_min_messages = error;
"""
# What a session may carry on from file to file.
STATE = """
select row(current_user, session_user, current_setting('role'), current_schemas(false), current_setting('timezone'), current_setting('datestyle'),
    current_setting('extra_float_digits'), current_setting('lock_timeout'), current_setting('statement_timeout'),
    current_setting('client_encoding'), current_setting('standard_conforming_strings'), current_setting('transaction_read_only'),
    current_setting('default_transaction_read_only'), current_setting('row_security'), current_setting('check_function_bodies'),
    current_setting('idle_in_transaction_session_timeout'), current_setting('client_min_messages'), nullif(current_setting('registry.mark', true), ''),
    (select count(*) from pg_prepared_statements), (select count(*) from pg_cursors), (select count(*) from pg_listening_channels()),
    (select count(*) from pg_class where relpersistence = 't' and relkind = 'r'),
    (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'))::text as state
"""
LEAVING = {
    "settings": SETTINGS,
    "read-only": "set default_transaction_read_only = on;",
    "custom": "set registry.mark = 'x';",
    "role": "set role {owner};",
    "prepared": "prepare p as select 1; listen l; declare c cursor with hold for select 1;",
    "temporary": "create temporary table passing (id serial); create temporary sequence s; set search_path = pg_temp, public;",
    "locks": "select pg_advisory_lock(42); select pg_advisory_unlock_all(); select pg_advisory_lock(43);",
}


# Outside a transaction a file that makes its session read-only can remember none of its statements.
@pytest.mark.parametrize(
    ("leaving", "marker"),
    [*((leaving, "") for leaving in LEAVING), *((leaving, "-- no-transaction\n") for leaving in LEAVING if leaving != "read-only")],
)
def test_what_a_file_does_to_its_session_ends_with_it(release: Release, leaving: str, marker: str) -> None:
    release.add("1_first", f"create schema here; create table seen as {STATE};")
    release.add("2_leaving", marker + LEAVING[leaving].format(owner=release.database.owner))
    release.add("3_after", f"insert into seen {STATE};")
    release.migrate()
    assert release.database.execute("select count(*), count(distinct state) from seen") == [(2, 1)]
    assert release.versions() == [1, 2, 3]


@pytest.mark.parametrize("statement", ["set role {other}", "set session authorization {other}", "reset role", "set role none"])
@pytest.mark.parametrize("session_role", [False, True], ids=["as itself", "as owner"])
def test_a_role_ends_with_its_file(release: Release, server: Server, statement: str, session_role: bool) -> None:
    other, migrator = f"{release.database.owner}_other", f"{release.database.owner}_migrator"
    server.execute(f"create role {other}")
    server.execute(f"create role {migrator} login superuser")
    try:
        release = release.as_user(migrator)
        release.add("1_change", statement.format(other=other) + ";", down="select 1;", verify="reset role; reset session authorization;")
        release.add("2_table", "create table belonging ();", down=statement.format(other=other) + "; select 1;")
        release.migrate(session_role=release.database.owner if session_role else None)
        expected = release.database.owner if session_role else migrator
        assert release.database.execute("select tableowner from pg_tables where schemaname = 'public'") == [(expected,)] * 3
    finally:
        server.execute(f"reassign owned by {migrator} to postgres", release.database.name)
        for role in (other, migrator):
            server.execute(f"drop role {role}")


def test_limits_of_the_database_do_not_end_a_migration(release: Release, server: Server) -> None:
    limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"]
    for (name,) in release.database.execute("select name from pg_settings where name = any(%s)", [limits]):
        server.execute(f"alter database {release.database.name} set {name} = '50ms'")
    release.add("1_slow", "select pg_sleep(0.2);", verify="select pg_sleep(0.2);")
    release.add("2_slow", "-- no-transaction\nselect pg_sleep(0.2);\nvacuum;\n")
    release.rehearse(lock_timeout=0.0)
    release.migrate(lock_timeout=0.0)
    assert release.versions() == [1, 2]


def test_what_is_said_to_libpq_wins(release: Release) -> None:
    release.add("1_session", "create table said as select current_setting('application_name') as name, current_setting('work_mem') as memory;")
    release.migrate(parameters={"application_name": "mine", "options": "-c work_mem=7MB", "keepalives": 0, "dbname": release.database.name})
    assert release.database.execute("select * from said") == [("mine", "7MB")]


def test_everything_is_made_by_the_session_role(release: Release, server: Server) -> None:
    migrator = f"{release.database.owner} migrator"
    server.execute(f'create role "{migrator}" login in role {release.database.owner}')
    try:
        as_migrator = release.as_user(migrator)
        release.add("1_table", "create table t1 ();", "drop table t1;")
        as_migrator.migrate(session_role=release.database.owner)
        owners = release.database.execute("select distinct tableowner from pg_tables where schemaname = 'public'")
        assert owners == [(release.database.owner,)]
        assert release.database.execute("select distinct actor from _sqlx_migrations_history") == [(migrator,)]
        as_migrator.migrate(0, allow_revert=True, session_role=release.database.owner)
    finally:
        server.execute(f'drop role "{migrator}"')


def test_a_role_with_a_strange_name_can_be_the_session_role(release: Release, server: Server) -> None:
    role = "Strange \"role\" \\ with 'all'"
    quoted = '"' + role.replace('"', '""') + '"'
    server.execute(f"create role {quoted}")
    try:
        server.execute(f"alter schema public owner to {quoted}", release.database.name)
        release.add("1_table", "create table t1 ();", "drop table t1;")
        answer = release.as_user("postgres").migrate(session_role=role)
        assert answer["changed"]
        assert release.database.execute("select distinct tableowner from pg_tables where schemaname = 'public'") == [(role,)]
    finally:
        server.execute("drop owned by " + quoted + " cascade", release.database.name)
        server.execute("drop role " + quoted)


def test_a_per_cent_sign_is_only_that(release: Release) -> None:
    release.add("1_sign", "create table signs as select '%s %(x)s %%' as sign, 7 % 4 as rest, ':x' as colon, '\\' as backslash;")
    release.migrate()
    assert release.database.execute("select * from signs") == [("%s %(x)s %%", 3, ":x", "\\")]


def test_notices_are_told(release: Release) -> None:
    release.add("1_notices", "do $$ begin raise notice 'one\ntwo'; raise warning 'three'; end $$;")
    release.add("2_silence", "select 1;")
    answer = release.migrate()
    assert [entry["notices"] for entry in answer["applied"]] == [["NOTICE: one two", "WARNING: three"], []]


# Standby


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A second server that follows the first by streaming replication."""

    class Standby(Server):
        def _initdb(self) -> None:
            self._give_to_server_user(self.directory)
            self._as_server_user("pg_basebackup", "-D", self.data_directory, "-d", primary.dsn(), "--checkpoint=fast", "--wal-method=stream", "-R", "--no-sync")

    with Standby(primary.major) as standby:
        yield standby


def test_a_standby_is_left_alone(tmp_path: Path, server: Server) -> None:
    with Server(server.major) as primary, primary.database() as database:
        release = Release(tmp_path, database)
        release.add_tables(1, 1)
        release.migrate()
        with standby_of(primary) as standby:
            there = Release(tmp_path, Database(standby, database.name, database.owner, database.password))
            release.add_tables(2, 2)
            for verb in (there.migrate, there.predict):
                with pytest.raises(ConnectionFailed, match="is a standby"):
                    verb()
            told, known = there.info(), release.info()
            assert (told["in_recovery"], told["current_version"], told["pending"]) == (True, 1, [2])
            assert told["fingerprint"] == known["fingerprint"]


# A dump's settings


def test_a_dump_can_be_a_migration(release: Release) -> None:
    with release.database.server.database() as origin:
        origin.execute("create table dumped (id int primary key, note text); comment on table dumped is 'moved'; create view seen as select * from dumped")
        dump = subprocess.run(
            [str(origin.server.bin / "pg_dump"), "--dbname", origin.dsn, "--schema-only", "--no-owner"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    text = "".join(line for line in dump.splitlines(True) if not line.startswith("\\"))
    release.add("1_dump", text)
    release.add("2_next", "create table next_one as select * from dumped;")
    release.migrate()
    assert release.versions() == [1, 2]
    assert release.has("public.next_one")
