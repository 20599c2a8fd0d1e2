# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pending migrations run on a copy of a database, for good, and measured: what they will cost where the original is."""

from __future__ import annotations

import json
import time
import typing as t

from . import outside, plan, scripts, statements
from .errors import MigrationError, PlanError
from .failure import NOT_COMMITTED, Where
from .history import DONE, TRIAL, History, nanoseconds, read_rows, table_for
from .ledger import Ledger
from .picture import Data
from .records import Target
from .rehearsal import Observed, Rehearsal, told
from .release import Release
from .sender import Sender
from .session import Session, create_schemas, literal
from .source import Script

_DROPPED = "This was tried on a copy, which is dropped; no other database was touched. "


class Measured(t.NamedTuple):
    """One migration."""

    step: plan.Step
    description: str
    seconds: float
    observed: t.Tuple[Observed, ...]
    log: int
    """Bytes of write-ahead log. Whatever else the server writes meanwhile is among them."""
    needs: int
    """Bytes that the database grew by at most, old and new files side by side. Temporary files of sorts are not among them."""
    grows: int
    """Bytes that the database is larger afterwards."""


class Trial(Rehearsal):
    """All pending migrations of a release, on a database that is thrown away afterwards."""

    def __init__(self, sender: Sender, release: Release, ledger_table: str, schemas: t.Sequence[str] = ()) -> None:
        super().__init__(sender, release, schemas)
        self._ledger = Ledger(self._session, ledger_table)
        self._peak = 0

    def measure(self, wanted: t.Optional[int]) -> t.List[Measured]:
        """Apply what is pending.

        :param wanted: the version to reach; None: the newest.
        :raises MigrationError: at the first statement that fails.
        """
        self._session.run(self._session.reset + create_schemas(self._schemas))
        if not self._ledger.exists:
            self._ledger.create()
        rows = read_rows(self._session, self._ledger)
        planned = plan.make(self._release.files, self._release.only_down, rows, wanted, plan.Policy(missing="ignore"))
        return [self._measured(step) for step in planned.steps]

    def _measured(self, step: plan.Step) -> Measured:
        migration = self._release.migrations[step.version]
        before, log = self._size(), self._session.value("select pg_current_wal_insert_lsn()::text")
        self._peak = before
        self._files = self._relations()
        began = time.monotonic()
        if not migration.up.no_transaction:
            self._sender.send("begin")
        parts = scripts.split(step, migration.up)
        finished = self._finished(step, parts) if step.resume else 0
        if not step.resume:
            self._sender.send(self._ledger.insert(step.version, migration.description, migration.checksum))
        # That lock is ours, and no statement's.
        self._locks = self._held()
        observed = tuple(self._observe(step, migration.up, each) for each in parts[finished:])
        if migration.verify:
            if migration.up.no_transaction:
                self._sender.send("begin read only")
            self._verify(step, migration)
        if self._session.in_transaction:
            with self._reported(Where(step, migration.up, NOT_COMMITTED)):
                self._sender.send("commit")
        seconds = time.monotonic() - began
        self._session.run(self._session.reset)
        written = self._session.value("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), {0})::bigint".format(literal(log)))
        return Measured(
            step, migration.description, seconds, observed, written, max(self._peak, self._size()) - before, self._size() - before
        )

    def _finished(self, step: plan.Step, parts: t.Sequence[statements.Statement]) -> int:
        """How many statements of an interrupted file are done; what they set for the session is set again."""
        if step.action == plan.REVERT:
            raise PlanError("Version {0} was interrupted on its way back. Finish that first.".format(step.version), {"dirty": step.version})
        history = History(self._session, self._ledger, self._release.digest, "")
        finished = outside.finished(history, step.version, self._release.migrations[step.version].up, parts)
        for part in filter(outside.sets_session, parts[:finished]):
            self._sender.send(part.text)
        return finished

    def _observe(self, step: plan.Step, script: Script, statement: statements.Statement) -> Observed:
        observed = super()._observe(step, script, statement)
        self._peak = max(self._peak, self._size())
        return observed

    def _size(self) -> int:
        return int(self._session.value("select pg_database_size(current_database())"))


def run(
    target: Target, release: Release, wanted: t.Optional[int], ledger_table: str, schemas: t.Sequence[str] = ()
) -> Data:
    """Try it.

    :param target: the copy.
    :param schemas: to be made first, where they are not there yet.
    :returns: what is told of it.
    :raises MigrationError: as a migration would.
    """
    with Session(target) as session:
        size = session.value("select pg_database_size(current_database())")
        sender = Sender(session, 0)
        try:
            measured = Trial(sender, release, ledger_table, schemas).measure(wanted)
        except MigrationError as error:
            error.recovery = _DROPPED + "Correct what is named above."
            raise
        finally:
            sender.close()
    return {
        "release": release.digest,
        "size": size,
        "measured": [
            {
                "version": each.step.version,
                "description": each.description,
                "duration": round(each.seconds, 6),
                "rows": sum(one.rows or 0 for one in each.observed),
                "rewritten": sorted({name for one in each.observed for name in one.rewritten}),
                "log": each.log,
                "needs": each.needs,
                "grows": each.grows,
                "statements": told(each.observed),
            }
            for each in measured
        ],
    }


def record(session: Session, ledger: Ledger, release: Release, controller: str, answer: Data) -> bool:
    """Write down in a database's history what was measured on a copy of it, for the prediction.

    :returns: whether there is a history.
    """
    if not ledger.exists or not session.value("select to_regclass({0}) is not null".format(literal(table_for(ledger.name).sql))):
        return False
    history = History(session, ledger, release.digest, controller)
    for each in answer["measured"]:
        detail = {name: each[name] for name in ("rows", "rewritten", "log", "needs", "grows")}
        session.run(
            history.record(
                each["version"], TRIAL, DONE, nanoseconds(each["duration"]), detail=json.dumps(dict(detail, size=answer["size"]))
            )
        )
    return bool(answer["measured"])
