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
import random
import re
import time
import typing as t

from . import fingerprint, plan, statements
from .errors import ConnectionFailed, ExecutionError, LockError, PlanError
from .history import BEGUN, DONE, FAILED, STATEMENT, History, statement_digest
from .ledger import Ledger
from .lock import AdvisoryLock
from .release import Release
from .session import ServerError, Session, identifier, literal, milliseconds
from .source import Migration, Script
from .watch import Watch

# SQLSTATEs after which the same transaction may well pass: lock_not_available, deadlock_detected, serialization_failure.
_DEADLOCK = "40P01"
_TRANSIENT = ("55P03", _DEADLOCK, "40001")
_UNIQUE_VIOLATION = "23505"

# Seconds between two tries, growing, with jitter so that two runs do not meet again and again.
_PAUSE_MIN, _PAUSE_MAX = 0.5, 5.0
# Seconds in which a server that restarts must be back to be asked how a commit ended.
_RECONNECT = 15.0
# Seconds: a failed file that took no longer is run once more, and rolled back, to learn which of its statements failed.
_RETRACE = 10.0

# A file without any of these words does not need to be read closely.
_MAY_CONTROL = re.compile(rb"\b(?:begin|start|commit|end|rollback|abort|savepoint|release|prepare)\b|\\|\bstdin\b|\bstdout\b", re.I)

_SAVEPOINT = "schema_registry_verify"
_NOTICES_MAX = 50


def _pause(tried: int) -> None:
    time.sleep(min(_PAUSE_MIN * 2 ** (tried - 1), _PAUSE_MAX) * random.uniform(0.5, 1.0))


class Options(t.NamedTuple):
    """Bounds and permissions; the fields are the module's parameters of the same names."""

    ledger_table: str = "_sqlx_migrations"
    lock_retries: int = 10
    advisory_lock_timeout: float = 120.0
    allow_transaction_control: bool = False
    controller: str = ""


class Done(t.NamedTuple):
    """One step that was taken."""

    step: plan.Step
    description: str
    checksum: bytes
    seconds: float
    notices: t.Tuple[str, ...] = ()


class Outcome(t.NamedTuple):
    """What a run did, as far as it came."""

    before: t.Tuple[plan.Row, ...]
    plan: plan.Plan
    done: t.Tuple[Done, ...]
    waited: float
    """Seconds spent waiting for another run."""
    fingerprint_before: t.Optional[str]


class _Unconfirmed(t.NamedTuple):
    """A step whose closing message is not yet sent."""

    step: plan.Step
    script: Script
    closing: str
    done: Done


def check_scripts(release: Release, planned: plan.Plan, allow_transaction_control: bool) -> None:
    """Refuse, before anything runs, what cannot be sent or would end the transaction around it.

    :raises ExecutionError: naming file and line.
    """
    for step in planned.steps:
        if step.action not in (plan.APPLY, plan.REVERT):
            continue
        for script in _scripts_of(step, release.migrations[step.version]):
            if not script.no_transaction and (allow_transaction_control or not _MAY_CONTROL.search(script.content)):
                continue
            try:
                for statement in statements.scan(script.text):
                    if statements.controls_transaction(statement):
                        raise statements.StatementError(
                            "{0!r} would begin or end a transaction, which is the engine's part".format(statement.summary),
                            statement.line,
                        )
            except statements.StatementError as error:
                raise ExecutionError(
                    "{0}, line {1}: {2}.".format(script.path, error.line, error),
                    {"version": step.version, "file": script.path, "line": error.line, "message": str(error)},
                )


def _scripts_of(step: plan.Step, migration: Migration) -> t.List[Script]:
    scripts = [migration.down] if step.action == plan.REVERT else [migration.up, migration.verify]
    return [script for script in scripts if script is not None]


class Executor:
    """One run against one database.

    :param session: an open connection, which may be replaced if it is lost.
    :param release: the files, and the SQL of what may have to run.
    :param wanted: the version to reach; None: the newest.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        release: Release,
        wanted: t.Optional[int],
        policy: plan.Policy,
        options: Options,
        explain: plan.Explain = plan.unexplained,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._release = release
        self._wanted = wanted
        self._policy = policy
        self._options = options
        self._explain = explain
        self._files = {file.version: file for file in release.files}
        self._lock = AdvisoryLock(session)
        self._watch = Watch(session.target, session.connection.info.backend_pid)
        self._history: History
        self._together = policy.transaction == "all"
        self._unconfirmed: t.Optional[_Unconfirmed] = None
        self._done: t.List[Done] = []

    @property
    def done(self) -> t.Tuple[Done, ...]:
        """The steps that are committed so far, also after a failure."""
        return tuple(self._done)

    @property
    def session(self) -> Session:
        return self._session

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def run(self) -> Outcome:
        """Take the lock, plan under it, take every step.

        :raises MigrationError: on any failure; what was committed before it stays, and is in ``done``.
        """
        try:
            with self._reported(None):
                return self._run()
        finally:
            self._watch.close()
            if self._lock.held:
                self._lock.release()

    def _run(self) -> Outcome:
        self._session.must_be_writable()
        waited = self._lock.acquire(self._options.advisory_lock_timeout)
        # Whoever held the lock before may have made the ledger.
        self._ledger.resolve()
        rows = read_rows(self._session, self._ledger)
        planned = plan.make(self._release.files, self._release.only_down, rows, self._wanted, self._policy, self._explain)
        before = None
        if planned.steps:
            self._require_scripts(planned)
            self._make_tables()
            before = fingerprint.take(self._session, self._ledger.name).digest
            if self._together:
                self._take_together(planned)
            else:
                self._take(planned)
        return Outcome(tuple(rows), planned, self.done, waited, before)

    def _make_tables(self) -> None:
        if not self._ledger.exists:
            self._ledger.create()
        self._history = History(self._session, self._ledger, self._release.digest, self._options.controller)
        if not self._history.exists:
            self._history.create()
        self._session.run(self._session.reset)
        self._session.take_notices()

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
        check_scripts(self._release, planned, self._options.allow_transaction_control)

    # Steps

    def _take_together(self, planned: plan.Plan) -> None:
        """All steps or none: the one transaction is what is tried again."""
        for tried in range(1, self._options.lock_retries + 2):
            try:
                self._send("begin")
                self._take(planned)
                return
            except ExecutionError as error:
                self._done.clear()
                if error.failed.get("sqlstate") not in _TRANSIENT or tried > self._options.lock_retries:
                    raise
                _pause(tried)

    def _take(self, planned: plan.Plan) -> None:
        for step in planned.steps:
            if self._lock.aside:
                with self._reported(None, step):
                    self._lock.step_back(self._options.advisory_lock_timeout)
            if step.action == plan.BASELINE:
                self._baseline(step)
            elif step.action == plan.REPAIR:
                self._repair(step)
            else:
                migration = self._release.migrations[step.version]
                script = migration.up if step.action == plan.APPLY else migration.down
                assert script
                if script.no_transaction:
                    self._outside(step, migration, script)
                else:
                    self._inside(step, migration, script)
        try:
            self._begin("")
        except ServerError:
            # Committed: only the answer was lost, and the session with it.
            self._session = self._reconnect()
            self._ledger = Ledger(self._session, self._ledger.name.sql)

    def _baseline(self, step: plan.Step) -> None:
        file = self._files[step.version]
        done = Done(step, file.description, file.checksum, 0.0)
        closing = self._ledger.insert(file.version, file.description, file.checksum) + self._record(step, None)
        self._open(closing, done)

    def _repair(self, step: plan.Step) -> None:
        file = self._files[step.version]
        row = self._ledger.row(step.version)
        assert row
        change = self._ledger.replace_checksum(step.version, file.checksum) if row.success else self._ledger.delete(step.version)
        detail = "recorded checksum was {0}".format(row.checksum.hex()) if row.success else "the unfinished row was removed"
        self._open(change + self._history.record(step.version, step.action, DONE, detail=detail), Done(step, file.description, file.checksum, 0.0))

    def _open(self, change: str, done: Done) -> None:
        """A step that is only rows of ours."""
        with self._reported(None, done.step):
            self._begin(self._opening + change)
        self._unconfirmed = _Unconfirmed(done.step, Script("", b""), "", done)

    # Inside a transaction

    def _inside(self, step: plan.Step, migration: Migration, script: Script) -> None:
        began = time.monotonic()
        if step.action == plan.APPLY:
            claim = self._ledger.insert(step.version, migration.description, migration.checksum)
            verify = migration.verify
        else:
            claim = self._ledger.delete(step.version)
            verify = None

        def attempt() -> bool:
            if not self._claim(step, migration, claim):
                return False
            self._send(script.content)
            if not self._session.in_transaction and not self._options.allow_transaction_control:
                raise ExecutionError(
                    "{0} ended the transaction around it; what ran before that is committed.".format(script.path),
                    {"version": step.version, "file": script.path},
                    "The ledger says that {0} is applied. Look at the database before anything else.".format(step.version),
                )
            return True

        with self._reported(script, step):
            fresh = self._with_patience(attempt)
        if not fresh:
            return
        closing = ""
        if verify:
            self._prove(step, verify)
            closing = "rollback to {0};".format(_SAVEPOINT)
        seconds = time.monotonic() - began
        nanoseconds = round(seconds * 1e9)
        closing += self._session.reset + self._record(step, nanoseconds)
        if step.action == plan.APPLY:
            closing += self._ledger.finish(step.version, nanoseconds, migration.checksum)
        done = Done(step, migration.description, migration.checksum, seconds, self._notices())
        self._unconfirmed = _Unconfirmed(step, script, closing, done)
        if b"advisory" in script.content.lower() and not self._together:
            self._check_lock(step)

    def _prove(self, step: plan.Step, verify: Script) -> None:
        with self._reported(verify, step, "its verification failed"):
            self._send(("" if self._session.in_transaction else "begin;") + "savepoint " + _SAVEPOINT)
            self._send(verify.content)

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
        with self._reported(None, step):
            self._begin("")
            if not self._lock.still_ours():
                # Released by the file; whatever it took itself goes with it.
                self._session.run("select pg_advisory_unlock_all()")
                self._lock.acquire(self._options.advisory_lock_timeout)

    # Outside transactions

    def _outside(self, step: plan.Step, migration: Migration, script: Script) -> None:
        began = time.monotonic()
        parts = statements.split(script.text)
        finished = self._finished(step, script, parts) if step.resume else 0
        if not step.resume:
            claim = (
                self._ledger.insert(step.version, migration.description, migration.checksum, success=False)
                if step.action == plan.APPLY
                else self._ledger.mark_dirty(step.version)
            )
            with self._reported(script, step):
                if not self._with_patience(lambda: self._claim(step, migration, claim)):
                    return
                self._send(self._history.record(step.version, step.action, BEGUN) + "commit")
        else:
            self._begin("")
        self._lock.step_aside()
        for position, statement in enumerate(parts):
            if position >= finished:
                self._one(step, script, position, statement, step.resume and position == finished)
        verify = migration.verify if step.action == plan.APPLY else None
        if verify:
            with self._reported(verify, step, "its verification failed"):
                self._send("begin read only")
                self._send(verify.content)
                self._session.rollback()
        seconds = time.monotonic() - began
        nanoseconds = round(seconds * 1e9)
        end = (
            self._ledger.finish(step.version, nanoseconds, migration.checksum)
            if step.action == plan.APPLY
            else self._ledger.delete(step.version)
        )
        with self._reported(script, step):
            self._send(self._session.reset)
            self._send("begin;" + end + self._record(step, nanoseconds) + "commit")
        self._done.append(Done(step, migration.description, migration.checksum, seconds, self._notices()))

    def _finished(self, step: plan.Step, script: Script, parts: t.Sequence[statements.Statement]) -> int:
        """How many statements of an interrupted file are done.

        :raises PlanError: if one of those was edited since.
        """
        digests = self._history.finished_statements(step.version)
        for digest, statement in zip(digests, parts):
            if digest != statement_digest(statement.text):
                raise PlanError(
                    "{0}, line {1}: this statement ran before the file was interrupted, and was edited since.".format(
                        script.path, statement.line
                    ),
                    {"version": step.version, "file": script.path, "line": statement.line},
                    "Nothing was changed. Restore the statements that ran ({0} of them), or name the version in repair"
                    " to run the file from its beginning.".format(len(digests)),
                )
        if len(digests) > len(parts):
            raise PlanError("{0}: {1} of its statements ran, and it holds only {2}.".format(script.path, len(digests), len(parts)))
        return len(digests)

    def _one(self, step: plan.Step, script: Script, position: int, statement: statements.Statement, again: bool) -> None:
        digest = statement_digest(statement.text)
        record = self._history.record(step.version, STATEMENT, DONE, position=position, digest=digest, detail=statement.summary)
        with self._reported(script, step, statement=statement):
            if statements.outside_transaction(statement):
                self._with_patience(lambda: self._alone(statement, again), (_DEADLOCK,))
                self._send(record)
            else:
                self._with_patience(lambda: self._in_turn("begin", statement.text, record + "commit"))

    def _in_turn(self, *messages: str) -> None:
        for message in messages:
            self._send(message)

    def _alone(self, statement: statements.Statement, again: bool) -> None:
        """Send a statement that takes no transaction.

        :param again: whether an earlier run was interrupted at it.
        """
        build = statements.concurrent_index(statement)
        valid = self._index_valid(build)
        if valid and again:
            # It was built, and the run cut off before it could say so.
            return
        if valid is False:
            assert build and build.name
            self._send("drop index concurrently " + self._index_name(build))
        # Such a statement waits for others without holding anybody up, so it gets the time of all tries at once.
        budget = self._session.target.lock_timeout * (self._options.lock_retries + 1)
        self._send("set lock_timeout = {0}".format(milliseconds(budget)))
        try:
            self._send(statement.text)
        finally:
            if not self._session.lost:
                self._send("set lock_timeout = {0}".format(milliseconds(self._session.target.lock_timeout)))

    def _index_name(self, build: statements.IndexBuild) -> str:
        """The index's qualified name: it is always in its table's schema."""
        assert build.name
        schema = self._session.value(
            "select nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass({0})".format(
                literal(build.table)
            )
        )
        return identifier(schema) + "." + build.name

    def _index_valid(self, build: t.Optional[statements.IndexBuild]) -> t.Optional[bool]:
        """Whether the index is there and valid; None where it is not there, or is another table's."""
        if build is None or build.name is None:
            return None
        found = self._session.rows(
            "select i.indisvalid and i.indisready from pg_index i join pg_class c on c.oid = i.indrelid"
            " join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass({0})"
            " and i.indexrelid = to_regclass(quote_ident(n.nspname) || '.' || {1})".format(literal(build.table), literal(build.name))
        )
        return found[0][0] if found else None

    # Messages

    def _send(self, sql: t.Union[str, bytes]) -> None:
        self._watch.begin()
        try:
            self._session.run(sql)
        finally:
            self._watch.end()

    def _begin(self, opening: str) -> None:
        """Close the step before, and send the opening of the next in the same message.

        On an error the ledger decides whether it was the closing or the opening that failed.
        """
        unconfirmed, self._unconfirmed = self._unconfirmed, None
        message = opening
        if unconfirmed:
            message = unconfirmed.closing + ("" if self._together and opening else "commit;") + opening
        if not message:
            return
        try:
            self._send(message)
        except ServerError:
            if unconfirmed is None or (self._together and opening):
                raise
            if not self._committed(unconfirmed):
                with self._reported(unconfirmed.script, unconfirmed.step, "its commit failed"):
                    raise
            self._done.append(unconfirmed.done)
            raise
        if unconfirmed:
            self._done.append(unconfirmed.done)

    @property
    def _opening(self) -> str:
        return "" if self._together else "begin;"

    def _committed(self, unconfirmed: _Unconfirmed) -> bool:
        """Whether a step is in the database whose commit got no clear answer."""
        step = unconfirmed.step
        if self._session.lost:
            with self._reconnect() as session:
                row = Ledger(session, self._ledger.name.sql).row(step.version)
        else:
            self._session.rollback()
            row = self._ledger.row(step.version)
        if step.action == plan.REPAIR:
            return row is None or row.checksum == unconfirmed.done.checksum
        return (row is None) == (step.action == plan.REVERT)

    def _reconnect(self) -> Session:
        """A new connection to a server that may be restarting.

        :raises ConnectionFailed: if it is not back in time; how the commit ended is not known then.
        """
        deadline = time.monotonic() + _RECONNECT
        while True:
            try:
                return Session(self._session.target)
            except ConnectionFailed as error:
                if time.monotonic() > deadline:
                    raise ConnectionFailed(
                        "The connection was lost during a commit, and the server does not come back: {0}".format(error),
                        recovery="Whether the last migration was committed is not known. Once the server is back, run again:"
                        " the ledger decides, and nothing runs twice.",
                    )
            time.sleep(0.5)

    def _with_patience(self, attempt: t.Callable[[], t.Any], transient: t.Sequence[str] = _TRANSIENT) -> t.Any:
        """Try a transaction until it gets its locks, a bounded number of times."""
        tries = 1 if self._together else self._options.lock_retries + 1
        for tried in range(1, tries + 1):
            try:
                return attempt()
            except ServerError as error:
                if error.pgcode not in transient or tried == tries:
                    raise
                self._session.rollback()
                _pause(tried)
        raise AssertionError("unreachable")

    def _notices(self) -> t.Tuple[str, ...]:
        return tuple(self._session.take_notices()[:_NOTICES_MAX])

    def _record(self, step: plan.Step, nanoseconds: t.Optional[int]) -> str:
        return self._history.record(step.version, step.action, DONE, nanoseconds)

    # Failures

    @contextlib.contextmanager
    def _reported(
        self,
        script: t.Optional[Script],
        step: t.Optional[plan.Step] = None,
        what: str = "",
        statement: t.Optional[statements.Statement] = None,
    ) -> t.Iterator[None]:
        """Turn what the server says into an error that says where, who blocks, and what state the database is in."""
        began = time.monotonic()
        try:
            yield
        except ServerError as error:
            raise self._failure(error, script, step, what, statement, time.monotonic() - began) from error
        except LockError as error:
            if step is None:
                raise
            raise ExecutionError(error.message, error.failed, self._state(step, None) + " " + error.recovery) from error

    def _failure(
        self,
        error: t.Any,
        script: t.Optional[Script],
        step: t.Optional[plan.Step],
        what: str,
        statement: t.Optional[statements.Statement],
        seconds: float,
    ) -> ExecutionError:
        blockers = self._watch.blockers
        failed: t.Dict[str, t.Any] = {"sqlstate": error.pgcode, "message": (error.diag.message_primary or str(error)).strip()}
        for key in ("message_detail", "message_hint", "context"):
            if getattr(error.diag, key):
                failed[key.replace("message_", "")] = getattr(error.diag, key)
        column = None
        if not self._session.lost:
            self._session.rollback()
        if script is not None and script.path:
            offset = None
            if error.diag.statement_position:
                offset = int(error.diag.statement_position) - 1 + (statement.start if statement else 0)
            if statement is None:
                statement = self._culprit(script, offset, error.pgcode, step, seconds)
            if offset is not None:
                failed["line"], column = statements.position(script.text, offset)
            elif statement is not None:
                failed["line"] = statement.line
            failed.update(file=script.path, column=column, statement=statement.text if statement else None)
        if step:
            failed["version"] = step.version
        if blockers:
            failed["blocked_by"] = [holder._asdict() for holder in blockers]
        self._record_failure(step, failed)

        where = failed.get("file") or "The run"
        if failed.get("line"):
            where += ", line {0}".format(failed["line"]) + (", column {0}".format(column) if column else "")
        message = "{0}: {1}{2}".format(where, what + ": " if what else "", failed["message"])
        message += " (SQLSTATE {0})".format(error.pgcode) if error.pgcode else ""
        if statement is not None:
            message += "\n  statement: " + statement.summary
        for key in ("detail", "hint", "context"):
            if key in failed:
                message += "\n  {0}: {1}".format(key, failed[key])
        for holder in blockers:
            message += "\n  blocked by {0}".format(holder)
        return ExecutionError(message, failed, self._state(step, script))

    def _culprit(
        self, script: Script, offset: t.Optional[int], sqlstate: t.Optional[str], step: t.Optional[plan.Step], seconds: float
    ) -> t.Optional[statements.Statement]:
        """The statement that failed: where the server points; the only one there is; or found by running the file again.

        The server tells no position for what goes wrong while a statement runs. Since the transaction is gone anyway, a
        file that was quick is sent once more, statement by statement, and rolled back again.
        """
        try:
            parts = statements.split(script.text)
        except statements.StatementError:
            return None
        if offset is not None:
            return next((each for each in reversed(parts) if each.start <= offset), None)
        if len(parts) == 1:
            return parts[0]
        if self._session.lost or self._together or step is None or script.no_transaction or seconds > _RETRACE or sqlstate in _TRANSIENT:
            return None
        return self._retrace(script, parts, sqlstate, step)

    def _retrace(
        self, script: Script, parts: t.Sequence[statements.Statement], sqlstate: t.Optional[str], step: plan.Step
    ) -> t.Optional[statements.Statement]:
        before: t.Tuple[str, ...] = ()
        migration = self._release.migrations[step.version]
        if migration.verify is script:
            before = (migration.up.text,)
        current: t.Optional[statements.Statement] = None
        try:
            self._send("begin;")
            for text in before:
                self._send(text)
            for current in parts:
                self._send(current.text)
            return None
        except ServerError as error:
            return current if error.pgcode == sqlstate else None
        finally:
            self._session.rollback()

    def _record_failure(self, step: t.Optional[plan.Step], failed: t.Dict[str, t.Any]) -> None:
        if step is None or self._session.lost:
            return
        with contextlib.suppress(ServerError):
            # Where even this cannot be written (a full disk), the error itself is what counts.
            self._session.run(
                self._session.reset
                + self._history.record(step.version, step.action, FAILED, detail="{0} {1}".format(failed["sqlstate"], failed["message"]))
            )

    def _state(self, step: t.Optional[plan.Step], script: t.Optional[Script]) -> str:
        """What is in the database now, and whether to run again."""
        done = [] if self._together else [each.step for each in self._done]
        if done:
            state = "Of this run, {0}.".format("; ".join("{0} {1}".format(_PAST[each.action], each.version) for each in done))
        else:
            state = "Nothing of this run is in the database."
        if script is None or step is None:
            return state + " Run again once the cause is gone."
        if script.no_transaction:
            return (
                state + " Version {0} is unfinished (success = false in the ledger): its statements before this one are done,"
                " and sqlx will not touch the database meanwhile. Correct what is named above, from this statement on, and run"
                " again: it continues here."
            ).format(step.version)
        return state + " Version {0} was rolled back whole. Correct what is named above and run again.".format(step.version)


_PAST = {plan.APPLY: "applied", plan.REVERT: "reverted", plan.BASELINE: "recorded", plan.REPAIR: "repaired"}


def read_rows(session: Session, ledger: Ledger) -> t.List[plan.Row]:
    """The ledger's rows; of unfinished ones, the side table tells which way they went."""
    if not ledger.exists:
        return []
    rows = ledger.rows()
    dirty = [row.version for row in rows if not row.success]
    if not dirty:
        return rows
    history = History(session, ledger, "", "")
    begun = history.begun(dirty) if history.exists else {}
    return [row._replace(reverting=begun.get(row.version) == plan.REVERT) for row in rows]
