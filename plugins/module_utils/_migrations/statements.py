# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

r"""A file split into its statements, where PostgreSQL's own parser would split it.

Needed only where statements must be sent one by one (``-- no-transaction`` files, rehearsals) or looked at (transaction
control, error messages); a file inside a transaction is sent whole and never depends on this.

The tokens follow PostgreSQL's ``src/backend/parser/scan.l`` with ``standard_conforming_strings`` on; ``BEGIN ATOMIC`` bodies
and parentheses are tracked as psql does (``src/fe_utils/psqlscan.l``).
"""

from __future__ import annotations

import re
import string
import typing as t

# Enough to classify any statement and to read the names in a CREATE INDEX.
_HEAD_TOKENS = 24

# PostgreSQL's white space; `\s` would take in what it counts as letters, the no-break space say.
_SPACE = r"[ \t\n\r\f\v]"
# Letters are what ASCII has, and everything beyond it. Said by what they are not: a range up to the last character is slow to compile.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
_LETTER_DIGIT_OR_DOLLAR = r"[^\x00-#%-/:-@\[-^`{-\x7f]"

_TOKEN = re.compile(
    r"""
      (?P<space>   {space}+ | --[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<escape>  [eE]' )
    | (?P<string>  (?:[uU]&|[bBxXnN])?'[^']*(?:''[^']*)*'(?!') )
    | (?P<quoted>  (?:[uU]&)?"[^"]*(?:""[^"]*)*"(?!") )
    | (?P<quote>   (?:[uU]&|[bBxXnN])?['"] )
    | (?P<dollar>  \$(?:{letter}{in_tag}*)?\$ )
    | (?P<word>    {letter}{in_word}* )
    | (?P<number>  [0-9]+(?:\.[0-9]+)? | \$[0-9]+ )
    | (?P<open>    \( )
    | (?P<close>   \) )
    | (?P<end>     ; )
    | (?P<psql>    \\ )
    | (?P<other>   . )
    """.format(space=_SPACE, letter=_LETTER, in_tag=_LETTER_OR_DIGIT, in_word=_LETTER_DIGIT_OR_DOLLAR),
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_ESCAPE_REST = re.compile(r"[^'\\]*(?:(?:''|\\.)[^'\\]*)*'(?!')", re.DOTALL)
# An E'' string goes on, escapes included, in a further quote after a line break (scan.l: quotecontinue).
_ESCAPE_GOES_ON = re.compile(r"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:{0}|--[^\n\r]*[\n\r])*'".format(_SPACE))

# PostgreSQL folds these only (downcase_identifier, in UTF-8).
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class StatementError(ValueError):
    """A text that cannot be split or sent: an open quote, a psql command, COPY through the client.

    :param message: what is wrong with it.
    :param line: line of the text, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class Statement(t.NamedTuple):
    """One statement, without the semicolon that ends it and without comments around it."""

    text: str
    start: int
    line: int
    head: t.Tuple[str, ...]
    """The first tokens: words in lower case, everything quoted as written."""

    @property
    def summary(self) -> str:
        """The statement on one line, short enough for a message."""
        line = " ".join(self.text.split())
        return line if len(line) <= 120 else line[:117] + "..."

    @property
    def code(self) -> str:
        """The text, as long as it is, with blanks for comments and for what is quoted with apostrophes or dollars."""
        blanked, at = [], 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:  # which cannot be, see scan
                break
            kind, begin, at = match.lastgroup or "", at, match.end()
            if kind in _CLOSERS:
                # It was split, so everything in it is closed.
                at = _CLOSERS[kind](self.text, at, match.group())
            if kind in ("space", "comment"):
                blanked.append(" " * (at - begin))
            elif kind in ("string", "escape", "dollar"):
                blanked.append("'" + " " * (at - begin - 2) + "'")
            else:
                blanked.append(match.group())
        return "".join(blanked)


def position(text: str, offset: int) -> t.Tuple[int, int]:
    """Line and column, both from 1, of a character offset."""
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def split(sql: str) -> t.List[Statement]:
    """Split a script into its statements.

    :raises StatementError: where it cannot be split, or holds what only psql understands.
    """
    return list(scan(sql))


def scan(sql: str) -> t.Iterator[Statement]:
    """Like split, one statement at a time."""
    size = len(sql)
    line, counted = 1, 0  # `line` is right at offset `counted`
    at = 0
    start, stop = -1, 0  # of the statement so far, -1: none yet
    depth = 0  # of parentheses
    atomic = 0  # of BEGIN ATOMIC
    head: t.List[str] = []
    last = ""  # token

    def here(offset: int) -> int:
        return line + sql.count("\n", counted, offset)

    while at < size:
        match = _TOKEN.match(sql, at)
        if match is None:  # which cannot be: `other` takes any character
            raise StatementError("cannot be read", here(at))
        kind, begin, at = match.lastgroup or "", at, match.end()
        token = match.group()
        if kind == "space":
            continue
        if kind in _CLOSERS:
            at = _CLOSERS[kind](sql, at, token)
            if at < 0:
                raise StatementError("the {0} {1} is never closed".format(_OPENED.get(kind, "quote"), token), here(begin))
            if kind == "comment":
                continue
        elif kind == "psql":
            raise StatementError("{0} is a command of psql, which the server does not know".format(_word(sql, begin)), here(begin))
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(depth - 1, 0)
        elif kind == "end" and depth == 0 and atomic == 0:
            if start >= 0:
                line, counted = here(start), start
                yield Statement(sql[start:stop], start, line, tuple(head))
            start, head, last = -1, [], ""
            continue

        if start < 0:
            start = begin
        stop = at
        if kind == "word":
            token = token.translate(_FOLD)
            if depth == 0:
                if token == "atomic" and last == "begin" and _ROUTINES.intersection(head[1:4]):
                    atomic += 1
                elif token == "end" and atomic and last in (";", "atomic"):
                    # The END of a CASE never stands here.
                    atomic -= 1
                elif token in ("stdin", "stdout") and last in ("from", "to") and head[0] == "copy":
                    raise StatementError("COPY through the client needs psql; use INSERT, or a file on the server", here(start))
        if len(head) < _HEAD_TOKENS:
            head.append(token)
        last = token

    if start >= 0:
        yield Statement(sql[start:stop], start, here(start), tuple(head))


def _word(sql: str, at: int) -> str:
    return sql[at : at + 40].split(None, 1)[0]


def _comment_end(sql: str, at: int, _opening: str) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return -1


def _escape_end(sql: str, at: int, _opening: str) -> int:
    while True:
        rest = _ESCAPE_REST.match(sql, at)
        if not rest:
            return -1
        more = _ESCAPE_GOES_ON.match(sql, rest.end())
        if not more:
            return rest.end()
        at = more.end()


def _dollar_end(sql: str, at: int, opening: str) -> int:
    closing = sql.find(opening, at)
    return closing + len(opening) if closing >= 0 else -1


# Where that ends which such a token opens; -1: nowhere. A `quote` is one that no whole string began with.
_CLOSERS: t.Dict[str, t.Callable[[str, int, str], int]] = {
    "comment": _comment_end,
    "escape": _escape_end,
    "dollar": _dollar_end,
    "quote": lambda sql, at, opening: -1,
}
_OPENED = {"comment": "comment", "dollar": "dollar quote"}
_ROUTINES = frozenset(("function", "procedure"))


# What PostgreSQL refuses inside a transaction block (PreventInTransactionBlock), by its first words.
_OUTSIDE_ONLY = (
    ("vacuum",),
    ("alter", "system"),
    ("create", "database"),
    ("drop", "database"),
    ("create", "tablespace"),
    ("drop", "tablespace"),
    ("create", "subscription"),
    ("drop", "subscription"),
    ("reindex", "schema"),
    ("reindex", "database"),
    ("reindex", "system"),
    ("discard", "all"),
    ("commit", "prepared"),
    ("rollback", "prepared"),
)


def outside_transaction(statement: Statement) -> bool:
    """Whether PostgreSQL runs this statement only outside a transaction block, as far as its words tell.

    (REINDEX and CLUSTER of one table are refused there too if it is partitioned, which only the catalogue knows.)
    """
    head = statement.head
    if head[1:2] == ("(",) and ")" in head:
        # REINDEX (VERBOSE) SCHEMA ...
        head = head[:1] + head[head.index(")") + 1 :]
    if any(head[: len(words)] == words for words in _OUTSIDE_ONLY):
        return True
    if head[0] in ("create", "drop", "reindex") and "concurrently" in statement.head:
        return True
    if head[:2] == ("alter", "database") and "tablespace" in head:
        return True
    if head[:2] == ("alter", "table") and "detach" in head and "concurrently" in head:
        return True
    if head[:2] == ("alter", "subscription") and "publication" in head:
        return True
    return head in (("cluster",), ("cluster", "verbose"))


_TRANSACTION_CONTROL = frozenset(("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"))


def controls_transaction(statement: Statement) -> bool:
    """Whether the statement begins, ends or marks the transaction around it (COMMIT PREPARED is about another one)."""
    head = statement.head
    return (head[0] in _TRANSACTION_CONTROL and head[1:2] != ("prepared",)) or head[:2] == ("prepare", "transaction")


class IndexBuild(t.NamedTuple):
    """What a CREATE INDEX CONCURRENTLY names: identifiers as written, quotes included."""

    name: t.Optional[str]
    table: str


def concurrent_index(statement: Statement) -> t.Optional[IndexBuild]:
    """The index that a CREATE INDEX CONCURRENTLY builds, or None for any other statement."""
    tokens = list(statement.head)
    if tokens[:1] != ["create"] or "concurrently" not in tokens or "on" not in tokens:
        return None
    before, after = tokens[: tokens.index("on")], tokens[tokens.index("on") + 1 :]
    named = before[before.index("concurrently") + 1 :]
    if named[:3] == ["if", "not", "exists"]:
        named = named[3:]
    if after[:1] == ["only"]:
        after = after[1:]
    table = after[0] + ("." + after[2] if after[1:2] == ["."] else "")
    return IndexBuild("".join(named) or None, table)


def concurrent_reindex(statement: Statement) -> t.Optional[str]:
    """The name in a REINDEX ... CONCURRENTLY, as written; None for any other statement."""
    head = statement.head
    if head[0] != "reindex" or "concurrently" not in head:
        return None
    return "".join(head[-3:] if head[-2:-1] == (".",) else head[-1:])
