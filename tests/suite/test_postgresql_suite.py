"""The SQL of PostgreSQL's own tests is split where PostgreSQL's parser splits it: some fifty thousand statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import statements
from pglast import parse_sql, parser
from support.postgres import installed_majors

from .fetch import fetch

SUITE = fetch(max(installed_majors()))

# What psql takes for itself: COPY with its data, and its own commands, on lines of their own or at the end of a statement.
DATA = re.compile(r"^copy\b[^;]*\bfrom\s+stdin\b[^;]*;.*?^\\\.$\n?", re.IGNORECASE | re.MULTILINE | re.DOTALL)
COPY = re.compile(r"^copy\b[^;]*\b(?:from\s+stdin|to\s+stdout)\b[^;]*;", re.IGNORECASE | re.MULTILINE)
ENDS = re.compile(r"\\(?:gset|gdesc|gexec|gx|g|crosstabview)\b[^\n]*$|\\;", re.MULTILINE)
COMMAND = re.compile(r"^[ \t]*\\.*$", re.MULTILINE)

# Files of which some part is refused, and why that is right.
REFUSED = {
    "insert.sql": "a COPY with data in the middle of a line",
    "psql.sql": "commands of psql in the middle of a line",
    "strings.sql": "strings that are read with standard_conforming_strings off, which no migration can set before it is read",
    "test_regex_utf8.sql": "a string in which a line begins like a command of psql, which cuts it in two here",
}

# As far as one statement is looked for in several pieces.
REACH = 12


def texts() -> Iterator[tuple[str, str]]:
    """What is between the commands of psql, with the file's name."""
    for path in sorted(SUITE.rglob("*.sql")):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            # Tests of other encodings.
            continue
        for part in COMMAND.split(ENDS.sub(";", COPY.sub("", DATA.sub("", text)))):
            yield path.name, part


def statements_in(text: str) -> int:
    """How many statements the server would find; 0 where it finds an error, as it shall in many a test."""
    try:
        return len(parse_sql(text))
    except parser.ParseError:
        return 0


def has_separator(text: str) -> bool:
    """Whether the server's scanner finds a semicolon outside of parentheses."""
    depth = 0
    try:
        for token in parser.scan(text):
            depth += {"ASCII_40": 1, "ASCII_41": -1}.get(token.name, 0)
            if token.name == "ASCII_59" and depth <= 0:
                return True
    except parser.ParseError:
        # Not even words: an escape that is none, say.
        return False
    return False


def test_every_statement_is_found_and_none_is_cut() -> None:
    counted = 0
    wrong = []
    refused = set()
    for name, text in texts():
        try:
            found = statements.split(text)
        except statements.StatementError:
            refused.add(name)
            continue
        counted += len(found)
        for number, statement in enumerate(found):
            several = statements_in(statement.text)
            if several == 1:
                continue
            if several > 1 or has_separator(statement.text):
                wrong.append(f"{name}: several statements in one: {statement.summary}")
            # One that the server does not understand must not be part of one that it does.
            for first in range(max(0, number - 1), number + 1):
                for last in range(number, min(number + REACH, len(found))):
                    joined = text[found[first].start : found[last].start + len(found[last].text)]
                    if last > first and statements_in(joined) == 1:
                        wrong.append(f"{name}: cut in two: {joined}")
    assert not wrong, "\n".join(wrong)
    assert refused <= {*REFUSED}
    print(f"{counted} statements")
    assert counted > 40_000


@pytest.mark.parametrize(("joined", "parts"), [("select 1; select 2", 2), ("create rule r as on insert to t do also (select 1; select 2)", 1)])
def test_the_oracle_counts(joined: str, parts: int) -> None:
    assert statements_in(joined) == parts
    assert has_separator(joined) is (parts == 2)


def test_the_suite_is_there() -> None:
    assert len([*Path(SUITE).rglob("*.sql")]) > 400
