"""Every version up, down and up again in a scratch database: what a wrong way back leaves behind, changes or loses is found."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import (
    executor,
    ledger,
    look,
    release,
    scratch,
    session,
    source,
    stairway,
)
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError, LockError, MigrationError
from support import registry
from support.migrations import HISTORY, LEDGER, Release
from support.postgres import Database

# What the second version finds: something of every kind.
FIRST = """
create type mood as enum ('sad', 'ok', 'happy');
create table items (id int primary key, name varchar(20) default 'none', price int not null default 0, current mood);
create index items_name on items (name);
comment on table items is 'What is sold';
grant select on items to pg_monitor;
create function twice(n int) returns int language sql as 'select 2 * n';
create function stamp() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger stamped before insert on items for each row execute function stamp();
"""
FIRST_DOWN = """\
-- data-loss: table items
drop table items;
drop function stamp();
drop function twice(int);
drop type mood;
"""
SAMPLE = "insert into items (id, name, price) select n, 'item ' || n, n from generate_series(1, 3) as n;"


class Wrong(NamedTuple):
    """A second version with a way back that is not one, and what must be said of it."""

    up: str
    down: str
    says: str


WRONG = {
    "index": Wrong("drop index items_name;", "select 1;", "missing: index public.items_name"),
    "type": Wrong(
        "alter table items alter column name type text;",
        "alter table items alter column name type varchar(30);",
        "changed: column public.items.name",
    ),
    "default": Wrong("alter table items alter column name drop default;", "select 1;", "changed: column public.items.name"),
    "grant": Wrong("revoke select on items from pg_monitor;", "select 1;", "changed: table public.items"),
    "comment": Wrong("comment on table items is 'What is sold here';", "comment on table items is null;", "changed: table public.items"),
    "function body": Wrong(
        "create or replace function twice(n int) returns int language sql as 'select n + n';",
        "create or replace function twice(n int) returns int language sql as 'select n * 2';",
        "changed: function public.twice(integer)",
    ),
    "trigger": Wrong("drop trigger stamped on items;", "select 1;", "missing: trigger public.items.stamped"),
    "data of a column": Wrong(
        "alter table items drop column name;",
        # The columns' order is part of the schema, so the table is made anew.
        """
        create table again (id int primary key, name varchar(20) default 'none', price int not null default 0, current mood);
        insert into again (id, price, current) select id, price, current from items;
        drop table items;
        alter table again rename to items;
        alter index again_pkey rename to items_pkey;
        create index items_name on items (name);
        comment on table items is 'What is sold';
        grant select on items to pg_monitor;
        create trigger stamped before insert on items for each row execute function stamp();
        """,
        "column public.items.name, 3 rows",
    ),
    "order of an enum": Wrong(
        "alter type mood rename value 'ok' to 'fine';",
        """
        alter table items alter column current type text;
        drop type mood;
        create type mood as enum ('ok', 'sad', 'happy');
        alter table items alter column current type mood using current::mood;
        """,
        "changed: type public.mood",
    ),
    "owner": Wrong(
        "alter table items owner to {other};", "alter table items owner to {other};", "changed: table public.items"
    ),
}


@pytest.fixture
def other(release: Release) -> Iterator[str]:
    """A role that the owner may give things to."""
    name = release.database.owner + "_other"
    server, owner = release.database.server, release.database.owner
    server.execute(f"create role {name}")
    server.execute(f"grant {name} to {owner}")
    release.database.execute(f"grant create on schema public to {name}", user="postgres")
    yield name
    server.execute(f"drop owned by {name}", release.database.name)
    server.execute(f"drop role {name}")


def walk(stand: Release, **options: Any) -> Dict[str, Any]:
    """The stairway of a release, in a scratch database beside the release's, which is gone afterwards."""
    files = stand.read()
    samples = stand.directory / "samples"
    owned = stand.as_user("postgres").target(session_role=stand.database.owner)
    with scratch.Scratch(owned, "stairway") as made:
        made.create("template0")
        if "grants" in options:
            with session.Session(made.target) as beside:
                beside.run(options.pop("grants"))
        return stairway.run(
            made.target,
            release_of(files),
            source.read_samples(str(samples), {each.version for each in files.migrations}) if samples.exists() else {},
            executor.Options(**options),
        )


release_of = release.of


def sample(stand: Release, name: str, text: str) -> None:
    directory = stand.directory / "samples"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.sql").write_text(text)


def databases(stand: Release) -> List[str]:
    return [name for (name,) in stand.database.execute("select datname from pg_database order by 1")]


def test_a_version_0_is_a_stair_as_well(release: Release) -> None:
    release.add("0_init", "create table t0 (id int);", "-- data-loss: table t0\ndrop table t0;")
    release.add_tables(1, 1)
    (release.migrations / "1_table.down.sql").write_text("-- data-loss: table t1\ndrop table t1;")
    assert [(each["version"], each["proven"]) for each in walk(release)["stairs"]] == [(0, True), (1, True)]
    assert [each["version"] for each in release.migrate(0)["applied"]] == [0]


def test_the_registry(release: Release) -> None:
    files = source.read([str(registry.MIGRATIONS)], str(registry.VERIFY))
    samples = source.read_samples(str(registry.SAMPLES), {each.version for each in files.migrations})
    owned = release.as_user("postgres").target(session_role=release.database.owner)
    before = databases(release)
    with scratch.Scratch(owned, "stairway") as made:
        made.create("template0")
        told = stairway.run(made.target, release_of(files), samples, executor.Options())
    assert databases(release) == before
    assert [each["proven"] for each in told["stairs"]] == [True] * len(registry.NAMES)
    # Every table has rows in it, so that no loss can hide.
    assert [each["unseen"] for each in told["stairs"]] == [[]] * len(registry.NAMES)
    assert {lost["what"] for lost in told["stairs"][0]["lost"]} >= {"table public.schemas", "table public.subjects"}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_way_back(release: Release, other: str, wrong: str) -> None:
    release.add("1_first", FIRST, FIRST_DOWN)
    release.add("2_second", WRONG[wrong].up.format(other=other), WRONG[wrong].down.format(other=other))
    sample(release, "1_first", SAMPLE)
    before = databases(release)
    with pytest.raises(ExecutionError) as failed:
        walk(release, grants=f"grant create on schema public to {other}")
    said = failed.value.text
    assert "2_second.down.sql" in said
    assert WRONG[wrong].says in said
    assert "no other database was touched" in said
    assert failed.value.failed["version"] == 2
    assert databases(release) == before


@pytest.mark.parametrize(
    ("up", "down", "lost"),
    [
        ("alter table items add column note text default 'new';", "alter table items drop column note;", {"column public.items.note": 3}),
        ("create table more (id int); insert into more values (1), (2);", "drop table more;", {"table public.more": 2}),
        ("insert into items (id) values (7), (8);", "delete from items where id > 6;", {"rows of public.items": 2}),
        ("select 1;", "truncate items;", {"rows of public.items": 3}),
        ("select 1;", "update items set name = null where id = 1;", {"column public.items.name": 1}),
        ("-- no-transaction\ncreate table more as select 1 as id;", "-- no-transaction\ndrop table more;", {"table public.more": 1}),
        (
            "create table more (id int) partition by range (id); create table more_1 partition of more for values from (0) to (9);"
            " insert into more values (1);",
            "drop table more;",
            {"table public.more": 1},
        ),
    ],
)
def test_a_loss_fails_unless_it_is_announced(release: Release, up: str, down: str, lost: Dict[str, int]) -> None:
    release.add("1_first", FIRST, FIRST_DOWN)
    sample(release, "1_first", SAMPLE)
    release.add("2_second", up, down)
    with pytest.raises(ExecutionError) as failed:
        walk(release)
    assert {each["what"]: each["rows"] for each in failed.value.failed["lost"]} == lost
    announcement = failed.value.text.splitlines()[-1]
    assert announcement.startswith("-- data-loss: ")
    first, _newline, rest = down.partition("\n")
    release.add("2_second", up, f"{first}\n{announcement}\n{rest}" if rest else f"{announcement}\n{down}")
    (stair,) = [each for each in walk(release)["stairs"] if each["version"] == 2]
    assert {each["what"]: each["rows"] for each in stair["lost"]} == lost


def test_what_is_no_loss(release: Release) -> None:
    """Renamed, moved to another table and back, copied, or narrowed without losing a value."""
    release.add("1_first", FIRST, FIRST_DOWN)
    sample(release, "1_first", SAMPLE)
    release.add("2_rename", "alter table items rename to goods;", "alter table goods rename to items;")
    release.add(
        "3_move",
        "create table notes as select id, name as note from goods; alter table goods rename column name to title;",
        "-- data-loss: table notes, view v\nalter table goods rename column title to name; drop table notes;",
    )
    stairs = walk(release)["stairs"]
    assert [[each["what"] for each in stair["lost"]] for stair in stairs] == [["table public.items"], [], ["table public.notes"]]
    assert {stair["sample"] for stair in stairs} == {True, False}


def test_what_is_announced_and_never_seen_is_told(release: Release) -> None:
    release.add("1_first", "create table t (id int);", "-- data-loss: table t, column old.name, view v\ndrop table t;")
    assert walk(release)["stairs"][0]["unseen"] == ["column public.old.name", "table public.t"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("insert into nowhere values (1);", "1_first.sql, line 1, column 13: relation \"nowhere\" does not exist"),
        ("create table beside (id int);", "1_first.sql: a sample is data, and this one changes the schema:\nleft behind: "),
    ],
)
def test_a_sample_that_is_none(release: Release, text: str, says: str) -> None:
    release.add("1_first", FIRST, FIRST_DOWN)
    sample(release, "1_first", text)
    with pytest.raises(ExecutionError) as failed:
        walk(release)
    assert says in failed.value.text
    assert scratch.name_for(release.database.name, "stairway") not in databases(release)


def test_a_version_without_a_way_back_ends_the_proof_there(release: Release) -> None:
    release.add("1_first", FIRST, FIRST_DOWN)
    release.add("2_for_good", "create table t2 (id int);")
    release.add("3_more", "create table t3 (id int);", "drop table t3;")
    told = walk(release)
    assert {each["version"]: each["proven"] for each in told["stairs"]} == {1: False, 2: False, 3: True}
    assert list(told["ways_back"]) == ["3"]


def test_the_proof_is_written_down_once(release: Release) -> None:
    release.add_tables(1, 2)
    release.migrate(1)
    files = release_of(release.read())
    ways = walk(release)["ways_back"]
    with session.Session(release.target()) as here:
        table = ledger.Ledger(here, LEDGER)
        assert stairway.is_recorded(here, table, files) is False
        stairway.record(here, table, files, "tests")
        assert stairway.is_recorded(here, table, files) is True
    known = look.look_around(release.target(), LEDGER)["known"]
    assert known["ways_back"] == ways
    # It says nothing about what this database went through itself.
    assert known["proven"] == []
    assert release.info()["proven"] is False
    release.add("2_table", "create table t2 (id int);", "drop table if exists t2;")
    with session.Session(release.target()) as here:
        assert stairway.is_recorded(here, ledger.Ledger(here, LEDGER), release_of(release.read())) is False
    detail = release.database.execute(f"select detail from {HISTORY} where action = 'stairway'")
    assert [json.loads(each) for (each,) in detail] == [{"release": files.digest, "ways_back": ways}]


def test_a_database_without_the_mark_is_never_dropped(release: Release) -> None:
    release.add_tables(1, 1)
    name = scratch.name_for(release.database.name, "stairway")
    server = release.database.server
    server.execute(f"create database {name}")
    try:
        with pytest.raises(MigrationError, match="nothing says that it is a scratch database"):
            walk(release)
        assert name in databases(release)
        # What a run left that was killed is marked.
        server.execute(f"comment on database {name} is '{scratch.MARK}'")
        assert walk(release)["stairs"]
        assert name not in databases(release)
    finally:
        server.execute(f"drop database if exists {name}")


def test_settings_of_the_database_hold_in_the_scratch_database(release: Release) -> None:
    owner = release.database.owner
    release.database.execute(f"alter database {release.database.name} set search_path to app, public", user="postgres")
    release.database.execute(f"alter role {owner} in database {release.database.name} set work_mem to '5MB'", user="postgres")
    release.add("1_app", "create schema app; create table t (id int);", "drop table t; drop schema app;")
    assert walk(release)["stairs"]
    owned = release.as_user("postgres").target(session_role=owner)
    with scratch.Scratch(owned, "stairway") as made:
        assert made.copy() == "template"
        with session.Session(made.target._replace(parameters=dict(made.target.parameters, user=owner), session_role=None)) as there:
            found = there.rows("select current_setting('search_path'), current_setting('work_mem')")
    assert found == [("app, public", "5MB")]


def test_who_may_make_no_database_is_told_what_it_takes(release: Release) -> None:
    with pytest.raises(MigrationError) as failed, scratch.Scratch(release.target(), "stairway") as made:
        made.create("template0")
    for words in ("permission denied to create database", "42501", "needs CREATEDB", "No other database was touched"):
        assert words in failed.value.text


def test_two_at_once(release: Release) -> None:
    owned = release.as_user("postgres").target(session_role=release.database.owner)
    with scratch.Scratch(owned, "stairway"), pytest.raises(LockError, match="Another run is at work"), scratch.Scratch(owned, "stairway"):
        pass


def test_nobody_else_may_connect(release: Release, database: Database) -> None:
    owned = release.as_user("postgres").target(session_role=release.database.owner)
    public: Optional[List[Any]] = None
    with scratch.Scratch(owned, "stairway") as made:
        made.create("template0")
        public = database.execute(
            "select has_database_privilege('pg_monitor', %s, 'connect'), has_database_privilege(%s, %s, 'connect')",
            [made.name, release.database.owner, made.name],
        )
    assert public == [(False, True)]
