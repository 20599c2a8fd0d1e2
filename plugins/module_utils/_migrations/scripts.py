# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said of the scripts of a plan before any of them runs."""

from __future__ import annotations

import contextlib
import re
import typing as t

from . import plan, statements
from .errors import ExecutionError
from .release import Release
from .source import Migration, Script

# A file without any of these words does not need to be read closely.
_MAY_CONTROL = re.compile(rb"\b(?:begin|start|commit|end|rollback|abort|savepoint|release|prepare)\b|\\|\bstdin\b|\bstdout\b", re.I)


def check(release: Release, planned: plan.Plan, allow_transaction_control: bool) -> None:
    """Refuse, before anything runs, what cannot be sent or would end the transaction around it.

    :raises ExecutionError: naming file and line.
    """
    for step in planned.steps:
        if step.action not in (plan.APPLY, plan.REVERT):
            continue
        for script in _scripts_of(step, release.migrations[step.version]):
            if not script.no_transaction and (allow_transaction_control or not _MAY_CONTROL.search(script.content)):
                continue
            with _located(step, script):
                for statement in statements.scan(script.text):
                    if statements.controls_transaction(statement):
                        raise statements.StatementError(
                            "{0!r} would begin or end a transaction, which is the engine's part".format(statement.summary),
                            statement.line,
                        )


def split(step: plan.Step, script: Script) -> t.List[statements.Statement]:
    """The statements of a script.

    :raises ExecutionError: naming file and line, where it cannot be split.
    """
    with _located(step, script):
        return statements.split(script.text)


@contextlib.contextmanager
def _located(step: plan.Step, script: Script) -> t.Iterator[None]:
    try:
        yield
    except statements.StatementError as error:
        raise ExecutionError(
            "{0}, line {1}: {2}.".format(script.path, error.line, error),
            {"version": step.version, "file": script.path, "line": error.line, "message": str(error)},
        ) from error


def _scripts_of(step: plan.Step, migration: Migration) -> t.List[Script]:
    scripts = [migration.down] if step.action == plan.REVERT else [migration.up, migration.verify]
    return [script for script in scripts if script is not None]


def annotate(answer: t.Dict[str, t.Any], release: Release) -> None:
    """Tell of each migration in an answer how many statements it has, and whether sqlx-cli could run it as well."""
    for key in ("applied", "reverted", "pending"):
        for entry in answer[key]:
            migration = release.migrations.get(entry["version"])
            script = migration and (migration.down if key == "reverted" else migration.up)
            if script:
                entry.update(_traits(script))


def _traits(script: Script) -> t.Dict[str, t.Any]:
    try:
        parts = statements.split(script.text)
    except statements.StatementError:
        return {"statements": None, "sqlx_cli_can_run": False}
    # It sends a file as one message, of which the server makes one transaction if there are several statements in it.
    refused = script.no_transaction and len(parts) > 1 and any(statements.outside_transaction(each) for each in parts)
    return {"statements": len(parts), "sqlx_cli_can_run": not refused}
