"""Each rule finds what it is about, and nothing else."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import checksum, lint
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.source import Migration, Script, Source

MARKER = "-- no-transaction\n"


def script(name: str, sql: Optional[str]) -> Optional[Script]:
    return None if sql is None else Script(name, sql.encode())


def migration(up: str = "", down: Optional[str] = "", verify: Optional[str] = "", version: int = 1) -> Migration:
    first = Script(f"{version}_a.up.sql", up.encode())
    return Migration(version, "a", checksum.of(first.content), first, script(f"{version}_a.down.sql", down), script(f"v/{version}_a.sql", verify))


def check(*migrations: Migration, expect_verify: bool = True, levels: Optional[Dict[str, str]] = None) -> List[lint.Problem]:
    return lint.check(Source(migrations), expect_verify, levels or {})


def found(up: str) -> List[Tuple[str, int]]:
    """Rules that an up script breaks, and on which line."""
    return [(problem.rule, problem.line) for problem in check(migration(up))]


def test_a_migration_needs_a_way_back() -> None:
    (problem,) = check(migration(down=None))
    assert (problem.rule, problem.level, problem.file, problem.line) == ("missing-down", "error", "1_a.up.sql", 1)
    assert str(problem) == "1_a.up.sql:1: error: there is no down script, so there is no way back (missing-down)"


def test_a_migration_needs_a_verification_where_they_are_kept() -> None:
    assert [(problem.rule, problem.line) for problem in check(migration(verify=None))] == [("missing-verify", 1)]
    assert check(migration(verify=None), expect_verify=False) == []


BROKEN = [
    ("select 1;\nselect 'a", "unreadable", 2),
    ("select 1;\n\\i x", "unreadable", 2),
    ("\ncopy t from stdin;\n1\n\\.\n", "unreadable", 2),
    ("\ufeffselect 1", "byte-order-mark", 1),
    ("\n-- no-transaction\nselect 1", "misplaced-marker", 2),
    ("--no-transaction\nselect 1", "misplaced-marker", 1),
    (" -- no-transaction", "misplaced-marker", 1),
    ("-- licence\r\n--\r\n-- NO_TRANSACTION: indexes\r\nselect 1", "misplaced-marker", 3),
    ("-- no transaction\r\nselect 1", "misplaced-marker", 1),
    (MARKER + "select 1;\n\nselect 2", "several-statements", 4),
    (MARKER + "create index concurrently on t (id);", "unnamed-index", 2),
    ("select 1;\nbegin; select 2", "transaction-control", 2),
    ("commit", "transaction-control", 1),
    (MARKER + "savepoint s", "transaction-control", 2),
    ("select 1;\n\ncreate index concurrently on t (a)", "outside-transaction", 3),
    ("vacuum", "outside-transaction", 1),
    ("set search_path = ''", "session-setting", 1),
    ("SET SESSION work_mem = '1GB'", "session-setting", 1),
    ("set role x", "session-setting", 1),
    ("reset all", "session-setting", 1),
    ("discard plans", "session-setting", 1),
    ("select pg_catalog.set_config('search_path', '', false)", "session-setting", 1),
    ("select set_config('a.b', 'x', 'f')", "session-setting", 1),
    # Outside of a transaction it is the other way round.
    (MARKER + "set local lock_timeout = 0", "session-setting", 2),
    (MARKER + "set transaction isolation level serializable", "session-setting", 2),
    (MARKER + "set constraints all deferred", "session-setting", 2),
    (MARKER + "select set_config('a.b', 'x', true)", "session-setting", 2),
    ("create index on t (a) where b > now()", "volatile-index", 1),
    ("create unique index i on t (a)\n where b < CURRENT_DATE", "volatile-index", 1),
    ("create function f() returns int language sql security definer as 'select 1'", "unpinned-search-path", 1),
    ("create or replace procedure p()\nSECURITY\nDEFINER begin atomic end", "unpinned-search-path", 1),
    ("alter function f(int)\n  external security definer", "unpinned-search-path", 1),
    ("select 1;\nalter procedure p security definer", "unpinned-search-path", 2),
    ("alter routine a.f() security definer;\nalter function a.g() set search_path = ''", "unpinned-search-path", 1),
    ("create function f() returns int language sql security definer as '';\nalter function f() set search_path = ''", "unpinned-search-path", 1),
    # Comments between the words make no difference, nor does what is said in comments, literals and bodies.
    ("select set_config('a.b', '(', /* ) */ 'False')", "session-setting", 1),
    ("create index on t (a) where b > now/**/()", "volatile-index", 1),
    ("create function f() returns int language sql security /* as */ definer as 'select 1'", "unpinned-search-path", 1),
    ("create function f() returns int language sql security definer as $$ set search_path = ''; select 1 $$", "unpinned-search-path", 1),
    ("create procedure p() security definer /* set search_path = '' */ language sql as 'set search_path = a'", "unpinned-search-path", 1),
]


@pytest.mark.parametrize(("sql", "rule", "line"), BROKEN)
def test_a_rule_finds_what_it_is_about(sql: str, rule: str, line: int) -> None:
    assert found(sql) == [(rule, line)]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "-- only a comment",
        "select '\ufeff'",
        MARKER + "create index concurrently i on t (a)",
        "-- no transaction needed here, since this is small\nselect 1",
        "select 1;\n-- no-transaction",
        "/* begin */ select 'commit'",
        "do $$ begin perform 1; end $$",
        "create function f() returns int begin atomic select 1; end",
        "set local search_path = ''",
        "set constraints all deferred",
        MARKER + "set lock_timeout = 0",
        MARKER + "reset lock_timeout",
        MARKER + "discard all",
        MARKER + "select set_config('a.b', 'x', false)",
        "set transaction isolation level serializable",
        "alter role x set search_path = ''",
        "select set_config('a.b', 'false', true)",
        "select now()",
        "create table t (a timestamptz default now())",
        "create index on t (a) where b > '2024-01-01'",
        "create index now_idx on t (now_at)",
        "create function f() returns int language sql security definer set search_path = '' as 'select 1'",
        "create function f() returns int language sql as 'select 1'",
        "alter function f() security definer set search_path = ''",
        'alter function "f"(int) security definer; alter function a.f(p int) set search_path = a',
        "create or replace function a.f() returns int language sql set search_path = '' as ''; alter function f security definer",
        "alter function f() security invoker",
        "create function f() returns int language sql as $$ -- no SECURITY DEFINER needed\nselect 1 $$",
        "create function f(a text default 'security definer') returns int language sql as 'select 1'",
        "create function f() returns int language sql security definer set /* ' */ search_path = '' as 'select 1'",
        "create index on t (a) -- not now(): volatile\n where b > 'now()' and c <> $$current_user$$ /* random() */",
        "select 'set_config(a, b, false)', set_config('a.b', 'x, false', true) -- set_config('a', 'b', false)",
    ],
)
def test_a_good_script_breaks_no_rule(sql: str) -> None:
    assert found(sql) == []


def test_every_script_is_read_and_findings_come_in_order_of_file_and_line() -> None:
    bad = "\ncommit;\n\nvacuum;\nset a.b = 1"
    problems = check(migration(bad, bad, bad, version=2), migration("begin", version=1))
    assert [(problem.file, problem.line) for problem in problems] == [
        ("1_a.up.sql", 1),
        *((name, line) for name in ("2_a.down.sql", "2_a.up.sql", "v/2_a.sql") for line in (2, 4, 5)),
    ]


def test_a_rules_level_can_be_set() -> None:
    sql = "commit; set a.b = 1; vacuum"
    problems = check(migration(sql), levels={"transaction-control": "warning", "session-setting": "ignore"})
    assert [(problem.rule, problem.level) for problem in problems] == [("outside-transaction", "error"), ("transaction-control", "warning")]


DOWN = [
    ("select 1;\n\ndrop table t;", [("unannounced-loss", 3)]),
    ("drop foreign table if exists t; drop table u;", [("unannounced-loss", 1)]),
    ("alter table t\n  add a int,\n  drop column b;", [("unannounced-loss", 1)]),
    ("Truncate t", [("unannounced-loss", 1)]),
    ("delete from t", [("unannounced-loss", 1)]),
    ("drop schema s cascade", [("unannounced-loss", 1)]),
    ("-- data-loss: table t\ndrop table t; delete from u;", []),
    ("-- data-loss\ndrop table t;", [("misread-loss", 1)]),
    ("--data-loss: table t\ndrop table t;", [("misread-loss", 1)]),
    ("select 1;\n-- Data loss: t\n", [("misread-loss", 2)]),
    ("-- data-loss: table t, index i\ndrop table t;", [("misread-loss", 1)]),
    ("drop /* all of */ table t", [("unannounced-loss", 1)]),
    # COLUMN may be left out.
    ("alter table t drop a", [("unannounced-loss", 1)]),
    ('alter table if exists only public . "my t" drop if exists "constraint" cascade', [("unannounced-loss", 1)]),
    ("alter table t* drop a", [("unannounced-loss", 1)]),
    ("alter table t drop constraint c, alter a drop default,\n drop b", [("unannounced-loss", 1)]),
    ('alter table u&"t" drop column a', [("unannounced-loss", 1)]),
    ("alter table t alter a drop default, alter column b drop not null, alter c drop identity, alter d drop expression", []),
    ("alter table t drop constraint if exists a, drop constraint b, drop /* , drop c */ constraint c", []),
    ("alter table backdrop add a int; alter table drop add constraint u unique (a, drop)", []),
    ("alter table t add a text default 'drop column' -- drop column b", []),
    ("drop index i; alter table t drop constraint c; drop view v; -- data", []),
]


@pytest.mark.parametrize(("down", "expected"), DOWN)
def test_a_down_script_announces_what_it_loses(down: str, expected: List[Tuple[str, int]]) -> None:
    assert [(problem.rule, problem.line) for problem in check(migration("drop table t;", down))] == expected


def test_every_rule_is_tested_here() -> None:
    tested = {rule for _unused, rule, _unused in BROKEN} | {rule for _unused, found_there in DOWN for rule, _unused in found_there}
    assert tested | {"missing-down", "missing-verify", "squawk"} == set(lint.RULES)
