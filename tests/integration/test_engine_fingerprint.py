"""The fingerprint: it moves with every kind of object, and with nothing else."""

from __future__ import annotations

import subprocess
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import fingerprint
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.ledger import Ledger
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.session import Session
from support.migrations import HISTORY, LEDGER, Release
from support.postgres import Database, Server

# One of everything. `{owner}` and `{app}` are roles.
EVERYTHING = """
create extension pg_trgm;
create extension btree_gist;
set role {owner};
create schema app;
comment on schema app is 'of the application';
create type app.mood as enum ('sad', 'ok', 'happy');
create domain app.positive as integer default 1 constraint above check (value > 0);
create type app.pair as (a int, b text);
create type app.span as range (subtype = float8, subtype_diff = float8mi);
create sequence app.numbers as int increment 2 minvalue 1 maxvalue 1000 cache 3;
create table app.parent (id bigint generated always as identity primary key, name text not null unique);
create table app.child (
    id serial primary key,
    parent bigint not null constraint parent_fk references app.parent on delete cascade,
    state varchar(10) not null default 'ok' constraint state_check check (state in ('ok', 'bad', 'it''s')),
    note text collate "C" default 'none',
    amount numeric(10, 2),
    twice numeric generated always as (amount * 2) stored,
    mood app.mood,
    during tstzrange,
    data jsonb,
    constraint name_key unique (parent, note) deferrable,
    constraint overlap exclude using gist (parent with =, during with &&)
);
comment on table app.child is 'a child';
comment on column app.child.note is 'a note';
comment on constraint parent_fk on app.child is 'whose';
create index child_state on app.child (state) where note is not null;
create index child_expression on app.child (lower(note) desc nulls last) include (amount);
create index child_trigram on app.child using gin (note gin_trgm_ops);
comment on index app.child_state is 'by state';
create table app.log (at timestamptz not null, text text) partition by range (at);
create table app.log_2024 partition of app.log for values from ('2024-01-01') to ('2025-01-01');
create table app.log_rest (at timestamptz not null, text text);
create table app.base (x int);
create table app.derived (y int) inherits (app.base);
create unlogged table app.scratch (x int);
create view app.states with (security_barrier) as select c.id, c.state, p.name from app.child c join app.parent p on p.id = c.parent;
comment on view app.states is 'states';
create materialized view app.counts as select state, count(*) as number from app.child group by state;
create unique index counts_state on app.counts (state);
create function app.touch() returns trigger language plpgsql set search_path = app as $$ begin return new; end $$;
create function app.add(a int, b int default 1) returns int language sql immutable strict as 'select a + b';
create procedure app.work() language sql as 'select 1';
create aggregate app.total(int) (sfunc = int4pl, stype = int, initcond = '0');
comment on function app.add(int, int) is 'adds';
create trigger touch before update on app.child for each row when (old.note is distinct from new.note) execute function app.touch();
comment on trigger touch on app.child is 'touches';
create constraint trigger late after insert on app.child deferrable initially deferred for each row execute function app.touch();
alter table app.parent enable row level security;
create policy visible on app.parent for select to {app} using (name <> 'hidden');
comment on policy visible on app.parent is 'who sees';
create rule quiet as on delete to app.base do instead nothing;
create statistics app.together (ndistinct, dependencies) on parent, state from app.child;
grant usage on schema app to {app};
grant select, insert on app.child to {app};
grant update (note) on app.child to {app};
grant usage on sequence app.numbers to {app};
revoke execute on function app.add(int, int) from public;
alter default privileges in schema app grant select on tables to {app};
create collation app.german (provider = icu, locale = 'de-DE');
create operator app.<=> (leftarg = int, rightarg = int, function = int4mi);
create text search dictionary app.words (template = simple, accept = false);
create text search configuration app.search (parser = default);
alter text search configuration app.search add mapping for asciiword with app.words;
reset role;
create cast (app.pair as text) with inout as assignment;
create operator family app.family using btree;
create operator class app.reversed for type int using btree family app.family as operator 1 >, function 1 btint4cmp(int, int);
create foreign data wrapper wrapper options (a '1');
create server remote foreign data wrapper wrapper options (host 'x');
grant usage on foreign data wrapper wrapper to {app};
grant usage on foreign server remote to {app};
create user mapping for {app} server remote options (user 'y');
create foreign table app.far (id int options (column_name 'i')) server remote options (table_name 't');
create event trigger watch on ddl_command_end when tag in ('CREATE TABLE') execute function pg_catalog.event_trigger_in();
create publication feed for table app.child;
"""
EVERYTHING = EVERYTHING.replace(
    "create event trigger watch on ddl_command_end when tag in ('CREATE TABLE') execute function pg_catalog.event_trigger_in();",
    "create function app.ddl() returns event_trigger language plpgsql as $$ begin end $$;\n"
    "create event trigger watch on ddl_command_end when tag in ('DROP OWNED') execute function app.ddl();",
)

CHANGES = """
create schema other
drop schema app cascade
alter schema app rename to other
alter schema app owner to {app}
comment on schema app is 'else'
grant create on schema app to {app}
create extension citext
drop extension pg_trgm cascade
alter extension pg_trgm set schema app
create table app.another ()
drop table app.scratch
alter table app.scratch rename to scratched
alter table app.scratch owner to {app}
alter table app.scratch set logged
alter table app.scratch set schema public
alter table app.child set (fillfactor = 70)
alter table app.child set (autovacuum_enabled = off)
alter table app.parent disable row level security
alter table app.parent force row level security
alter table app.parent replica identity full
alter table app.parent replica identity using index parent_name_key
alter table app.parent replica identity nothing
comment on table app.child is 'else'
comment on table app.child is null
alter table app.log detach partition app.log_2024
alter table app.log attach partition app.log_rest default
alter table app.log attach partition app.log_rest for values from ('2025-01-01') to ('2026-01-01')
alter table app.derived no inherit app.base
alter table app.child add column more int
alter table app.child drop column amount cascade
alter table app.child rename column note to notice
alter table app.scratch alter column x type varchar
alter table app.base alter column x type numeric(12, 2)
alter table app.log_rest alter column text type varchar(20)
alter table app.child alter column state set default 'bad'
alter table app.child alter column state drop default
alter table app.child alter column state drop not null
alter table app.child alter column amount set not null
alter table app.log_rest alter column text type text collate "C"
alter table app.child alter column twice drop expression
alter table app.child alter column note set storage external
alter table app.child alter column note set compression pglz
alter table app.child alter column note set statistics 500
alter table app.child alter column note set (n_distinct = 5)
alter table app.parent alter column id set generated by default
alter table app.parent alter column id drop identity
alter table app.parent alter column id set increment 5
comment on column app.child.note is 'else'
alter table app.child drop constraint state_check
alter table app.child drop constraint parent_fk
alter table app.child drop constraint overlap
alter table app.child drop constraint name_key
alter table app.child rename constraint state_check to state_checked
alter table app.child drop constraint state_check, add constraint state_check check (state in ('ok', 'bad'))
alter table app.child drop constraint state_check, add constraint state_check check (state in ('ok', 'bad', 'it''s')) not valid
alter table app.child drop constraint state_check, add constraint state_check check (state in ('ok', 'bad', 'it''s')) no inherit
alter table app.child drop constraint parent_fk, add constraint parent_fk foreign key (parent) references app.parent
alter table app.child alter constraint parent_fk deferrable
comment on constraint parent_fk on app.child is 'else'
alter table app.child disable trigger all
drop index app.child_state
alter index app.child_state rename to by_state
drop index app.child_state; create unique index child_state on app.child (state) where note is not null
drop index app.child_state; create index child_state on app.child (state)
drop index app.child_state; create index child_state on app.child (state desc) where note is not null
drop index app.child_state; create index child_state on app.child using hash (state) where note is not null
drop index app.child_state; create index child_state on app.child (state text_pattern_ops) where note is not null
alter index app.child_state set (fillfactor = 60)
alter index app.child_expression alter column 1 set statistics 77
alter table app.child cluster on child_expression
comment on index app.child_state is 'else'
update pg_index set indisvalid = false where indexrelid = 'app.child_state'::regclass
create or replace view app.states with (security_barrier) as select c.id, c.state, p.name from app.child c left join app.parent p on p.id = c.parent
create or replace view app.states as select c.id, c.state, p.name from app.child c join app.parent p on p.id = c.parent
alter view app.states alter column state set default 'x'
alter view app.states rename column name to title
drop view app.states
comment on view app.states is 'else'
drop materialized view app.counts
drop materialized view app.counts; create materialized view app.counts as select state, count(*) + 1 as number from app.child group by state
drop index app.counts_state
create or replace function app.add(a int, b int default 1) returns int language sql immutable strict as 'select a - b'
create or replace function app.add(a int, b int default 2) returns int language sql immutable strict as 'select a + b'
create function app.add(a text) returns text language sql as 'select a'
alter function app.add(int, int) volatile
alter function app.add(int, int) called on null input
alter function app.add(int, int) security definer
alter function app.add(int, int) cost 7
alter function app.add(int, int) parallel safe
alter function app.add(int, int) leakproof
alter function app.add(int, int) owner to {app}
alter function app.touch() set search_path = public
alter function app.touch() rename to touched
grant execute on function app.add(int, int) to public
grant execute on function app.add(int, int) to {app}
comment on function app.add(int, int) is 'else'
drop function app.add(int, int)
drop procedure app.work()
create or replace procedure app.work() language sql as 'select 2'
drop aggregate app.total(int)
drop aggregate app.total(int); create aggregate app.total(int) (sfunc = int4pl, stype = int, initcond = '1')
drop trigger touch on app.child
drop trigger late on app.child
alter table app.child disable trigger touch
alter table app.parent disable trigger all
alter table app.child enable always trigger touch
alter trigger touch on app.child rename to touches
create or replace trigger touch after update on app.child for each row execute function app.touch()
comment on trigger touch on app.child is 'else'
drop policy visible on app.parent
alter policy visible on app.parent using (name <> 'other')
alter policy visible on app.parent to public
drop policy visible on app.parent; create policy visible on app.parent as restrictive for select to {app} using (name <> 'hidden')
drop policy visible on app.parent; create policy visible on app.parent for all to {app} using (name <> 'hidden')
create policy writes on app.parent for insert with check (name <> '')
comment on policy visible on app.parent is 'else'
drop rule quiet on app.base
alter table app.base disable rule quiet
create or replace rule quiet as on delete to app.base do also nothing
alter sequence app.numbers increment 3
alter sequence app.numbers maxvalue 2000
alter sequence app.numbers minvalue -5
alter sequence app.numbers start 7
alter sequence app.numbers cache 9
alter sequence app.numbers cycle
alter sequence app.numbers as bigint
alter sequence app.numbers owned by app.child.id
alter sequence app.child_id_seq owned by none
drop sequence app.numbers
alter type app.mood add value 'ecstatic'
alter type app.mood add value 'mad' before 'sad'
alter type app.mood rename value 'ok' to 'fine'
alter type app.mood owner to {app}
comment on type app.mood is 'else'
alter domain app.positive drop constraint above
alter domain app.positive add constraint below check (value < 9)
alter domain app.positive set default 2
alter domain app.positive set not null
alter type app.pair add attribute c int
alter type app.pair rename attribute a to z
drop type app.span
grant select on app.parent to {app}
grant delete on app.child to {app}
grant select on app.child to {app} with grant option
grant select on app.child to public
revoke insert on app.child from {app}
revoke update (note) on app.child from {app}
grant select (id) on app.child to {app}
grant update on sequence app.numbers to {app}
revoke usage on type app.mood from public
alter default privileges for role {owner} in schema app revoke select on tables from {app}
alter default privileges for role {owner} in schema app grant insert on tables to {app}
alter default privileges for role {owner} in schema app grant select on sequences to {app}
alter default privileges for role {owner} revoke execute on functions from public
drop statistics app.together
alter statistics app.together set statistics 50
drop statistics app.together; create statistics app.together (mcv) on parent, state from app.child
comment on statistics app.together is 'else'
drop collation app.german
drop collation app.german; create collation app.german (provider = icu, locale = 'fr-FR')
drop operator app.<=> (int, int)
alter operator app.<=> (int, int) owner to {app}
comment on operator app.<=> (int, int) is 'else'
alter text search dictionary app.words (accept = true)
alter text search configuration app.search drop mapping for asciiword
alter text search configuration app.search add mapping for word with app.words
drop text search configuration app.search
drop cast (app.pair as text)
drop cast (app.pair as text); create cast (app.pair as text) with inout
drop operator class app.reversed using btree
alter operator family app.family using btree add function 2 (int4, int4) btint4sortsupport(internal)
alter foreign data wrapper wrapper options (set a '2')
alter server remote options (set host 'z')
revoke usage on foreign data wrapper wrapper from {app}
grant usage on foreign data wrapper wrapper to {owner}
revoke usage on foreign data wrapper wrapper from {app}; revoke usage on foreign data wrapper wrapper from postgres
grant usage on foreign server remote to public
grant usage on foreign server remote to {app} with grant option
alter foreign table app.far options (set table_name 'u')
alter foreign table app.far alter column id options (set column_name 'j')
drop foreign table app.far
drop event trigger watch
alter event trigger watch disable
drop publication feed
alter publication feed set (publish = 'insert')
alter publication feed add table app.parent
alter publication feed drop table app.child
alter publication feed set table app.child (id)
alter publication feed set table app.child where (id > 0)
alter publication feed add tables in schema app
alter table app.base of app.pair
create language other handler plpgsql_call_handler
""".strip().splitlines()
CHANGES[CHANGES.index("alter table app.base of app.pair")] = "create type app.one as (x int); alter table app.base of app.one"


@contextmanager
def everything(server: Server) -> Iterator[Database]:
    """A database that has one of everything, and the roles that it needs."""
    with server.database() as database:
        app = f"{database.name}_app"
        server.execute(f"create role {app}")
        server.execute(f"grant {app} to {database.owner}")
        try:
            database.psql(EVERYTHING.format(owner=database.owner, app=app), user="postgres")
            yield database
        finally:
            server.execute(f"drop database {database.name} with (force)")
            server.execute(f"drop role {app}")


@pytest.fixture(scope="module")
def rich(server: Server) -> Iterator[Database]:
    with everything(server) as database:
        yield database


@contextmanager
def looking(database: Database, **fields: object) -> Iterator[Session]:
    with closing(Session(Release(Path(), database, "postgres").target(**fields))) as session:
        yield session


def taken(database: Database) -> fingerprint.Fingerprint:
    with looking(database) as session:
        ledger = Ledger(session, LEDGER)
        return fingerprint.take(session, ledger.name if ledger.exists else None)


@pytest.fixture(scope="module")
def original(rich: Database) -> fingerprint.Fingerprint:
    return taken(rich)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_changes_it(rich: Database, original: fingerprint.Fingerprint, change: str) -> None:
    with looking(rich) as session:
        session.run("begin; set allow_system_table_mods to on")
        if "; create" in change and "cast" not in change:
            # What replaces something shall differ from it in nothing else.
            session.run(f"set role {rich.owner}")
        # One by one: some cannot share a message.
        for statement in change.format(owner=rich.owner, app=f"{rich.name}_app").split("; "):
            session.run(statement)
        changed = fingerprint.take(session, None)
        session.run("rollback")
    assert changed.digest != original.digest
    assert changed.difference(original.text)


def test_it_is_back_where_it_was(rich: Database, original: fingerprint.Fingerprint) -> None:
    assert taken(rich).difference(original.text) == ""


def load(dump: str, database: Database) -> None:
    database.psql(dump, single_transaction=False, user="postgres")


def test_a_restored_database_of_another_name_and_owner_has_the_same(rich: Database, original: fingerprint.Fingerprint) -> None:
    with rich.server.database() as other:
        app = f"{other.name}_app"
        rich.server.execute(f"create role {app}")
        try:
            dump = subprocess.run(
                [str(rich.server.bin / "pg_dump"), "--dbname", rich.server.dsn(rich.name)], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            load(dump.replace(f"{rich.name}_app", app).replace(rich.owner, other.owner), other)
            assert taken(other).difference(original.text) == ""
            # And a copy of the copy.
            dump = other.dump()
            with rich.server.database() as third:
                load(dump.replace(app, f"{rich.name}_app").replace(other.owner, third.owner), third)
                text = taken(third).text.replace(f"{rich.name}_app", "{database}_app")
                assert sorted(text.splitlines()) == sorted(original.text.splitlines())
        finally:
            rich.server.execute(f"drop database {other.name} with (force)")
            rich.server.execute(f"drop role {app}")


def test_data_and_housekeeping_do_not_count(server: Server) -> None:
    with everything(server) as database:
        before = taken(database)
        database.execute(
            "insert into app.parent (name) select 'p' || n from generate_series(1, 500) n;"
            "insert into app.child (parent, note) select id, name from app.parent;"
            "select nextval('app.numbers'); insert into app.log values ('2024-05-05', 'x');"
            "refresh materialized view app.counts;"
            # Of user mappings, which hold secrets, nothing is told.
            f"alter user mapping for {database.name}_app server remote options (set user 'z');",
            user="postgres",
        )
        # A column that came and went leaves a gap in the numbers.
        database.execute("alter table app.child add column passing int; alter table app.child drop column passing", user="postgres")
        with closing(database.connect(user="postgres")) as connection:
            connection.autocommit = True
            for statement in (
                "vacuum (full, analyze)",
                "reindex schema app",
                "cluster app.parent using parent_pkey",
                "alter table app.parent set without cluster",
            ):
                connection.cursor().execute(statement)
        assert taken(database).difference(before.text) == ""


def test_what_the_session_has_set_does_not_count(rich: Database, original: fingerprint.Fingerprint) -> None:
    with looking(rich) as session:
        session.run(
            "set search_path to app, public; set timezone to 'Asia/Tokyo'; set datestyle to 'German'; set intervalstyle to 'iso_8601';"
            "set quote_all_identifiers to on; set extra_float_digits to 0; set bytea_output to 'escape'; set lc_messages to 'C'"
        )
        assert fingerprint.take(session, None).difference(original.text) == ""


def test_ledger_and_history_do_not_count(release: Release) -> None:
    release.add("1_nothing", "select 1;")
    empty = release.info()["fingerprint_text"]
    answer = release.migrate()
    assert answer["fingerprint"] == answer["fingerprint_before"]
    assert release.info(expected_fingerprint=empty)["fingerprint_difference"] == ""
    release.database.execute(f"drop table {LEDGER}, {HISTORY}")
    assert release.info()["fingerprint"] == answer["fingerprint"]


def test_the_difference_names_what_drifted(release: Release) -> None:
    release.add("1_table", "create table t (id int, note text);")
    release.migrate()
    before = release.info()["fingerprint_text"]
    release.database.execute("alter table t add rogue int; create index sneaky on t (id)")
    drifted = release.info(expected_fingerprint=before)["fingerprint_difference"].splitlines()
    assert len([line for line in drifted if line.startswith("+") and not line.startswith("+++")]) == 2
    assert any("public.t.rogue" in line for line in drifted)
    assert any("public.sneaky" in line for line in drifted)


def test_a_schema_that_came_in_another_order_is_the_same(server: Server) -> None:
    statements = [
        "create table a (id int primary key)",
        "create table b (id int primary key)",
        "create view v as select 1 as x",
        "create index i on a (id)",
        "create function f() returns int language sql as 'select 1'",
    ]
    texts = []
    for order in (statements, [statements[4], statements[2], statements[1], statements[0], statements[3]]):
        with server.database() as database:
            for statement in order:
                database.execute(statement)
            texts.append(taken(database).text)
    assert texts[0] == texts[1]


def test_a_policys_roles_may_be_written_in_any_order(rich: Database) -> None:
    roles = [rich.owner, f"{rich.name}_app", "pg_monitor"]
    texts = []
    with looking(rich) as session:
        for order in (roles, roles[::-1]):
            session.run(f"begin; create policy several on app.parent to {', '.join(order)}")
            texts.append(fingerprint.take(session, None).text)
            session.run("rollback")
    assert texts[0] == texts[1]
    assert "permissive to pg_monitor,{database}_app,{owner}" in texts[0]


def test_a_grant_on_a_server_that_was_taken_back_leaves_nothing(rich: Database, original: fingerprint.Fingerprint) -> None:
    with looking(rich) as session:
        session.run("begin; create server other foreign data wrapper wrapper")
        before = fingerprint.take(session, None)
        session.run("grant usage on foreign server other to public; revoke usage on foreign server other from public")
        assert fingerprint.take(session, None).difference(before.text) == ""
        session.run("rollback")
    assert before.difference(original.text).splitlines()[-1:] == ["+server other: owner postgres"]


@pytest.mark.parametrize("table", ["leaf", "parent"])
def test_a_foreign_key_that_is_switched_off_on_either_table_shows(rich: Database, table: str) -> None:
    with looking(rich) as session:
        session.run("begin; create table app.leaf (parent bigint constraint held references app.parent)")
        before = fingerprint.take(session, None)
        session.run(f"alter table app.{table} disable trigger all")
        off = fingerprint.take(session, None)
        session.run(f"alter table app.{table} enable trigger all")
        assert fingerprint.take(session, None).difference(before.text) == ""
        session.run("rollback")
    (line,) = [line for line in off.text.splitlines() if line.startswith("constraint app.leaf.held:")]
    assert line.endswith(f"REFERENCES app.parent(id) triggers disabled on app.{table}")


def test_a_virtual_column_does_not_read_like_a_stored_one(server: Server, rich: Database, original: fingerprint.Fingerprint) -> None:
    if server.major < 18:
        pytest.skip("PostgreSQL 18 and later have virtual columns")
    shown = []
    with looking(rich) as session:
        for kind in ("virtual", "stored"):
            session.run(f"begin; alter table app.scratch add column half int generated always as (x / 2) {kind}")
            shown.append(fingerprint.take(session, None).difference(original.text).splitlines()[-1])
            session.run("rollback")
    assert shown == ["+column app.scratch.half: 2 integer generated virtual (x / 2)", "+column app.scratch.half: 2 integer generated (x / 2)"]


def test_not_null_that_is_not_valid_shows(server: Server, rich: Database, original: fingerprint.Fingerprint) -> None:
    if server.major < 18:
        pytest.skip("PostgreSQL 18 and later have such constraints")
    shown = []
    with looking(rich) as session:
        session.run("begin; alter table app.scratch add constraint filled not null x not valid")
        for statement in ("select 1", "alter table app.scratch validate constraint filled"):
            session.run(statement)
            shown.append(fingerprint.take(session, None).difference(original.text).splitlines()[-1])
        session.run("rollback")
    assert shown == ["+column app.scratch.x: 1 integer not null not valid", "+column app.scratch.x: 1 integer not null"]
