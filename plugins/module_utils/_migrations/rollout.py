# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host's part in a rollout: on staging a proof of the way back, in production a return that was proven there.

Several runs of the executor, under one lock of our own, so that no other run of ours comes between.
"""

from __future__ import annotations

import contextlib
import typing as t

from . import checksum, picture, plan, proofs
from .errors import ExecutionError, MigrationError
from .executor import Executor, Options, Outcome
from .history import History, read_rows
from .ledger import Ledger
from .lock import AdvisoryLock
from .picture import Data
from .records import Target
from .release import Release
from .session import ServerError, Session


class Terms(t.NamedTuple):
    """What a rollout asks of this host; the fields are the module's parameters of the same names."""

    prove: bool = False
    return_on_failure: bool = False
    ways_back: t.Mapping[int, str] = {}
    known_fingerprints: t.Mapping[str, str] = {}


class Rollout:
    """One call, on one host.

    :param wanted: the version to reach; None: the newest.
    """

    def __init__(
        self,
        target: Target,
        release: Release,
        wanted: t.Optional[int],
        policy: plan.Policy,
        options: Options,
        terms: Terms,
        explain: plan.Explain = plan.unexplained,
    ) -> None:
        self._session = Session(target)
        self._release = release
        self._wanted = wanted
        self._policy = policy
        self._options = options._replace(prove=terms.prove, for_proof=terms.prove)
        self._terms = terms
        self._explain = explain
        self._done: t.List[plan.Done] = []
        """The steps of all parts that are committed so far."""

    def run(self) -> Data:
        """Migrate as the terms say.

        :raises MigrationError: with ``partial`` and ``returned`` in its details.
        """
        try:
            lock = AdvisoryLock(self._session)
            waited = lock.acquire(self._options.advisory_lock_timeout, self._options.end_idle_lock_holder)
            # Ours keeps other runs out in between; sqlx's is taken and given up by each part.
            lock.step_aside()
            answer = self._run()
            answer["waited_for"] = round(answer["waited_for"] + waited, 3)
            with contextlib.suppress(ServerError):
                lock.release()
            return answer
        except ServerError as error:
            raise self._refused(error) from error
        finally:
            self._session.close()

    def _run(self) -> Data:
        executor = self._executor(self._wanted, self._policy, self._options)
        try:
            outcome = self._take(executor)
            found = self._installed(outcome)
            expected = self._terms.known_fingerprints.get(found, outcome.fingerprint)
            if executor.done and outcome.fingerprint != expected:
                raise ExecutionError(
                    "The schema is not what these migrations made on staging: the fingerprint is {0}, there it is {1}.".format(
                        outcome.fingerprint, expected
                    ),
                    {"fingerprint": outcome.fingerprint, "expected_fingerprint": expected},
                    "Something was changed by hand, here or there. Compare the two (migration_info tells the difference).",
                )
        except MigrationError as error:
            self._fail(error, executor)
            raise
        answer = self._answer(outcome)
        if self._terms.prove:
            try:
                answer.update(self._prove(outcome))
            except MigrationError as error:
                error.failed["partial"] = self._partial(executor, None)
                raise
        return answer

    def _take(self, executor: Executor) -> Outcome:
        """One part; what it did counts also where it fails."""
        try:
            return executor.run()
        finally:
            self._session = executor.session
            self._done.extend(executor.done)

    def _partial(self, first: Executor, found: t.Optional[str]) -> Data:
        """What was done so far, against what the first part found.

        :param found: the fingerprint now, where it is known.
        """
        return picture.after(self._release, first.rows, self._done, first.fingerprint_before, found)

    def _refused(self, error: t.Any) -> ExecutionError:
        """What the server says between the parts, where nothing of a migration runs."""
        done = ", ".join("{0} {1}".format(each.step.action, each.step.version) for each in self._done) or "nothing"
        return ExecutionError(
            "{0} (SQLSTATE {1})".format(" ".join(str(error).split()) or "The connection was lost.", error.pgcode),
            {"sqlstate": error.pgcode},
            "Committed by this run: {0}. Run again once the cause is gone.".format(done),
        )

    def _answer(self, outcome: Outcome) -> Data:
        answer = picture.after(self._release, outcome.before, outcome.done, outcome.fingerprint_before, outcome.fingerprint)
        answer.update(
            waited_for=outcome.waited,
            warnings=list(outcome.planned.warnings),
            messages=self._session.messages,
            server_version=self._session.server_version,
            installed_release=self._installed(outcome),
        )
        return answer

    def _executor(self, wanted: t.Optional[int], policy: plan.Policy, options: Options) -> Executor:
        return Executor(self._session, self._release, wanted, policy, options, self._explain)

    def _undo(self, versions: t.Iterable[int]) -> Outcome:
        """Revert exactly these, one by one where one of them cannot be in a transaction."""
        undo = frozenset(versions)
        alone = any(file.down_no_transaction for file in self._release.files if file.version in undo)
        policy = self._policy._replace(
            undo=undo, baseline=None, repair=frozenset(), transaction="each" if alone else self._policy.transaction
        )
        return self._take(self._executor(None, policy, self._options._replace(prove=False)))

    def _ledger(self) -> Ledger:
        return Ledger(self._session, self._options.ledger_table)

    def _rows(self) -> t.List[plan.Row]:
        return read_rows(self._session, self._ledger())

    def _installed(self, outcome: Outcome) -> str:
        return checksum.installed(self._rows() if outcome.done else outcome.before)

    # Staging

    def _prove(self, outcome: Outcome) -> Data:
        """Revert what was applied, compare, apply it again, compare, and write down that it works."""
        rows, known = self._rows(), proofs.read(self._session, self._ledger())
        begun = proofs.unfinished(known, rows)
        if begun is None:
            return picture.proof(proofs.told(known), checksum.installed(rows))
        ways = {version: self._way_back(version) for version in sorted(begun.versions)}
        irreversible = [version for version, way in ways.items() if not way]
        if not irreversible:
            self._there_and_back(begun, outcome)
        history = History(self._session, self._ledger(), self._release.digest, self._options.controller)
        self._session.run(proofs.finish(history, begun, rows, outcome.fingerprint, {} if irreversible else ways))
        told = picture.proof(proofs.told(proofs.read(self._session, self._ledger())), checksum.installed(rows))
        return dict(told, proved=[] if irreversible else sorted(begun.versions), irreversible=irreversible)

    def _there_and_back(self, begun: proofs.Begun, outcome: Outcome) -> None:
        versions = ", ".join(map(str, sorted(begun.versions)))
        try:
            back = self._undo(begun.versions)
        except MigrationError as error:
            error.message = "The way back does not work: " + error.message
            reverted = {done.step.version for done in self._done if done.step.action == plan.REVERT}
            there = sorted(begun.versions - reverted)
            error.recovery = "Still applied, without a proven way back: {0}. {1}".format(", ".join(map(str, there)), error.recovery)
            raise
        if back.fingerprint != begun.fingerprint:
            raise ExecutionError(
                "The down scripts of {0} do not restore what was there before: the fingerprint was {1} and is {2}.".format(
                    versions, begun.fingerprint, back.fingerprint
                ),
                {"fingerprint_before": begun.fingerprint, "fingerprint": back.fingerprint},
                "They were reverted, and what they left behind is still there: clean it up by hand, mend the down scripts and run again.",
            )
        again = self._take(self._executor(self._wanted, self._policy, self._options._replace(prove=False)))
        if again.fingerprint != outcome.fingerprint:
            raise ExecutionError(
                "The migrations {0} made something else the second time: the fingerprint was {1} and is {2}.".format(
                    versions, outcome.fingerprint, again.fingerprint
                ),
                {"fingerprint_before": outcome.fingerprint, "fingerprint": again.fingerprint},
                "They are applied. Find out what depends on the past (a sequence, a leftover object), mend it and run again.",
            )

    # Production

    def _fail(self, error: MigrationError, executor: Executor) -> None:
        """Say what the run did before it failed, and take it back where that is wanted and proven."""
        returned: Data = {"reverted": [], "complete": False, "fingerprint": None, "why": ""}
        if self._terms.return_on_failure:
            returned.update(self._return(executor))
            error.failed["returned"] = returned
            error.recovery = "{0} {1}".format(error.recovery, _told(returned))
        error.failed["partial"] = self._partial(executor, returned["fingerprint"])

    def _return(self, executor: Executor) -> Data:
        applied = [done.step.version for done in executor.done if done.step.action == plan.APPLY]
        try:
            if executor.fingerprint_before is None:
                return {"complete": True}
            unfinished = [row.version for row in self._rows() if not row.success]
            if unfinished:
                return {"why": "{0} is unfinished, outside of a transaction".format(unfinished[0])}
            unproven = [version for version in applied if not self._is_proven(version)]
            if unproven:
                return {"why": "the way back of {0} was not proven on staging".format(", ".join(map(str, unproven)))}
            back = self._undo(applied)
        except (MigrationError, ServerError) as second:
            return {"why": "going back failed as well: {0}".format(" ".join(str(second).split()))}
        now = back.fingerprint
        same = now == executor.fingerprint_before
        return {
            "reverted": [done.step.version for done in back.done],
            "complete": same,
            "fingerprint": now,
            "why": "" if same else "the schema is not what it was before: the fingerprint was {0} and is {1}".format(
                executor.fingerprint_before, now
            ),
        }

    def _is_proven(self, version: int) -> bool:
        return self._terms.ways_back.get(version, "") == self._way_back(version) != ""

    def _way_back(self, version: int) -> str:
        """The digest of a down script; an empty string where there is none."""
        down = self._release.migrations[version].down
        return checksum.way_back(down.content) if down else ""


def _told(returned: Data) -> str:
    if not returned["complete"]:
        return "The host was not brought back to where it was: {0}.".format(returned["why"])
    if not returned["reverted"]:
        return "The host is as it was before this run."
    return "What this run had applied before ({0}) was reverted, and the host is as it was before this run.".format(
        ", ".join(map(str, returned["reverted"]))
    )
