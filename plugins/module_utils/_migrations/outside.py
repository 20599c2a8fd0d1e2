# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files marked ``-- no-transaction``: their statements one by one, each remembered once it is done.

The ledger row says ``success = false`` from before the first statement until after the last. Whoever finds it so, knows
from the side table which statements are done, and goes on with the next.
"""

from __future__ import annotations

import re
import typing as t

from . import statements
from .errors import PlanError
from .history import DONE, STATEMENT, History, statement_digest
from .sender import DEADLOCK, TRANSIENT, Sender
from .session import ServerError, identifier, literal, milliseconds
from .source import Script

# A procedure that is called may commit.
_COMMIT = re.compile(r"\b(?:commit|rollback|call)\b", re.IGNORECASE)


# SQLSTATE active_sql_transaction.
_NOT_IN_TRANSACTION = "25001"

# What a statement that was cut off says, by its first word, if it was done all the same: undefined_object,
# undefined_table and invalid_catalog_name; duplicate_database and duplicate_object.
_DONE_ALREADY = {
    "drop": ("42704", "3D000"),
    "alter": ("42P01",),
    "commit": ("42704",),
    "rollback": ("42704",),
    "create": ("42P04", "42710"),
}


def finished(history: History, version: int, script: Script, parts: t.Sequence[statements.Statement]) -> int:
    """How many statements of an interrupted file are done.

    :raises PlanError: if one of those was edited since.
    """
    digests = history.finished_statements(version)
    if len(digests) > len(parts):
        raise PlanError("{0}: {1} of its statements ran, and it holds only {2}.".format(script.path, len(digests), len(parts)))
    for digest, statement in zip(digests, parts):
        if digest != statement_digest(statement.text):
            raise PlanError(
                "{0}, line {1}: this statement ran before the file was interrupted, and was edited since.".format(
                    script.path, statement.line
                ),
                {"version": version, "file": script.path, "line": statement.line},
                "Nothing was changed. Restore the statements that ran ({0} of them), or name the version in repair"
                " to run the file from its beginning.".format(len(digests)),
            )
    return len(digests)


def run(sender: Sender, history: History, version: int, position: int, statement: statements.Statement, interrupted: bool) -> None:
    """Run one statement and remember it.

    :param position: of the statement in its file, from 0.
    :param interrupted: whether an earlier run may have been cut off at this very statement.
    :raises ServerError: if it fails; it counts as not done then.
    """
    record = history.record(
        version, STATEMENT, DONE, position=position, digest=statement_digest(statement.text), detail=statement.summary
    )
    if not statements.outside_transaction(statement) and not _may_commit(statement):
        try:
            sender.patiently(lambda: sender.in_turn("begin", statement.text, record + "commit"))
            return
        except ServerError as error:
            # What only the catalogue knows: a partitioned table, say.
            if error.pgcode != _NOT_IN_TRANSACTION:
                raise
            sender.session.rollback()
    if _may_commit(statement):
        # Not tried again: what it committed before it failed may be anything.
        sender.send(statement.text)
    else:
        sender.patiently(lambda: _alone(sender, statement, interrupted), _transient(statement))
    try:
        sender.send("set lock_timeout = {0};".format(milliseconds(sender.session.target.lock_timeout)) + record)
    except ServerError:
        # Done, and it cannot be said: whoever comes next must take it for cut off, not for failed.
        sender.session.close()
        raise


def sets_session(statement: statements.Statement) -> bool:
    """Whether what a statement did is gone with its session, and the statements after it rely on it."""
    first, *rest = statement.head
    if first == "set":
        return not rest or rest[0] not in ("local", "constraints", "transaction")
    return first == "reset" or (first == "select" and "set_config" in rest[:3])


def _is_beside(statement: statements.Statement) -> bool:
    """Whether a statement waits for others without holding anybody up meanwhile."""
    return "concurrently" in statement.head


def _transient(statement: statements.Statement) -> t.Sequence[str]:
    # One that goes beside others has waited long enough, see _alone.
    return (DEADLOCK,) if _is_beside(statement) else TRANSIENT


def _may_commit(statement: statements.Statement) -> bool:
    """Whether a statement may end the transaction around it, which only one that PostgreSQL began for it allows."""
    return statement.head[0] == "call" or (statement.head[0] == "do" and bool(_COMMIT.search(statement.text)))


def _alone(sender: Sender, statement: statements.Statement, interrupted: bool) -> None:
    """Send a statement that PostgreSQL runs in no transaction; what a failed build left behind goes first."""
    build = statements.concurrent_index(statement)
    valid = _index_valid(sender, build)
    if valid and interrupted:
        # It was built, and the run cut off before it could say so.
        return
    if _is_beside(statement):
        # It gets the time of all tries at once.
        sender.send("set lock_timeout = {0}".format(milliseconds(sender.session.target.lock_timeout * (sender.retries + 1))))
    leftovers = _leftovers(sender, statement)
    if build is not None and valid is False:
        leftovers.append(_index_name(sender, build))
    for name in leftovers:
        sender.send("drop index concurrently " + name)
    try:
        sender.send(statement.text)
    except ServerError as error:
        if not interrupted or error.pgcode not in _DONE_ALREADY.get(statement.head[0], ()):
            raise


def _index_valid(sender: Sender, build: t.Optional[statements.IndexBuild]) -> t.Optional[bool]:
    """Whether the index is there and usable; None where it is not there, has no name yet, or is another table's."""
    if build is None or build.name is None:
        return None
    found = sender.session.rows(
        "select i.indisvalid and i.indisready from pg_index i join pg_class c on c.oid = i.indrelid"
        " join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass({0})"
        " and i.indexrelid = to_regclass(quote_ident(n.nspname) || '.' || {1})".format(literal(build.table), literal(build.name))
    )
    return found[0][0] if found else None


def _index_name(sender: Sender, build: statements.IndexBuild) -> str:
    """The index's qualified name: it is always in its table's schema."""
    schema = sender.session.value(
        "select nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass({0})".format(
            literal(build.table)
        )
    )
    return "{0}.{1}".format(identifier(schema), build.name)


def _leftovers(sender: Sender, statement: statements.Statement) -> t.List[str]:
    """The half-built copies that an earlier REINDEX CONCURRENTLY of the same index or table has left."""
    name = statements.concurrent_reindex(statement)
    if name is None:
        return []
    found = sender.session.rows(
        "select quote_ident(n.nspname) || '.' || quote_ident(c.relname) from pg_index i join pg_class c on c.oid = i.indexrelid"
        " join pg_namespace n on n.oid = c.relnamespace where not i.indisvalid and c.relname ~ '_cc(new|old)[0-9]*$'"
        " and i.indrelid in (select to_regclass({0})::oid union select indrelid from pg_index where indexrelid = to_regclass({0}))".format(
            literal(name)
        )
    )
    return [each for (each,) in found]
