"""The place where everything is measured: one durable server, a fresh database for every run, and the ways to work on it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg2
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import engine, look, picture, plan, release, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.executor import Options
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.plan import Policy
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.records import Target
from measure import timed
from support.playbooks import Playbooks, Task
from support.postgres import Server, installed_majors
from support.relay import Relay
from workload import Workload

LEDGER = "_sqlx_migrations"
PING: list[Task] = [{"ansible.builtin.ping": {}}]

# Beside PostgreSQL's defaults, which are durable: nothing happens on the side while something is measured.
SETTINGS = {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "16GB", "shared_buffers": "256MB"}


class Lab:
    """A server of its own, gone afterwards with all its databases: dropping one meanwhile would slow the next run down."""

    def __enter__(self) -> Lab:
        os.environ["PG_FSYNC"] = "on"
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registry-bench-")))
            # psql and modules may run as another user.
            self.directory.chmod(0o755)
            self.server = stack.enter_context(Server(max(installed_majors()), SETTINGS))
            self.playbooks = Playbooks(self.directory / "playbooks")
            self.witnessed = Playbooks(self.directory / "witnessed", witnessed=True)
            self._workloads: dict[tuple[str, int], Workload] = {}
            self._made = 0
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def workload(self, count: int, scripts: Callable[[int], tuple[str, str]]) -> Workload:
        """So many migrations of a kind, written once."""
        key = (scripts.__name__, count)
        if key not in self._workloads:
            self._workloads[key] = Workload.write(self.directory / f"{scripts.__name__}-{count}", count, scripts)
        return self._workloads[key]

    def database(self, template: str = "template0") -> str:
        """A fresh database, or a copy of one; and a checkpoint, so that what runs next starts like everything else."""
        self._made += 1
        name = f"bench_{self._made}"
        self.server.execute(f"create database {name} template {template}")
        self.server.execute("checkpoint")
        return name

    def migrated(self, workload: Workload) -> str:
        """A database in which all migrations of a workload are applied."""
        name = self.database()
        self.migrate(workload, name, policy=Policy(transaction="all"))
        self.server.execute("vacuum analyze", name)
        return name

    # One psql session

    def psql(self, script: Path, database: str) -> float:
        """Seconds that one psql session takes for a script."""
        command = [str(self.server.bin / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        command += ["--file", str(script), "--dbname", self.server.dsn(database)]
        return timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))

    # The engine alone, from files to the end of its connection

    def target(self, database: str, relay: Relay | None = None) -> Target:
        """How the engine connects."""
        host = relay.directory if relay else self.server.socket_directory
        return Target(database, {"host": str(host), "port": self.server.port, "user": "postgres"})

    def migrate(
        self, workload: Workload, database: str, version: int | None = None, policy: Policy = plan.DEFAULTS, relay: Relay | None = None
    ) -> float:
        """Seconds that the engine takes to bring a database to a version."""

        def run() -> None:
            files = source.read([str(workload.migrations)])
            answer = engine.migrate(self.target(database, relay), release.of(files), version, policy, Options(controller="bench"))
            assert answer["changed"]

        return timed(run)

    def look(self, workload: Workload, database: str, relay: Relay | None = None) -> float:
        """Seconds that the engine takes to find out that nothing is to be done: the files are read while the server is asked."""

        def run() -> None:
            with ThreadPoolExecutor(1) as aside:
                reading = aside.submit(lambda: release.of(source.read([str(workload.migrations)], complete=False), None, ()))
                seen = look.look(self.target(database, relay), LEDGER)
                everything = reading.result()
            rows = picture.rows_of(seen, everything.files)
            assert rows is not None
            assert not plan.make(everything.files, everything.only_down, rows, None).steps

        return timed(run)

    def loop(self, workload: Workload, database: str) -> float:
        """Seconds that a plain loop over psycopg2 takes for the same question, as many a runner asks it."""

        def run() -> None:
            connection = psycopg2.connect(self.server.dsn(database))
            cursor = connection.cursor()
            cursor.execute(f"select version, checksum from {LEDGER} order by version")
            known = {version: bytes(digest) for version, digest in cursor.fetchall()}
            for path in sorted(workload.migrations.glob("*.up.sql")):
                version = int(path.name.split("_", 1)[0])
                assert known[version] == hashlib.sha384(path.read_bytes()).digest()
            connection.close()

        return timed(run)

    # Playbooks

    def task(self, module: str, workload: Workload, database: str, **arguments: Any) -> Task:
        """A task of this collection."""
        login = {"login_db": database, "login_user": "postgres", **self.login}
        return {f"schema_registry.postgresql.{module}": {"source": str(workload.migrations), **login, **arguments}}

    @property
    def login(self) -> dict[str, Any]:
        """How modules connect."""
        return {"login_unix_socket": str(self.server.socket_directory), "login_port": self.server.port}

    def play(self, *tasks: Task) -> float:
        """Seconds that a playbook takes."""
        return self.playbooks.run(tasks).seconds

    def ping(self) -> float:
        """Seconds that a playbook takes that does nothing."""
        return self.play(*PING)
