# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All of migration_lint: it needs nothing but the files, so no host is asked."""

from __future__ import annotations

import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import lint, proofs
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils import _squawk
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._controller import ControllerAction

_SPEC: t.Dict[str, t.Any] = {
    "source": {"type": "list", "elements": "str", "required": True},
    "verify": {"type": "str"},
    "ignored_chars": {"type": "str", "default": ""},
    "rules": {"type": "dict", "default": {}},
}


class ActionModule(ControllerAction):
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def act(self) -> t.Dict[str, t.Any]:
        params = self.arguments(_SPEC)
        levels = params["rules"]
        wrong = ["{0}: {1}".format(*item) for item in levels.items() if item[0] not in lint.RULES or item[1] not in _LEVELS]
        if wrong:
            raise ValueError("rules: no such rule or level: {0}. Rules are {1}.".format(", ".join(wrong), ", ".join(sorted(lint.RULES))))
        source = self.read(params, self.directories(params["source"]))
        problems = lint.check(source, bool(params["verify"]), levels)
        problems += _squawk.check(source, levels.get("squawk", lint.RULES["squawk"]))
        errors = [str(problem) for problem in problems if problem.level == lint.ERROR]
        answer: t.Dict[str, t.Any] = {
            "changed": False,
            "release": source.release,
            "versions": [migration.version for migration in source.migrations],
            "ways_back": {str(migration.version): proofs.way_back(migration) for migration in source.migrations if migration.down},
            "problems": [problem._asdict() for problem in problems],
            "warnings": [str(problem) for problem in problems if problem.level == lint.WARNING],
        }
        if errors:
            answer.update(failed=True, msg="The release is not fit to be applied:\n  " + "\n  ".join(errors))
        return answer


_LEVELS = (lint.ERROR, lint.WARNING, lint.IGNORE)
