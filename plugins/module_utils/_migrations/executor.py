# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a plan to the database: steps taken one by one, each of them whole or not at all.

A transactional migration costs two messages: its file, sent byte for byte as it is; and one that closes it and opens the
next (``commit; begin; insert into the ledger``). The ledger row goes in first, so that whoever comes second waits for
the first and then finds the row, before any of its own SQL has run.
"""

from __future__ import annotations

import contextlib
import re
import time
import typing as t

from . import fingerprint, outside, plan, proofs, scripts, statements
from .commits import Closing, CommitFailed, Commits
from .errors import ExecutionError, LockError, MigrationError, PlanError
from .failure import NOT_COMMITTED, NOT_VERIFIED, Description, Where, describe
from .history import BEGUN, FAILED, STATEMENT, Entry, History, entry, nanoseconds, read_rows
from .ledger import Ledger
from .lock import AdvisoryLock
from .rehearsal import Rehearsal, Rehearsed
from .release import Release
from .sender import TRANSIENT, Sender, pause
from .session import ServerError, Session, create_schemas
from .source import Migration, Script

_UNIQUE_VIOLATION = "23505"

_SAVEPOINT = "schema_registry_verify"
_NOTICES_MAX = 50

# pg_advisory_unlock_all() and DISCARD ALL.
_MAY_UNLOCK = re.compile(rb"advisory|discard", re.IGNORECASE)


class Options(t.NamedTuple):
    """Bounds and permissions; the fields are the module's parameters of the same names."""

    ledger_table: str = "_sqlx_migrations"
    lock_retries: int = 10
    advisory_lock_timeout: float = 120.0
    allow_transaction_control: bool = False
    controller: str = ""
    create_schemas: t.Tuple[str, ...] = ()
    end_idle_lock_holder: float = 0.0
    prove: bool = False
    """Whether a proof begins with this run."""
    for_proof: bool = False
    """Whether what is applied is part of a proof."""


DEFAULTS = Options()


class Outcome(t.NamedTuple):
    """What a run did, as far as it came."""

    before: t.Tuple[plan.Row, ...]
    planned: plan.Plan
    done: t.Tuple[plan.Done, ...]
    waited: float
    """Seconds spent waiting for another run."""
    fingerprint_before: str
    fingerprint: str


class Executor:
    """One run against one database.

    :param session: an open connection, which may be replaced if it is lost.
    :param release: the files, and the SQL of what may have to run.
    :param wanted: the version to reach; None: the newest.
    """

    def __init__(
        self,
        session: Session,
        release: Release,
        wanted: t.Optional[int],
        policy: plan.Policy,
        options: Options,
        explain: plan.Explain = plan.unexplained,
    ) -> None:
        self._session = session
        self._ledger: Ledger
        self._release = release
        self._wanted = wanted
        self._policy = policy
        self._options = options
        self._explain = explain
        self._files = {file.version: file for file in release.files}
        self._lock = AdvisoryLock(session)
        self._together = policy.transaction == "all"
        self._sender = Sender(session, options.lock_retries)
        self._history: History
        self._commits = Commits(self._sender, self._together, self._recorded, options.advisory_lock_timeout)
        self.rows: t.Sequence[plan.Row] = ()
        """The ledger as it was when the lock came."""
        self.fingerprint_before: t.Optional[str] = None
        """The schema as it was before the first step."""

    @property
    def done(self) -> t.Tuple[plan.Done, ...]:
        """The steps that are committed so far, also after a failure."""
        return tuple(self._commits.done)

    @property
    def session(self) -> Session:
        return self._session

    def run(self) -> Outcome:
        """Take the lock, plan under it, take every step.

        :raises MigrationError: on any failure; what was committed before it stays, and is in ``done``.
        """
        try:
            with self._reported(Where()):
                return self._run()
        except MigrationError:
            self._commits.settle()
            raise
        finally:
            self._write_durations()
            self._close()

    def rehearse(self) -> t.Tuple[Rehearsed, ...]:
        """Take the lock, plan under it, run every step in one transaction, and roll it back.

        :raises MigrationError: if a step fails, as it would in earnest.
        """
        try:
            with self._reported(Where()):
                _rows, planned, _waited = self._plan()
                return tuple(Rehearsal(self._sender, self._release, self._options.create_schemas, self._together).run(planned))
        finally:
            self._close()

    def _write_durations(self) -> None:
        """Tell the ledger how long everything took, in one statement: until then it says what sqlx says before it knows."""
        took = {done.step.version: nanoseconds(done.seconds) for done in self._commits.done if done.step.action == plan.APPLY}
        if took and not self._session.lost and not self._session.in_transaction:
            # The history has it in any case.
            with contextlib.suppress(ServerError):
                self._session.run(self._ledger.write_durations(took))

    def _close(self) -> None:
        self._sender.close()
        if self._lock.held:
            # A server that does not answer any more has released it, or does so when the connection ends.
            with contextlib.suppress(ServerError):
                self._lock.release()

    def _plan(self) -> t.Tuple[t.List[plan.Row], plan.Plan, float]:
        self._session.must_be_writable()
        self._session.run(self._session.reset)
        self._ledger = Ledger(self._session, self._options.ledger_table)
        waited = self._lock.acquire(self._options.advisory_lock_timeout, self._options.end_idle_lock_holder)
        # Whoever held the lock before may have made the ledger.
        self._ledger.resolve()
        rows = self.rows = read_rows(self._session, self._ledger)
        planned = plan.make(self._release.files, self._release.only_down, rows, self._wanted, self._policy, self._explain)
        self._require_scripts(planned)
        return rows, planned, waited

    def _run(self) -> Outcome:
        rows, planned, waited = self._plan()
        before = None
        if planned.steps:
            self._make_tables()
            before = self.fingerprint_before = fingerprint.take(self._session, self._ledger.name).digest
            if self._options.prove:
                # A proof takes back scripts, and leaves what is only written down.
                stays = plan.written_down(rows, planned, self._files)
                self._session.run(proofs.begin(self._history, stays, before, planned.versions(plan.APPLY)))
            if self._together:
                self._take_together(planned)
            else:
                self._take(planned)
        after = fingerprint.take(self._session, self._ledger.name if self._ledger.exists else None).digest
        return Outcome(tuple(rows), planned, self.done, waited, before or after, after)

    def _make_tables(self) -> None:
        if self._options.create_schemas:
            self._make(lambda: self._session.run(create_schemas(self._options.create_schemas)))
        if not self._ledger.exists:
            self._make(self._ledger.create)
        self._history = History(self._session, self._ledger, self._release.digest, self._options.controller)
        if not self._history.exists:
            self._history.create()
        self._session.run(self._session.reset)
        self._session.take_notices()

    def _make(self, create: t.Callable[[], None]) -> None:
        """Make what sqlx may be making at this moment, without a lock: the second of two IF NOT EXISTS can fail."""
        self._sender.patiently(create, (*TRANSIENT, _UNIQUE_VIOLATION))

    def _require_scripts(self, planned: plan.Plan) -> None:
        lacking = [
            version for version in planned.versions(plan.APPLY, plan.REVERT) if version not in self._release.migrations
        ]
        if lacking:
            raise PlanError(
                "The ledger changed while this run was on its way: {0} must run now as well.".format(
                    ", ".join(str(version) for version in lacking)
                ),
                recovery="Nothing was changed. Run again.",
            )
        scripts.check(self._release, planned, self._options.allow_transaction_control)

    # Steps

    def _take_together(self, planned: plan.Plan) -> None:
        """All steps or none: the one transaction is what is tried again."""
        for tried in range(1, self._options.lock_retries + 2):
            try:
                self._sender.send("begin")
                self._take(planned)
                return
            except MigrationError as error:
                self._commits.done.clear()
                if error.failed.get("sqlstate") not in TRANSIENT or tried > self._options.lock_retries:
                    raise
                pause(tried)

    def _take(self, planned: plan.Plan) -> None:
        for step in planned.steps:
            if self._lock.aside:
                with self._reported(Where(step)):
                    self._lock.step_back(self._options.advisory_lock_timeout)
            if step.action == plan.BASELINE:
                self._baseline(step)
            elif step.action == plan.REPAIR:
                self._repair(step)
            else:
                migration = self._release.migrations[step.version]
                script = migration.script(step.action == plan.REVERT)
                if script.no_transaction:
                    self._outside(step, migration, script)
                else:
                    self._inside(step, migration, script)
        last = self._commits.open
        try:
            self._begin("")
        except ServerError:
            if last is None or last.done not in self._commits.done:
                raise
            # Committed: only the answer was lost, and the session with it.
            self._session = self._commits.reconnect()
            self._ledger = Ledger(self._session, self._ledger.name.sql)

    def _baseline(self, step: plan.Step) -> None:
        file = self._files[step.version]
        done = plan.Done(step, file.description, file.checksum, 0.0)
        closing = self._ledger.insert(file.version, file.description, file.checksum)
        closing += self._history.record(*entry(done))
        self._open(closing, done)

    def _repair(self, step: plan.Step) -> None:
        began = time.monotonic()
        file = self._files[step.version]
        row = self._ledger.row(step.version)
        if row is None:
            raise PlanError("Version {0} was to be repaired, and its row is gone meanwhile.".format(step.version))
        change = self._ledger.replace_checksum(step.version, file.checksum) if row.success else self._ledger.delete(step.version)
        detail = "recorded checksum was {0}".format(row.checksum.hex()) if row.success else "the unfinished row was removed"
        done = plan.Done(step, file.description, file.checksum, time.monotonic() - began)
        self._open(change + self._history.record(*entry(done), detail=detail), done)

    def _open(self, change: str, done: plan.Done) -> None:
        """A step that is only rows of ours."""
        with self._reported(Where(done.step)):
            self._begin(self._opening + change)
        self._commits.open = Closing(Script("", b""), "", done)

    # Inside a transaction

    def _inside(self, step: plan.Step, migration: Migration, script: Script) -> None:
        began = time.monotonic()
        insert = self._ledger.insert(step.version, migration.description, migration.checksum)
        claim = insert if step.action == plan.APPLY else self._ledger.delete(step.version)

        def attempt() -> bool:
            if not self._claim(step, migration, claim):
                return False
            self._sender.send(script.content)
            return True

        with self._reported(Where(step, script)):
            # Within the one transaction of all steps, nothing can be tried again by itself.
            if not self._sender.patiently(attempt, () if self._together else TRANSIENT):
                return
        self._must_be_inside(step, script)
        closing = ""
        if migration.verify and step.action == plan.APPLY:
            with self._reported(Where(step, migration.verify, NOT_VERIFIED, before=(script.text,), began=began)):
                self._sender.send(("" if self._session.in_transaction else "begin;") + "savepoint " + _SAVEPOINT)
                self._sender.send(migration.verify.content)
            closing = "rollback to {0};".format(_SAVEPOINT)
        if not self._together:
            # Deferred triggers run with the settings of their file; what this sets lasts as long as the transaction.
            closing += "set constraints all immediate;"
        seconds = time.monotonic() - began
        done = plan.Done(step, migration.description, migration.checksum, seconds, self._notices())
        closing += self._session.reset + self._record(done)
        self._commits.open = Closing(script, closing, done)
        if _MAY_UNLOCK.search(script.content) and not self._together:
            self._check_lock(step)

    def _must_be_inside(self, step: plan.Step, script: Script) -> None:
        if not self._session.in_transaction and not self._options.allow_transaction_control:
            raise ExecutionError(
                "{0} ended the transaction around it.".format(script.path),
                {"version": step.version, "file": script.path},
                "All of it is committed, and the ledger says so, but not in one transaction. Take BEGIN and COMMIT out of it.",
            )

    def _claim(self, step: plan.Step, migration: Migration, claim: str) -> bool:
        """Open the transaction with the ledger's change; False if someone who takes no lock (sqlx-cli) was first."""
        try:
            self._begin(self._opening + claim)
        except ServerError as error:
            if error.pgcode != _UNIQUE_VIOLATION or step.action != plan.APPLY or self._together:
                raise
            self._session.rollback()
            self._check_other(migration)
            return False
        if step.action == plan.REVERT and self._session.cursor.rowcount == 0 and not self._together:
            self._session.rollback()
            return False
        return True

    def _check_other(self, migration: Migration) -> None:
        """That someone else was first is as good, if it was the same file."""
        row = self._ledger.row(migration.version)
        if row is None or row.checksum != migration.checksum:
            raise PlanError("Version {0} was applied by someone else meanwhile, from another file.".format(migration.version))

    def _check_lock(self, step: plan.Step) -> None:
        with self._reported(Where(step)):
            self._begin("")
            if not self._lock.still_ours():
                # Released by the file; whatever it took itself goes with it.
                self._session.run("select pg_advisory_unlock_all()")
                self._lock.acquire(self._options.advisory_lock_timeout)

    # Outside transactions

    def _outside(self, step: plan.Step, migration: Migration, script: Script) -> None:
        began = time.monotonic()
        where = Where(step, script)
        parts = statements.split(script.text)
        if step.resume:
            self._begin("")
            finished = outside.finished(self._history, step.version, script, parts)
            interrupted = not self._history.failed(step.version)
            # From here on, this run may be cut off as well.
            self._session.run(self._history.record(step.version, STATEMENT, BEGUN, position=finished))
        else:
            finished, interrupted = 0, False
            with self._reported(where):
                if not self._sender.patiently(lambda: self._claim(step, migration, self._claim_unfinished(step, migration))):
                    return
                self._sender.send(self._history.record(step.version, step.action, BEGUN) + "commit")
        self._lock.step_aside()
        for part in filter(outside.sets_session, parts[:finished]):
            # What went with the session that was cut off.
            with self._reported(where._replace(statement=part)):
                self._sender.send(part.text)
        for position in range(finished, len(parts)):
            with self._reported(where._replace(statement=parts[position])):
                outside.run(
                    self._sender, self._history, step.version, position, parts[position], interrupted and position == finished
                )
        if migration.verify and step.action == plan.APPLY:
            with self._reported(Where(step, migration.verify, NOT_VERIFIED)):
                self._sender.in_turn("begin read only", migration.verify.text)
                self._session.rollback()
        seconds = time.monotonic() - began
        with self._reported(where):
            self._sender.send(self._session.reset)
        done = plan.Done(step, migration.description, migration.checksum, seconds, self._notices())
        self._commits.open = Closing(script, "begin;" + self._rows(done), done)
        with self._reported(Where(step)):
            self._begin("")
        if _MAY_UNLOCK.search(script.content):
            self._check_lock(step)

    def _claim_unfinished(self, step: plan.Step, migration: Migration) -> str:
        if step.action == plan.REVERT:
            return self._ledger.mark_dirty(step.version)
        return self._ledger.insert(step.version, migration.description, migration.checksum, success=False)

    def _rows(self, done: plan.Done) -> str:
        """Statements that say that a step outside transactions is done."""
        record = self._record(done)
        if done.step.action == plan.APPLY:
            return record + self._ledger.finish(done.step.version, nanoseconds(done.seconds), done.checksum)
        return record + self._ledger.delete(done.step.version)

    def _record(self, done: plan.Done) -> str:
        for_proof = self._options.for_proof and done.step.action == plan.APPLY
        return self._history.record(*entry(done), detail=proofs.TO_BE_PROVEN if for_proof else "")

    def _begin(self, opening: str) -> None:
        """Close the step before, and open the next."""
        try:
            self._commits.begin(opening)
        except CommitFailed as failed:
            with self._reported(Where(failed.step.done.step, failed.step.script, NOT_COMMITTED)):
                raise failed.error from None

    @property
    def _opening(self) -> str:
        return "" if self._together else "begin;"

    def _recorded(self, session: Session) -> t.Set[Entry]:
        ledger = Ledger(session, self._ledger.name.sql)
        return History(session, ledger, self._release.digest, self._options.controller).told()

    def _notices(self) -> t.Tuple[str, ...]:
        return tuple(self._session.take_notices()[:_NOTICES_MAX])

    # Failures

    @contextlib.contextmanager
    def _reported(self, where: Where) -> t.Iterator[None]:
        """Turn what the server says into an error that says where, who blocks, and what state the database is in."""
        began = time.monotonic() if where.began is None else where.began
        try:
            yield
        except ServerError as error:
            found = describe(error, where, self._sender, time.monotonic() - began, self._may_retrace(where))
            self._record_failure(where, found)
            self._commits.settle()
            raise ExecutionError(found.message, found.details, self._state(where)) from error
        except LockError as error:
            if where.step is None:
                raise
            self._commits.settle()
            raise ExecutionError(error.message, error.failed, self._state(Where()) + " " + error.recovery) from error

    def _may_retrace(self, where: Where) -> bool:
        # What fails at the commit only is not found by running the statements again.
        alone = where.script is not None and not where.script.no_transaction and not self._together
        return alone and where.what != NOT_COMMITTED

    def _record_failure(self, where: Where, found: Description) -> None:
        if where.step is None or self._session.lost:
            return
        record = self._history.record(where.step.version, where.step.action, FAILED, detail=found.message)
        with contextlib.suppress(ServerError):
            # Where even this cannot be written (a full disk), the error itself is what counts.
            self._session.run(self._session.reset + record)

    def _state(self, where: Where) -> str:
        """What is in the database now, and whether to run again."""
        done = [] if self._together else [each.step for each in self._commits.done]
        if done:
            state = "Of this run, {0}.".format("; ".join("{0} {1}".format(_PAST[each.action], each.version) for each in done))
        elif self._policy.undo is None:
            state = "Nothing of this run is in the database."
        else:
            state = "Nothing was taken back."
        if where.script is None or where.step is None:
            return state + " Run again once the cause is gone."
        if where.script.no_transaction or (where.what == NOT_VERIFIED and not where.before):
            return (
                state + " Version {0} is unfinished (success = false in the ledger): its statements before this one are done,"
                " and sqlx will not touch the database meanwhile. Correct what is named above, from this statement on, and run"
                " again: it continues here."
            ).format(where.step.version)
        rolled_back = "The way back of {0}" if where.step.action == plan.REVERT else "Version {0}"
        return (state + " " + rolled_back + " was rolled back whole. Correct what is named above and run again.").format(where.step.version)


_PAST = {plan.APPLY: "applied", plan.REVERT: "reverted", plan.BASELINE: "recorded", plan.REPAIR: "repaired"}
