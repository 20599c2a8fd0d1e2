# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pending migrations run for real, watched statement by statement, and rolled back."""

from __future__ import annotations

import contextlib
import time
import typing as t

from . import losses, plan, scripts, statements
from .errors import ExecutionError
from .failure import NOT_COMMITTED, NOT_VERIFIED, Where, describe
from .release import Release
from .sender import Sender
from .session import ServerError, create_schemas, identifier, literal
from .source import Migration, Script

# From the weakest lock to the strongest; what is not among them (on tuples, say) does not matter to others.
_MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)

_SAVEPOINT = "schema_registry_rehearsal"

# Constraints that can be deferred, and are not unless a file says so.
_IMMEDIATE = """
select quote_ident(n.nspname) || '.' || quote_ident(c.conname) from pg_constraint c join pg_namespace n on n.oid = c.connamespace
where c.condeferrable and not c.condeferred and has_schema_privilege(n.oid, 'usage') and not pg_is_other_temp_schema(n.oid)
"""
_UNCHANGED = "Everything was rolled back: the database is as it was."


class Observed(t.NamedTuple):
    """One statement, as it went."""

    file: str
    line: int
    statement: str
    seconds: float
    rows: t.Optional[int]
    """Rows that it inserted, changed or deleted."""
    locks: t.Dict[str, str]
    """The strongest lock that it took anew on each relation that was there before."""
    rewritten: t.Tuple[str, ...]
    """Tables and indexes that got new files."""
    notices: t.Tuple[str, ...]


def told(observed: t.Iterable[Observed]) -> t.List[t.Dict[str, t.Any]]:
    """The same for programs."""
    return [
        {
            "file": each.file,
            "line": each.line,
            "statement": each.statement,
            "duration": round(each.seconds, 6),
            "rows": each.rows,
            "locks": each.locks,
            "rewritten": list(each.rewritten),
            "notices": list(each.notices),
        }
        for each in observed
    ]


class Rehearsed(t.NamedTuple):
    """One migration."""

    step: plan.Step
    description: str
    observed: t.Tuple[Observed, ...] = ()
    not_rehearsed: str = ""
    """Why it was left out; empty if it ran."""
    lost: t.Tuple[losses.Lost, ...] = ()
    """The data that its down script takes with it."""


class Rehearsal:
    """One transaction that is never committed.

    :param sender: of a session that holds the advisory lock.
    :param schemas: to be made first, where they are not there yet.
    :param together: whether the run will be one transaction as well, in which only the last file meets a commit.
    """

    def __init__(self, sender: Sender, release: Release, schemas: t.Sequence[str] = (), together: bool = False) -> None:
        self._sender = sender
        self._schemas = schemas
        self._together = together
        self._session = sender.session
        self._release = release
        self._files: t.Dict[int, int] = {}
        self._locks: t.Dict[int, int] = {}
        self._left_out: t.List[int] = []
        self._last: t.Optional[plan.Step] = None

    def run(self, planned: plan.Plan) -> t.List[Rehearsed]:
        """Rehearse every step that runs SQL, in order.

        :raises ExecutionError: at the first statement that fails.
        """
        self._last = planned.steps[-1] if planned.steps else None
        with _Sequences(self._sender):
            self._sender.send("begin;" + create_schemas(self._schemas))
            try:
                self._files = self._relations()
                return [self._step(step) for step in planned.steps if step.action in (plan.APPLY, plan.REVERT)]
            finally:
                self._session.rollback()
                if not self._session.lost:
                    self._session.run(self._session.reset)

    def _step(self, step: plan.Step) -> Rehearsed:
        migration = self._release.migrations[step.version]
        script = migration.script(step.action == plan.REVERT)
        if script.no_transaction:
            return self._leave_out(step, migration, script, "it runs outside of transactions")
        parts = scripts.split(step, script)
        verification = scripts.split(step, migration.verify) if migration.verify and step.action == plan.APPLY else []
        # With allow_transaction_control such files may run, and would commit what shall be rolled back.
        if any(statements.controls_transaction(each) for each in (*parts, *verification)):
            return self._leave_out(step, migration, script, "it begins or ends transactions itself")
        self._sender.send("savepoint " + _SAVEPOINT)
        stock = losses.take(self._session) if step.action == plan.REVERT else None
        try:
            observed = tuple(self._observe(step, script, statement) for statement in parts)
            lost = self._lost(stock, script) if stock else ()
            if step.action == plan.APPLY:
                self._verify(step, migration)
            if not self._together or step == self._last:
                self._fire_deferred(step, script)
        except ExecutionError as error:
            if not self._left_out:
                raise
            # It may well need what was left out.
            self._sender.send("rollback to " + _SAVEPOINT)
            return self._leave_out(step, migration, script, "without {0} it fails: {1}".format(self._left_out[0], error.message))
        self._sender.send(self._session.reset)
        return Rehearsed(step, migration.description, observed, "", lost)

    def _fire_deferred(self, step: plan.Step, script: Script) -> None:
        """What is deferred to the commit fails now; the next file finds every constraint as its definition has it."""
        with self._reported(Where(step, script, NOT_COMMITTED)):
            self._sender.send("set constraints all immediate")
        immediate = ", ".join(name for (name,) in self._session.rows(_IMMEDIATE))
        self._sender.send("set constraints all deferred;" + ("set constraints {0} immediate".format(immediate) if immediate else ""))

    def _leave_out(self, step: plan.Step, migration: Migration, script: Script, why: str) -> Rehearsed:
        self._left_out.append(step.version)
        lost = losses.unforeseeable(script.path, script.text, why) if step.action == plan.REVERT else ()
        return Rehearsed(step, migration.description, (), why, tuple(lost))

    def _lost(self, before: losses.Stock, script: Script) -> t.Tuple[losses.Lost, ...]:
        """What the script took. It is undone to count what is gone, and run again."""
        self._sender.send(self._session.reset)
        after = losses.take(self._session)
        lost = losses.deletions(before, after)
        if losses.is_smaller(before, after):
            emptied = losses.empty(self._session, before, after)
            self._sender.send("rollback to " + _SAVEPOINT)
            lost += losses.count(self._session, before, after, emptied)
            self._sender.send(script.text)
        return tuple(lost)

    def _observe(self, step: plan.Step, script: Script, statement: statements.Statement) -> Observed:
        self._session.take_notices()
        before = self._locks
        began = time.monotonic()
        with self._reported(Where(step, script, statement=statement)):
            self._sender.send(statement.text)
        seconds = time.monotonic() - began
        status = self._session.cursor.statusmessage or ""
        rows = self._session.cursor.rowcount if status.split(" ")[0] in ("INSERT", "UPDATE", "DELETE", "MERGE") else None
        notices = tuple(self._session.take_notices())
        self._locks = self._held()
        files = self._relations()
        rewritten = [oid for oid, file in files.items() if self._files.get(oid, file) != file]
        # Only what was there before can hold somebody up.
        stronger = [oid for oid, mode in self._locks.items() if oid in self._files and mode > before.get(oid, -1)]
        names = self._names([*rewritten, *stronger])
        self._files = {oid: files.get(oid, file) for oid, file in self._files.items()}
        return Observed(
            script.path,
            statement.line,
            statement.summary,
            seconds,
            rows,
            {names[oid]: _MODES[self._locks[oid]] for oid in stronger if oid in names},
            tuple(sorted(names[oid] for oid in rewritten if oid in names)),
            notices,
        )

    def _verify(self, step: plan.Step, migration: Migration) -> None:
        if migration.verify:
            with self._reported(Where(step, migration.verify, NOT_VERIFIED)):
                self._sender.in_turn("savepoint schema_registry_verify", migration.verify.text, "rollback to schema_registry_verify")

    def _relations(self) -> t.Dict[int, int]:
        """The file that each table and index of users is in."""
        return dict(
            self._session.rows(
                "select c.oid::bigint, pg_relation_filenode(c.oid)::bigint from pg_class c where c.oid >= 16384"
                " and c.relkind in ('r', 'm', 'i') and c.relpersistence <> 't'"
                " and c.relnamespace <> 'pg_toast'::regnamespace"
            )
        )

    def _held(self) -> t.Dict[int, int]:
        """The strongest lock that this session holds on each relation, as its place in _MODES."""
        held: t.Dict[int, int] = {}
        for oid, mode in self._session.rows(
            "select relation::bigint, mode from pg_locks where pid = pg_backend_pid() and locktype = 'relation' and relation >= 16384"
        ):
            if mode in _MODES:
                held[oid] = max(held.get(oid, -1), _MODES.index(mode))
        return held

    def _names(self, oids: t.Sequence[int]) -> t.Dict[int, str]:
        if not oids:
            return {}
        wanted = ", ".join(str(oid) for oid in oids)
        return dict(
            self._session.rows(
                "select c.oid::bigint, quote_ident(nspname) || '.' || quote_ident(relname) from pg_class c"
                " join pg_namespace n on n.oid = c.relnamespace where c.oid in ({0})".format(wanted)
            )
        )

    @contextlib.contextmanager
    def _reported(self, where: Where) -> t.Iterator[None]:
        try:
            yield
        except ServerError as error:
            found = describe(error, where, self._sender, 0.0, False, keep_transaction=bool(self._left_out))
            raise ExecutionError(found.message, found.details, _UNCHANGED + " Correct what is named above.") from error


class _Sequences:
    """Puts sequences back, which no rollback does.

    Only where nobody else is connected to the database: a value that somebody else took must never be given out again.
    """

    def __init__(self, sender: Sender) -> None:
        self._session = sender.session
        self._before: t.Dict[str, t.Tuple[int, bool]] = {}

    def __enter__(self) -> None:
        if self._alone():
            self._before = self._values()

    def __exit__(self, *exception: object) -> None:
        if self._session.lost or not self._before or not self._alone():
            return
        now = self._values()
        for name, (value, called) in self._before.items():
            if now.get(name) != (value, called):
                with contextlib.suppress(ServerError):
                    # Setting START to what it is changes nothing, but keeps others out until the end of the transaction.
                    self._session.run(
                        "begin; alter sequence {0} start {1}; select setval({2}, {3}, {4}); commit".format(
                            name, self._start(name), literal(name), value, called
                        )
                    )
                self._session.rollback()

    def _alone(self) -> bool:
        return bool(
            self._session.value(
                "select count(*) = 0 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend' and application_name not like 'schema_registry.postgresql%(watch)'"
            )
        )

    def _start(self, name: str) -> int:
        return int(self._session.value("select seqstart from pg_sequence where seqrelid = to_regclass({0})".format(literal(name))))

    def _values(self) -> t.Dict[str, t.Tuple[int, bool]]:
        names = [
            identifier(schema) + "." + identifier(name)
            for schema, name in self._session.rows(
                "select nspname, relname from pg_sequence s join pg_class c on c.oid = s.seqrelid"
                " join pg_namespace n on n.oid = c.relnamespace"
                " where c.relpersistence <> 't' and pg_has_role(c.relowner, 'usage')"
            )
        ]
        if not names:
            return {}
        queries = ("select {0}, last_value, is_called from {1}".format(literal(name), name) for name in names)
        return {name: (value, called) for name, value, called in self._session.rows(" union all ".join(queries))}
