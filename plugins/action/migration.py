# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module migration: it has the files, so it reads, checks, plans and shows them.

The host is asked at most twice: where the database stands, and, if something is pending, to run just that SQL. While it is
asked the first time, the files are read. Few files go along with the question, and then once is enough.
"""

from __future__ import annotations

import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture, plan, proofs, release, scripts, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._controller import ControllerAction, Data

# Bytes of SQL that cost less on their way than a second call.
_SMALL = 256 * 1024


class ActionModule(ControllerAction):
    _supports_check_mode = True
    _supports_async = True

    def act(self) -> Data:
        params = self.arguments(_arguments.MIGRATION)
        if params["remote_src"]:
            return self.call({"look_first": True})
        directories = self.directories(params["source"])
        if self._task.async_val:
            # Only one call can go to the background, so it takes everything along.
            return self.call({"release": release.encode(release.of(self.read(params, directories))), "look_first": True})
        if self._task.check_mode or params["rehearse"] or _in_a_rollout(params) or not source.is_small(directories, _SMALL):
            answer, everything = self.in_two_calls(params, directories)
        else:
            everything = release.of(self.read(params, directories))
            answer = self.call({"release": release.encode(everything), "look_first": True})
        for each in (answer, answer.get("partial")):
            if each and "applied" in each:
                scripts.annotate(each, everything)
        if self._task.diff and not answer.get("failed"):
            answer["diff"] = picture.diff(everything, answer)
        return answer

    def in_two_calls(self, params: Data, directories: t.Sequence[str]) -> t.Tuple[Data, release.Release]:
        """Look, plan here, and run what is pending; also what the files are."""
        wanted = _arguments.wanted(params["version"])
        policy = _arguments.policy(params)
        if self._task.check_mode and params["assume_empty"]:
            files, seen, rows = self.read(params, directories), {"fingerprint": None}, []
        else:
            # Where the ledger is known to hold what the files do not tell, its rows come with the first answer.
            with_rows = bool(params["repair"]) or params["missing"] == "ignore"
            files, seen, rows = self.look(params, directories, self._request(params, with_rows))
        unproven = seen.get("proofs", {}).get("unfinished", [])
        back = plan.may_revert(rows, wanted).union(policy.undo, unproven)
        if params["prove"] or params["return_on_failure"]:
            # What is applied may have to be reverted.
            back |= {each.version for each in files.migrations}.difference(row.version for row in rows)
        everything = release.of(files, None, back)
        if seen.get("failed"):
            return seen, everything
        planned = plan.make(everything.files, everything.only_down, rows, wanted, policy, picture.explainer(files.migrations))
        scripts.check(everything, planned, params["allow_transaction_control"])
        installed = proofs.installed(rows) if _in_a_rollout(params) else ""
        _compare(params["known_fingerprints"].get(installed), seen["fingerprint"])
        if self._task.check_mode or not (planned.steps or unproven):
            answer = picture.predicted(everything, rows, planned, seen["fingerprint"])
            if "proofs" in seen:
                answer.update(picture.told_of_proofs(seen, installed))
            if installed:
                answer.update(installed_release=installed, server_version=seen.get("server_version"))
            return answer, everything
        carried = release.of(files, planned.versions(plan.APPLY, plan.REVERT) + unproven, back)
        answer = self.call({"release": release.encode(carried)})
        if params["rehearse"] and not answer.get("failed"):
            answer.update(picture.standing(everything, rows, seen["fingerprint"]))
        return answer, everything

    def _request(self, params: Data, with_rows: bool) -> Data:
        request = {"must_be_writable": True, "with_rows": with_rows}
        return dict(request, with_proofs=True) if params["prove"] else request

    def call(self, request: Data) -> Data:
        """Run the module on the host."""
        return self.execute("migration", _arguments.MIGRATION, request)


def _in_a_rollout(params: Data) -> bool:
    """Whether more is asked than to migrate."""
    return bool(params["prove"] or params["return_on_failure"] or params["known_fingerprints"])


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
