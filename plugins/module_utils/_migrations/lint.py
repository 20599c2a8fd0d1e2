# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said against migration files without a database: rules about their format, each with a name and a level."""

from __future__ import annotations

import re
import typing as t

from . import announced, checksum, statements
from .source import NO_TRANSACTION, Migration, Script, Source

ERROR, WARNING, IGNORE = "error", "warning", "ignore"

# Every rule and its level, unless the caller says otherwise.
RULES = {
    "missing-down": ERROR,
    "missing-verify": ERROR,
    "unreadable": ERROR,
    "byte-order-mark": ERROR,
    "misplaced-marker": ERROR,
    "several-statements": WARNING,
    "unnamed-index": ERROR,
    "transaction-control": ERROR,
    "outside-transaction": ERROR,
    "session-setting": WARNING,
    "volatile-index": ERROR,
    "unpinned-search-path": ERROR,
    "misread-loss": ERROR,
    "unannounced-loss": WARNING,
    "squawk": WARNING,
}

# Without hyphen it may be a sentence that goes on.
_MARKER = re.compile(r"[ \t\ufeff]*--[ \t]*(?:no[-_]transaction\b|no[ ]?transaction[ \t\r]*$)", re.IGNORECASE)
_VOLATILE = re.compile(
    r"\b(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random|gen_random_uuid|uuid_generate_v4)\s*\("
    r"|\b(?:current_timestamp|current_date|current_time|localtimestamp|localtime|current_user|session_user)\b",
    re.IGNORECASE,
)
_DEFINER = re.compile(r"\bsecurity\s+definer\b", re.IGNORECASE)
_PINNED = re.compile(r"\bset\s+search_path\b", re.IGNORECASE)
# What takes rows or columns with it; the stairway sees the rest, with data.
_LOSES = (("drop", "table"), ("drop", "foreign", "table"), ("drop", "schema"), ("truncate",), ("delete", "from"))
_DROPS_COLUMN = re.compile(
    r"""
      \bdrop\s+column\b
    # The word may be left out where an action begins: behind the table, or behind a comma.
    | (?: \Aalter\s+table\s+ (?:if\s+exists\s+)? (?:only\s+)? {name} (?:\s*\.\s*{name})* \s* (?:\*\s*)? | ,\s* )
      drop\b (?! \s* (?: constraint\b | [,)] ) )
    """.format(name=r'(?: "(?:[^"]|"")*" | [^\s".,;*]+ (?![^\s".,;*]) )'),
    re.IGNORECASE | re.VERBOSE,
)
_SET_CONFIG = re.compile(r"\bset_config\s*\([^()]*,\s*(true|false|'[^']*')\s*\)", re.IGNORECASE)
# What its last argument says: whether the setting ends with the transaction.
_TRUE, _FALSE = ("true", "'true'", "'t'"), ("false", "'false'", "'f'")


class Problem(t.NamedTuple):
    """One finding."""

    rule: str
    level: str
    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return "{0}:{1}: {2}: {3} ({4})".format(self.file, self.line, self.level, self.message, self.rule)


def check(source: Source, expect_verify: bool, levels: t.Mapping[str, str]) -> t.List[Problem]:
    """Every finding in a release, in order of file and line.

    :param expect_verify: whether each migration should have a verification script.
    :param levels: the rules' levels: ``error``, ``warning`` or ``ignore``; rules that are not named keep their own.
    """
    effective = dict(RULES, **levels)
    found = [
        Problem(rule, effective[rule], path, line, message)
        for migration in source.migrations
        for path, rule, line, message in _of(migration, expect_verify)
        if effective[rule] != IGNORE
    ]
    return sorted(found, key=lambda problem: (problem.file, problem.line, problem.rule))


_Finding = t.Tuple[str, int, str]


def _of(migration: Migration, expect_verify: bool) -> t.Iterator[t.Tuple[str, str, int, str]]:
    if migration.down is None:
        yield migration.up.path, "missing-down", 1, "there is no down script, so there is no way back"
    if expect_verify and migration.verify is None:
        yield migration.up.path, "missing-verify", 1, "there is no verification script"
    for script in (migration.up, migration.down, migration.verify):
        if script is not None:
            for rule, line, message in _in_script(script):
                yield script.path, rule, line, message
    if migration.down is not None:
        for rule, line, message in _losses(migration.down):
            yield migration.down.path, rule, line, message


def _in_script(script: Script) -> t.Iterator[_Finding]:
    if script.text.startswith(checksum.BOM):
        yield "byte-order-mark", 1, "begins with a byte order mark, which PostgreSQL takes for an error"
    if not script.no_transaction:
        yield from _marker(script)
    try:
        parts = statements.split(script.text)
    except statements.StatementError as error:
        yield "unreadable", error.line, str(error)
        return
    if script.no_transaction and len(parts) > 1:
        yield "several-statements", parts[1].line, "sqlx itself can run only one statement of a no-transaction file"
    for statement in parts:
        yield from _in_statement(script, statement)
    yield from _unpinned(parts)


def _losses(down: Script) -> t.Iterator[_Finding]:
    says = announced.read(down.text)
    for line, message in says.problems:
        yield "misread-loss", line, message
    if says.things or says.problems:
        return
    try:
        parts = statements.split(down.text)
    except statements.StatementError:
        return  # is said above
    for statement in parts:
        if _loses(statement):
            yield "unannounced-loss", statement.line, "takes data along: say so in a line '-- data-loss: ...'"
            return


def _loses(statement: statements.Statement) -> bool:
    head = statement.head
    if head[:2] == ("alter", "table"):
        return bool(_DROPS_COLUMN.search(statement.code))
    return any(head[: len(words)] == words for words in _LOSES)


def _marker(script: Script) -> t.Iterator[_Finding]:
    for number, line in enumerate(script.text.split("\n"), 1):
        if line.strip() and not line.lstrip("\ufeff \t").startswith("--"):
            return
        if _MARKER.match(line):
            yield (
                "misplaced-marker",
                number,
                "has no effect: the file must begin with exactly {0!r}".format(NO_TRANSACTION.decode()),
            )


def _in_statement(script: Script, statement: statements.Statement) -> t.Iterator[_Finding]:
    head, line = statement.head, statement.line
    if statements.controls_transaction(statement):
        yield "transaction-control", line, "begins or ends a transaction, which is the engine's part"
    elif not script.no_transaction and statements.outside_transaction(statement):
        yield "outside-transaction", line, "cannot run inside a transaction: begin the file with {0!r}".format(NO_TRANSACTION.decode())
    elif script.no_transaction:
        if _sets_transaction(statement):
            yield "session-setting", line, "has no effect outside of a transaction: only a plain set lasts"
    elif _sets_session(statement):
        yield "session-setting", line, "outlives its file under sqlx: use set local, or a setting of the function or role"
    build = statements.concurrent_index(statement)
    if script.no_transaction and build is not None and build.name is None:
        yield "unnamed-index", line, "has no name: after an interruption nobody can tell whether it is there, and it is built twice"
    if head[0] == "create" and "index" in head[:3] and _VOLATILE.search(statement.code):
        yield "volatile-index", line, "an index can only be defined by what never changes"


def _sets_session(statement: statements.Statement) -> bool:
    head = statement.head
    if head[0] == "set":
        return not _sets_transaction(statement)
    return head[0] in ("reset", "discard") or _configures(statement, _FALSE)


def _sets_transaction(statement: statements.Statement) -> bool:
    if statement.head[0] == "set":
        return statement.head[1:2] in (("local",), ("constraints",), ("transaction",))
    return _configures(statement, _TRUE)


def _configures(statement: statements.Statement, flags: t.Container[str]) -> bool:
    if statement.head[0] != "select":
        return False
    # Blanks keep everything in its place, so a literal that matters can be read where it was.
    found = (statement.text[slice(*each.span(1))] for each in _SET_CONFIG.finditer(statement.code))
    return any(flag.lower() in flags for flag in found)


def _unpinned(parts: t.Sequence[statements.Statement]) -> t.Iterator[_Finding]:
    # A function may be altered in several steps; the types that tell functions of one name apart can be written in many ways.
    routines = [(_routine(statement), statement, statement.code) for statement in parts if _routine(statement)]
    pinned = {name for name, _unused, code in routines if _PINNED.search(code)}
    for name, statement, code in routines:
        is_pinned = name in pinned if statement.head[0] == "alter" else _PINNED.search(code)
        if _DEFINER.search(code) and not is_pinned:
            yield "unpinned-search-path", statement.line, "a SECURITY DEFINER function must set its search_path"


def _routine(statement: statements.Statement) -> t.Optional[str]:
    """The name, without its schema, of the function or procedure that a statement makes or alters."""
    head = statement.head
    words = head[3:] if head[1:3] == ("or", "replace") else head[1:]
    if head[0] not in ("create", "alter") or words[:1] not in (("function",), ("procedure",), ("routine",)):
        return None
    at = 1
    while words[at + 1 : at + 2] == (".",):
        at += 2
    return "".join(words[at : at + 1]).strip('"')
