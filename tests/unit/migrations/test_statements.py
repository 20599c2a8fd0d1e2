"""Files are split where PostgreSQL's own parser (libpg_query, by pglast) splits them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import List, Optional, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import statements
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.statements import IndexBuild, Statement, StatementError
from hypothesis import given, settings
from hypothesis import strategies as st
from pglast import parse_sql, parser

CHECKOUT = Path(__file__).parents[3]
Span = Tuple[int, int]


def tokens(sql: str) -> List[parser.Token]:
    """PostgreSQL's tokens of a script, comments left out."""
    return [token for token in parser.scan(sql) if token.name not in {"SQL_COMMENT", "C_COMMENT"}]


def parsed_by_postgresql(sql: str) -> List[Span]:
    """Where each statement begins and ends, comments around it left out."""
    every = tokens(sql)
    spans = []
    for raw in parse_sql(sql):
        stop = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(sql)
        own = [token for token in every if raw.stmt_location <= token.start < stop]
        spans.append((own[0].start, own[-1].end + 1))
    return spans


def split(sql: str) -> List[Span]:
    return [(each.start, each.start + len(each.text)) for each in statements.split(sql)]


def one(sql: str) -> Statement:
    (statement,) = statements.split(sql)
    return statement


CORPUS = [
    # Nothing, and nothing but separators.
    "",
    " \t\r\n\f\v",
    ";;; ; -- c\n;/* c */;",
    "-- only a comment",
    "-- only a comment\r\n/* and another */",
    "select 1",
    ";;select 1;;select 2;;",
    "select 1\r\n;\r\nselect 2;\r\n",
    "-- a\rselect 1;\rselect 2",
    # Strings.
    "select 'it''s; not over'; select ''''; select ''",
    r"select 'a\'; select E'a\'; b'; select e'\\'; select E'\\\';'",
    r"select E'it''s;\''; select 2",
    "select 'a'\n'b;'; select E'a'\n  '\\';b'; select 2",
    "select E'a' -- c\n -- 'd\n\t '\\';b'; select 2",
    "select E'a' ---------------------------------------- c\n; select 2",
    "select 'a' -- it's; here\n 'b'; select 2",
    r"""select U&'d\0061;t'; select u&"d\0061;t" from (values (1)) as v (data)""",
    "select U&'!0061;' uescape '!'; select N'n;', n';', B'01', b'1', X'1F;', x'f'",
    "select 1 as nameE, 'x\\'; select 2",
    # Identifiers.
    'select 1 as "a;b", 2 as "c""d;"; select 3 as """"',
    "select a$b$c, d$$e from (values (1, 2)) as v (a$b$c, d$$e); select 2",
    "select 1 as größe, 2 as Ä$ö; select 3 as 日本",
    "select 1 as\N{NO-BREAK SPACE}; select 2 as \N{IDEOGRAPHIC SPACE}; select 3 as \x85",
    # Dollar quotes.
    "select $$a;'b$$; select $a$ $b$;$b$ $$ $a$; select $é1$;$é1$",
    "select $a$ $a $aa$ a$ ;$a$; select $_$;$b$a$_$",
    "select $a$;$b$a$; select 2",
    "do $do$ begin perform 1; execute $q$select ';'$q$; end $do$; select 1",
    "prepare p (int, int) as select $1+$2; execute p (1, 2)",
    "select date $$;$$, 1 as int4$$;",
    # Comments.
    "/* a /* b; */ c; */ select 1; /* */ select /* ; */ 2 /**/; select 3 /*/ ; */",
    "select 1 /****/; select 2 /* **/; select 3 /*//**/*/; select 4",
    "select 1+--x;\n2; select 3*/*;*/4; select 5 -- ;\n+6; select 7 <--;\n8",
    "select 1 --/*\n; select 2 /* -- */; select 3 /* ' \" $$ */; select 4",
    "select '/*;'; select '--;'; select \"/*\" from (values (1)) as v (\"/*\"); select 5 /* ; */",
    # Parentheses and brackets.
    "select (array[1, 2])[1:2]; select '{}'::int[]; select (1), ((2)); select ')'; select '('",
    "create rule r as on insert to t do also (select 1; delete from t;); select 2",
    "create rule r as on update to t do instead (insert into t values (';)'); select ')'); select 2",
    # Bodies in SQL.
    "create function f() returns int begin atomic select 1; select 2; end; select 3",
    "create or replace function f() returns int language sql begin atomic; end; select 1",
    "create procedure p() begin atomic end; select 1",
    "create function f(a int) returns int begin atomic select case when a > 0 then case a when 1 then 2 end else 3 end; end; select 4",
    "create function f() returns int begin atomic select 1 as end; select 2 end; select 3 as case; select t.end, t.case from t; end; select 4",
    "create function f() returns int begin atomic select 1 as \"end\"; select 'end'; /* end */ end /* ; */; select 2",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;; ; END; SELECT 2",
    "create function f() returns int return case when true then 1 end; select 2",
    "create function f() returns int begin atomic create function g() returns int begin atomic select 1; end; select 2; end; select 3",
    "create view v as select begin atomic from t; select 1; end",
    "begin; select 1; end; begin transaction; commit and chain; rollback",
    "select 1 as atomic; begin; create table begin (atomic int); commit",
    # Operators and numbers.
    "select 1.5e10, .5, 1., 0x1F, 1_000; select a.b.c, a.*; select 1::int; select a[1:2]",
    "select @-1, |/4, 2!=3, 'a'||'b'; select f(a => 1, b := 2)",
    # COPY that does not go through the client.
    "copy t from '/from stdin'; copy (select 'to stdout' as stdin) to '/x' -- to stdout\n; copy t to program 'cat >stdout'",
    'copy "stdin" from \'/x\'; copy stdin to \'/x\'; select stdout from stdin',
]


@pytest.mark.parametrize("sql", CORPUS)
def test_nasty_scripts_are_split_as_postgresql_splits_them(sql: str) -> None:
    assert split(sql) == parsed_by_postgresql(sql)


# What is in monitoring/ is for psql.
OWN = sorted(path for path in (CHECKOUT / "sql").rglob("*.sql") if path.parent.name != "monitoring")


@pytest.mark.parametrize("path", OWN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_registrys_own_files_are_split_as_postgresql_splits_them(path: Path) -> None:
    sql = path.read_text(encoding="utf-8")
    assert split(sql) == parsed_by_postgresql(sql) != []


GAPS = st.sampled_from([" ", "\n", "\r\n", "\t", "/* ; */", "/* /* ' */ $$ */", " -- ' ; $$\n", "--\r\n", "\f"])
ATOMS = st.sampled_from(
    [
        *("1", "1.5", "'it''s;'", "''", r"E'\';'", r"e'\\'", "E'a'\n'\\';'", "'a'\n';'", "$$;$$", "$a$;$$'$a$", "U&'\\0061;'", "b'01'", "x'f'"),
        *("a$b$c", '"a;""b"', "größe", "(1)", "(select ')')", "array[1, 2]", "case when a then ';' end", "a.b", "f(';')", "-1", "1+--;\n2", "2*/*;*/3"),
    ]
)
QUERIES = st.builds(lambda gap, atoms: "select" + gap + f"{gap},{gap}".join(atoms), GAPS, st.lists(ATOMS, min_size=1, max_size=5))
STATEMENTS = st.one_of(
    QUERIES,
    QUERIES.map("create rule r as on insert to t do also (select 1; {});".format),
    st.lists(QUERIES, max_size=3).map(
        lambda queries: "create function f() returns int begin atomic " + "".join(query + " ; " for query in queries) + "end"
    ),
    QUERIES.map("create view v as {}".format),
    st.sampled_from(["", "begin", "end", "do $x$ begin; end $x$", "create index concurrently on t (a)", "copy t to ';'"]),
)
SEPARATORS = st.builds("{}{}{}".format, GAPS, st.sampled_from([";", ";;", "; -- ;\n", "\n;\r\n"]), GAPS)


@given(st.lists(st.tuples(STATEMENTS, SEPARATORS), max_size=6).map(lambda pairs: "".join(part for pair in pairs for part in pair)))
def test_any_script_is_split_as_postgresql_splits_it(sql: str) -> None:
    assert split(sql) == parsed_by_postgresql(sql)


def scanned_by_postgresql(sql: str) -> Optional[List[Span]]:
    """Where statements without bodies begin and end, by PostgreSQL's tokens; None where it finds something unclosed or of psql's."""
    try:
        every = tokens(sql)
    except parser.ParseError as error:
        return None if "unterminated" in str(error) else []
    spans: List[Span] = []
    depth, start, stop = 0, -1, -1
    for token in every:
        if token.name == "ASCII_92":
            return None
        depth = max(depth + {"ASCII_40": 1, "ASCII_41": -1}.get(token.name, 0), 0)
        if token.name == "ASCII_59" and depth == 0:
            spans += [(start, stop)] * (start >= 0)
            start = -1
        else:
            start, stop = token.start if start < 0 else start, token.end + 1
    return spans + [(start, stop)] * (start >= 0)


SOUP = [
    *("'", "''", '"', "E'", "E'a'\n'", "x'", "\\", "\\'", "$$", "$a$", "$", "--", "/*", "*/", "*", "/", "-", "+"),
    *("\n", "\r", " ", "\N{NO-BREAK SPACE}", ";", "(", ")", "a", "é", "1"),
]


@settings(max_examples=2 * settings.default.max_examples)
@given(st.lists(st.sampled_from(SOUP), max_size=14).map("".join))
def test_any_text_is_taken_apart_as_postgresqls_scanner_takes_it_apart(sql: str) -> None:
    expected = scanned_by_postgresql(sql)
    if expected == []:
        return  # nothing in it, or something that only PostgreSQL refuses
    try:
        found: Optional[List[Span]] = split(sql)
    except StatementError:
        found = None
    assert found == expected


def test_a_statement_knows_where_it_is() -> None:
    sql = "-- a\n;\r\n/* é\n*/ select\n  1 ;; select $$\n$$ -- b\n;\n\nselect 'é'"
    found = statements.split(sql)
    assert [(each.text, each.line) for each in found] == [("select\n  1", 4), ("select $$\n$$", 5), ("select 'é'", 9)]
    assert [sql[each.start :].startswith(each.text) for each in found] == [True] * 3
    assert [statements.position(sql, each.start) for each in found] == [(4, 4), (5, 8), (9, 1)]
    assert found[0].head == ("select", "1")


def test_a_statements_head_has_words_folded_and_names_as_written() -> None:
    assert one('CREATE Index ÄÖ ON "A;" (É)').head == ("create", "index", "ÄÖ", "on", '"A;"', "(", "É", ")")
    assert len(one("select " + ", ".join(["1"] * 100)).head) < 30


def test_a_summary_is_one_short_line() -> None:
    assert one("select\n\t1,\r\n 2").summary == "select 1, 2"
    long = one("select " + "1 + " * 100 + "1").summary
    assert len(long) == 120
    assert long.endswith("...")


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("select 1", "select 1"),
        ("select 'a;''b', \"c'd\" -- e\n, 1", "select '     ', \"c'd\"      , 1"),
        (r"select E'a\'b', x'1F', U&'c' 'd'", "select '     ', '   ', '   ' ' '"),
        ("do/* ' /* $$ */ */$a$ x $$ $a$language sql", "do" + " " * 16 + "'" + " " * 10 + "'language sql"),
    ],
)
def test_a_statements_code_is_without_comments_and_literals(sql: str, code: str) -> None:
    assert one(sql).code == code


@given(st.lists(st.tuples(STATEMENTS, SEPARATORS), max_size=6).map(lambda pairs: "".join(part for pair in pairs for part in pair)))
def test_a_statements_code_is_as_long_as_the_statement_and_is_one_too(sql: str) -> None:
    for each in statements.split(sql):
        (again,) = statements.split(each.code)
        assert len(each.code) == len(each.text)
        assert len(again.head) == len(each.head)
        assert "--" not in each.code
        assert "/*" not in each.code


@pytest.mark.parametrize(
    ("sql", "line", "message"),
    [
        ("select 1;\n\\i other.sql", 2, r"\\i is a command of psql"),
        ("select 1 \\gset\n", 1, r"\\gset is a command of psql"),
        ("\n\n\\restrict abc\n", 3, r"\\restrict is a command of psql"),
        ("select 1;\n\\", 2, r"\\ is a command of psql"),
        ("select 1;\n\ncopy\nt (a, b) from stdin;\n1\tit's\n\\.\n", 3, "COPY through the client"),
        ("COPY (select 1; ) TO STDOUT with (format csv)", 1, "COPY through the client"),
        ("copy binary t from /* here */ stdin", 1, "COPY through the client"),
        ("select 1;\nselect 'a\nb''\n", 2, "the quote ' is never closed"),
        ("select 1;\nselect E'a\\'\n\n", 2, "the quote E' is never closed"),
        ("select E'a'\n'\\'", 1, "the quote E' is never closed"),
        ("select U&'a", 1, "the quote U&' is never closed"),
        ('select "a""', 1, 'the quote " is never closed'),
        ("\nselect $a$ $$ $b$\n", 2, r"the dollar quote \$a\$ is never closed"),
        ("select 1;\n\n/* /* */\n", 3, r"the comment /\* is never closed"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_line(sql: str, line: int, message: str) -> None:
    with pytest.raises(StatementError, match=message) as error:
        statements.split(sql)
    assert error.value.line == line


def test_statements_before_a_refused_one_are_scanned() -> None:
    scanned = statements.scan("select 1; \\q")
    assert next(scanned).text == "select 1"
    with pytest.raises(StatementError):
        next(scanned)


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "sql",
    [
        "select " + "'" * MEGABYTE,
        "select '" + "'" * MEGABYTE,
        "select E'" + "\\'" * (MEGABYTE // 2),
        "select E'" + "'" * (MEGABYTE + 1),
        'select "' + '"' * MEGABYTE,
        "select E'x' " + "-" * MEGABYTE + "\n;",
        "select E'x' " + "-- " * (MEGABYTE // 3) + "\n'y'",
        "select E'x'" + "\n--c" * (MEGABYTE // 4),
        "select E'x'" + "\n'y'" * (MEGABYTE // 4),
        "/*" * (MEGABYTE // 2),
        "/*" * (MEGABYTE // 4) + "*/" * (MEGABYTE // 4),
        "select 1\n" + "/*c*/\n" * (MEGABYTE // 6),
        "select 1\n" + "--c\n" * (MEGABYTE // 4),
        "$a" * (MEGABYTE // 2),
        "select " + "(" * (MEGABYTE // 4),
        "select 1;\n" * (MEGABYTE // 40),
    ],
    ids=range(16),
)
def test_a_megabyte_of_anything_takes_linear_time(sql: str) -> None:
    began = time.process_time()
    try:
        statements.split(sql)
    except StatementError as error:
        assert "never closed" in str(error)
    # Seconds on a busy machine; what is not linear takes minutes.
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "sql",
    [
        "vacuum",
        "VACUUM (analyze) t",
        "alter system set work_mem = '4MB'",
        "create database d",
        "drop database if exists d",
        "alter database d set tablespace s",
        "create tablespace s location '/s'",
        "drop tablespace if exists s",
        "create subscription s connection 'x' publication p",
        "drop subscription s",
        "alter subscription s refresh publication",
        "alter subscription s set publication p",
        "reindex schema s",
        "reindex (verbose) schema s",
        "reindex (verbose, concurrently) table t",
        "reindex database",
        "reindex system d",
        "reindex index concurrently i",
        "cluster",
        "cluster verbose",
        "discard all",
        "commit prepared 'x'",
        "rollback prepared 'x'",
        "create index concurrently on t (a)",
        "CREATE UNIQUE INDEX /* c */ CONCURRENTLY IF NOT EXISTS i ON s.t (a)",
        "drop index concurrently if exists i",
        "alter table only s.t detach partition p concurrently",
    ],
)
def test_what_postgresql_refuses_inside_a_transaction_is_known(sql: str) -> None:
    assert statements.outside_transaction(one(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "analyze t",
        "create index concurrently_not on t (a)",
        'create index "concurrently" on t (a)',
        "create table t (a text default 'concurrently')",
        "create function f() returns int language sql as $$create index concurrently on t (a)$$",
        "drop index i",
        "refresh materialized view concurrently v",
        "reindex table t",
        "reindex (verbose) index i",
        "cluster t using i",
        "reindex table s.cluster",
        "create table vacuum (a int)",
        "cluster verbose t",
        "alter database d set default_tablespace = ''",
        "alter subscription s disable",
        "alter table t detach partition p",
        "alter table t detach partition p finalize",
        "alter type e add value 'x'",
        "discard plans",
        "select 1",
        "begin",
    ],
)
def test_what_runs_inside_a_transaction_is_known(sql: str) -> None:
    assert not statements.outside_transaction(one(sql))


@pytest.mark.parametrize(
    "sql",
    [
        *("begin", "BEGIN isolation level serializable", "start transaction", "commit", "commit and chain", "end", "rollback", "abort"),
        *("rollback to s", "savepoint s", "release s", "release savepoint s", "prepare transaction 'x'"),
    ],
)
def test_transaction_control_is_recognised(sql: str) -> None:
    assert statements.controls_transaction(one(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "prepare p as select 1",
        "commit prepared 'x'",
        "rollback prepared 'x'",
        "set transaction read only",
        "do $$ begin commit; end $$",
        "create function f() returns int begin atomic select 1; end",
        '"begin"',
        "select 'commit'",
    ],
)
def test_other_statements_do_not_control_the_transaction(sql: str) -> None:
    assert not statements.controls_transaction(one(sql))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("create index concurrently i on t (a)", IndexBuild("i", "t")),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS I ON ONLY S.T USING btree (a)", IndexBuild("i", "s.t")),
        ('create index concurrently "I x" on "S.""s"."on" (a)', IndexBuild('"I x"', '"S.""s"."on"')),
        ("create index concurrently ÄNDERUNG on GRÖSSE (a)", IndexBuild("Änderung", "grÖsse")),
        ("create index concurrently on s . t (a)", IndexBuild(None, "s.t")),
        ("create index concurrently if not exists on_call on t (on_call)", IndexBuild("on_call", "t")),
        ("create index i on t (a)", None),
        ("drop index concurrently i", None),
        ("reindex index concurrently i", None),
        ("comment on table t is 'create index concurrently'", None),
    ],
)
def test_an_index_built_concurrently_is_read_from_its_statement(sql: str, expected: Optional[IndexBuild]) -> None:
    assert statements.concurrent_index(one(sql)) == expected
