# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server says, turned into what a person needs: file, line, statement, SQLSTATE, and who stands in the way."""

from __future__ import annotations

import typing as t

from . import statements
from .records import Step
from .sender import TRANSIENT, Sender
from .session import ServerError
from .source import Script

# Seconds: a failed file that took no longer is run once more, and rolled back, to learn which of its statements failed.
_RETRACE = 10.0


NOT_VERIFIED = "its verification failed"
NOT_COMMITTED = "its commit failed"


class Where(t.NamedTuple):
    """What was being done."""

    step: t.Optional[Step] = None
    script: t.Optional[Script] = None
    what: str = ""
    """If it is not the script itself that failed."""
    statement: t.Optional[statements.Statement] = None
    """If only this one was sent."""
    before: t.Tuple[str, ...] = ()
    """What ran in the same transaction before the script."""
    began: t.Optional[float] = None
    """When that began, by time.monotonic(): where the script is run again, it is as well."""


class Description(t.NamedTuple):
    """An error, for people and for programs."""

    message: str
    details: t.Dict[str, t.Any]


def describe(
    error: t.Any, where: Where, sender: Sender, seconds: float, may_retrace: bool, keep_transaction: bool = False
) -> Description:
    """Describe what the server reported.

    :param error: psycopg2's exception.
    :param seconds: how long it took to fail, and will take again.
    :param may_retrace: whether the script stands alone in its transaction, so that it can be run again and rolled back.
    :param keep_transaction: whether the caller goes on in an open transaction, which is rolled back otherwise.
    """
    blockers = sender.blockers
    if not keep_transaction:
        sender.session.rollback()
    details: t.Dict[str, t.Any] = {"sqlstate": error.pgcode, "message": (error.diag.message_primary or str(error)).strip()}
    for key in ("message_detail", "message_hint", "context"):
        if getattr(error.diag, key):
            details[key.replace("message_", "")] = getattr(error.diag, key)
    if blockers:
        details["blocked_by"] = [holder._asdict() for holder in blockers]
    if where.step is not None:
        details["version"] = where.step.version
    statement = None
    if where.script is not None:
        retrace = may_retrace and seconds <= _RETRACE and error.pgcode not in TRANSIENT
        statement = _locate(error, where, where.script, sender if retrace else None, details)
    return Description(_message(details, where, statement, [str(holder) for holder in blockers]), details)


def _message(
    details: t.Dict[str, t.Any], where: Where, statement: t.Optional[statements.Statement], blockers: t.Sequence[str]
) -> str:
    place = details.get("file") or "The run"
    for key in ("line", "column"):
        if details.get(key):
            place += ", {0} {1}".format(key, details[key])
    message = "{0}: {1}{2}".format(place, where.what + ": " if where.what else "", details["message"])
    if details["sqlstate"]:
        message += " (SQLSTATE {0})".format(details["sqlstate"])
    lines = [message]
    if statement is not None:
        lines.append("statement: " + statement.summary)
    lines += ["{0}: {1}".format(key, details[key]) for key in ("detail", "hint", "context") if key in details]
    lines += ["blocked by " + holder for holder in blockers]
    return "\n  ".join(lines)


def _locate(
    error: t.Any, where: Where, script: Script, sender: t.Optional[Sender], details: t.Dict[str, t.Any]
) -> t.Optional[statements.Statement]:
    """Find the place in the file, and write it into the details."""
    offset, statement = None, where.statement
    if error.diag.statement_position:
        offset = int(error.diag.statement_position) - 1 + (statement.start if statement else 0)
    if statement is None:
        statement = _culprit(script, offset, error.pgcode, where, sender)
    details["file"] = script.path
    if offset is not None:
        details["line"], details["column"] = statements.position(script.text, offset)
    elif statement is not None:
        details["line"] = statement.line
    if statement is not None:
        details["statement"] = statement.text
    return statement


def _culprit(
    script: Script, offset: t.Optional[int], sqlstate: t.Optional[str], where: Where, sender: t.Optional[Sender]
) -> t.Optional[statements.Statement]:
    """The statement that failed: where the server points; the only one there is; or found by running the file again."""
    try:
        parts = statements.split(script.text)
    except statements.StatementError:
        return None
    if offset is not None:
        return next((each for each in reversed(parts) if each.start <= offset), None)
    if len(parts) == 1:
        return parts[0]
    return _retrace(parts, sqlstate, where.before, sender) if sender is not None and not sender.session.lost else None


def _retrace(
    parts: t.Sequence[statements.Statement], sqlstate: t.Optional[str], before: t.Sequence[str], sender: Sender
) -> t.Optional[statements.Statement]:
    """Send a file again, statement by statement, and roll it back.

    The server tells no position for what goes wrong while a statement runs, and the transaction is gone anyway.
    """
    current: t.Optional[statements.Statement] = None
    try:
        sender.in_turn("begin", *before)
        for current in parts:
            sender.send(current.text)
    except ServerError as error:
        return current if error.pgcode == sqlstate else None
    finally:
        sender.session.rollback()
    return None
