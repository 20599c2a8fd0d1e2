"""Migration files in a directory of the test's own, and the engine run on them."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import engine, look, picture, prediction, release, rollout, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.executor import Options
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.plan import Policy
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.records import Target

from .postgres import Database

LEDGER = "_sqlx_migrations"
HISTORY = "_sqlx_migrations_history"

# What a test waits for at most, unless it says otherwise.
PATIENCE: Dict[str, Any] = {"lock_timeout": 1.0}


class Row(NamedTuple):
    """A row of the ledger, without its times."""

    version: int
    description: str
    success: bool
    checksum: bytes


@dataclass(frozen=True)
class Release:
    """The migrations in a directory, on their way to a database."""

    directory: Path
    database: Database
    user: Optional[str] = None
    """Who connects: the database's owner, unless it is said here."""

    @property
    def migrations(self) -> Path:
        return self.directory / "migrations"

    @property
    def proofs(self) -> Path:
        return self.directory / "verify"

    def add(self, name: str, up: str, down: Optional[str] = None, verify: Optional[str] = None) -> Path:
        """Write a migration, reversible or not, and its verification; return the path of its (up) script."""
        self.migrations.mkdir(parents=True, exist_ok=True)
        script = self.migrations / (f"{name}.sql" if down is None else f"{name}.up.sql")
        script.write_bytes(up.encode())
        if down is not None:
            (self.migrations / f"{name}.down.sql").write_bytes(down.encode())
        if verify is not None:
            self.proofs.mkdir(exist_ok=True)
            (self.proofs / f"{name}.sql").write_bytes(verify.encode())
        return script

    def add_tables(self, first: int, last: int) -> None:
        """Migrations that make a table each, and the way back; their versions are their numbers."""
        for number in range(first, last + 1):
            self.add(f"{number}_table", f"create table t{number} (id int);", f"drop table t{number};")

    def as_user(self, user: str) -> Release:
        return dataclasses.replace(self, user=user)

    def target(self, **fields: Any) -> Target:
        server = self.database.server
        parameters = {"host": str(server.socket_directory), "port": server.port, "user": self.user or self.database.owner}
        parameters.update(fields.pop("parameters", {}))
        return Target(self.database.name, parameters, **{**PATIENCE, **fields})

    def read(self, **arguments: Any) -> source.Source:
        verify = str(self.proofs) if self.proofs.exists() else None
        return source.read([str(self.migrations)], verify, **arguments)

    def migrate(self, version: Optional[int] = None, *, ignored_chars: str = "", **arguments: Any) -> Dict[str, Any]:
        """Run the engine; the arguments are fields of Policy, Options and Target, by their names."""
        files = self.read(ignored_chars=ignored_chars)
        policy = Policy(**_take(arguments, Policy._fields))
        options = Options(**{"controller": "tests", "advisory_lock_timeout": 20.0, **_take(arguments, Options._fields)})
        answer: Dict[str, Any] = engine.migrate(
            self.target(**arguments), release.of(files), version, policy, options, picture.explainer(files.migrations)
        )
        return answer

    def roll_out(self, version: Optional[int] = None, **arguments: Any) -> Dict[str, Any]:
        """Run one host's part in a rollout; the arguments are also the fields of Terms."""
        files = self.read()
        terms = rollout.Terms(**_take(arguments, rollout.Terms._fields))
        policy = Policy(**_take(arguments, Policy._fields))
        options = Options(**{"controller": "tests", "advisory_lock_timeout": 20.0, **_take(arguments, Options._fields)})
        run = rollout.Rollout(self.target(**arguments), release.of(files), version, policy, options, terms, picture.explainer(files.migrations))
        answer: Dict[str, Any] = run.run()
        return answer

    def rehearse(self, version: Optional[int] = None, **arguments: Any) -> List[Dict[str, Any]]:
        """Run the engine, and roll everything back; the arguments are those of migrate."""
        policy = Policy(**_take(arguments, Policy._fields))
        options = Options(**{"controller": "tests", "advisory_lock_timeout": 20.0, **_take(arguments, Options._fields)})
        answer: List[Dict[str, Any]] = engine.rehearse(self.target(**arguments), release.of(self.read()), version, policy, options)
        return answer

    def predict(self, version: Optional[int] = None, **arguments: Any) -> Dict[str, Any]:
        """What a run would do."""
        files = self.read()
        policy = Policy(**_take(arguments, Policy._fields))
        seen = look.look(self.target(), LEDGER, True, True)
        rows = picture.rows_of(seen, ()) or []
        return prediction.foresee(release.of(files), seen, rows, version, policy, picture.explainer(files.migrations)).answer

    def info(self, **arguments: Any) -> Dict[str, Any]:
        seen = look.look_around(self.target(), arguments.pop("ledger_table", LEDGER), True, **arguments)
        told: Dict[str, Any] = picture.told(seen, release.of(self.read()))
        return told

    def rows(self, table: str = LEDGER) -> List[Row]:
        """The ledger."""
        columns = "version, description, success, checksum"
        found = self.database.execute(f"select {columns} from {table} order by version", user="postgres")
        return [Row(version, description, success, bytes(checksum)) for version, description, success, checksum in found]

    def versions(self) -> List[int]:
        """What the ledger has as applied."""
        return [row.version for row in self.rows() if row.success]

    def history(self) -> List[Any]:
        """What the side table tells: version, action, outcome."""
        return self.database.execute(f"select version, action, outcome from {HISTORY} order by at")

    def has(self, relation: str) -> bool:
        """Whether a relation is in the database."""
        return self.database.execute("select to_regclass(%s) is not null", [relation], user="postgres") == [(True,)]


def checksum(text: str) -> bytes:
    """What sqlx records of a file."""
    return hashlib.sha384(text.encode()).digest()


def _take(arguments: Dict[str, Any], names: Any) -> Dict[str, Any]:
    return {name: arguments.pop(name) for name in list(arguments) if name in names}
