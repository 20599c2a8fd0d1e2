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
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import (
    picture,
    plan,
    prediction,
    release,
    scripts,
    source,
)
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
        if self._task.check_mode or params["rehearse"] or not source.is_small(directories, _SMALL):
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
        rows: t.List[plan.Row] = []
        if self._task.check_mode and params["assume_empty"]:
            files, seen = self.read(params, directories), prediction.NOTHING
            everything = release.of(files, None, ())
        else:
            # Where the ledger is known to hold what the files do not tell, its rows come with the first answer.
            with_rows = bool(params["repair"]) or params["missing"] == "ignore"
            is_compared = bool(params["prove"] or params["known_fingerprints"])
            request = {"must_be_writable": True, "with_rows": with_rows, "with_proofs": params["prove"], "is_compared": is_compared}
            files, everything, seen, rows = self.look(params, directories, request)
        reverting = plan.may_revert(rows, wanted, policy)
        if reverting:
            everything = release.of(files, None, reverting)
        if seen.get("failed"):
            return seen, everything
        foreseen = prediction.foresee(
            *(everything, seen, rows, wanted, policy, picture.explainer(files.migrations)),
            params["allow_transaction_control"],
            params["known_fingerprints"],
        )
        if params["rehearse"] and (self._task.check_mode or not foreseen.is_due):
            return dict(foreseen.answer, **picture.standing(everything, rows, seen["fingerprint"])), everything
        if self._task.check_mode or not foreseen.is_due:
            return foreseen.answer, everything
        versions = {*foreseen.planned.versions(plan.APPLY, plan.REVERT), *foreseen.unproven}
        goes_back = params["prove"] or params["return_on_failure"]
        carried = release.of(files, versions, versions if goes_back else foreseen.planned.versions(plan.REVERT))
        answer = self.call({"release": release.encode(carried)})
        if params["rehearse"] and not answer.get("failed"):
            answer.update(picture.standing(everything, rows, seen["fingerprint"]))
        return answer, everything

    def call(self, request: Data) -> Data:
        """Run the module on the host."""
        return self.execute("migration", _arguments.MIGRATION, request)
