# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Squawk, the linter of PostgreSQL migrations, where it is installed. **Private** to the collection."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.lint import IGNORE, Problem
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.source import Source

# The engine sets both timeouts, and makes every file whole or not at all.
_NOT_OURS = "require-lock-timeout,require-statement-timeout,prefer-robust-stmts"


def check(source: Source, level: str) -> t.List[Problem]:
    """What Squawk finds in the up scripts; nothing where it is not installed or not wanted.

    :param level: the level that its findings get.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "squawk")
    program = beside if os.path.exists(beside) else shutil.which("squawk")
    if program is None or level == IGNORE:
        return []
    return [
        Problem("squawk", level, found["file"], found["line"] + 1, "{0}: {1}".format(found["rule_name"], found["message"]))
        for outside in (False, True)
        for found in _run(program, outside, [each.up.path for each in source.migrations if each.up.no_transaction == outside])
    ]


def _run(program: str, outside: bool, paths: t.Sequence[str]) -> t.List[t.Dict[str, t.Any]]:
    if not paths:
        return []
    command = [program, "--reporter", "json", "--exclude", _NOT_OURS]
    if not outside:
        command.append("--assume-in-transaction")
    result = subprocess.run([*command, *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    # 0: nothing found, 1: something.
    if result.returncode not in (0, 1):
        raise ValueError("squawk failed: " + result.stderr.decode("utf-8", "replace").strip())
    findings: t.List[t.Dict[str, t.Any]] = json.loads(result.stdout or b"[]")
    return findings
