# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module migration: it has the files, so it reads, checks, plans and shows them.

The host is asked at most twice: where the database stands, and, if something is pending, to run just that SQL.
"""

from __future__ import annotations

import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture, plan, proofs, release, scripts
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    _supports_check_mode = True
    _supports_async = True

    def act(self) -> t.Dict[str, t.Any]:
        params = self.arguments(_arguments.MIGRATION)
        if params["remote_src"]:
            return self.call({})
        wanted = _arguments.wanted(params["version"])
        policy = _arguments.policy(params)
        source = self.read(params["source"], params["verify"], params["ignored_chars"])
        everything = release.of(source)
        if self._task.async_val:
            # Only one call can go to the background, so it takes everything along.
            return self.call({"release": release.encode(everything)})

        if self._task.check_mode and params["assume_empty"]:
            seen: t.Dict[str, t.Any] = {"rows": [], "fingerprint": None}
        else:
            seen = self.execute("migration_info", _arguments.INFO, {"look": everything.digest, "proofs": params["prove"]})
            if seen.get("failed"):
                return seen
        rows = picture.rows_of(seen, everything.files)
        planned = plan.make(everything.files, everything.only_down, rows, wanted, policy, picture.explainer(source))
        scripts.check(everything, planned, params["allow_transaction_control"])
        installed = everything.digest if seen["rows"] is None else proofs.installed(rows)
        _compare(params["known_fingerprints"].get(installed), seen["fingerprint"])
        unproven = seen.get("proofs", {}).pop("unfinished", [])
        if self._task.check_mode or not (planned.steps or unproven):
            answer = picture.predicted(everything, rows, planned, seen["fingerprint"])
            answer.update(seen.get("proofs", {}), installed_release=installed, server_version=seen.get("server_version"))
            if "proofs" in seen:
                answer["proven"] = installed in seen["proven"]
        else:
            versions = planned.versions(plan.APPLY, plan.REVERT) + unproven
            answer = self.call({"release": release.encode(release.of(source, versions))})
            if params["rehearse"] and not answer.get("failed"):
                answer.update(picture.standing(everything, rows, seen["fingerprint"]))
        if self._task.diff and not answer.get("failed"):
            answer["diff"] = picture.diff(everything, answer)
        return answer

    def call(self, request: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        """Run the module on the host."""
        return self.execute("migration", _arguments.MIGRATION, request)


def _compare(expected: t.Optional[str], found: t.Optional[str]) -> None:
    """:raises ExecutionError: where the schema is not what it is elsewhere at the release that is installed."""
    if expected not in (None, found):
        raise ExecutionError(
            "The schema has drifted: at the release that is installed here, staging has the fingerprint {0}, and here it is {1}.".format(
                expected, found
            ),
            {"fingerprint": found, "expected_fingerprint": expected},
            "Nothing was changed. Something was changed by hand, here or there: undo it, or put it into a migration.",
        )
