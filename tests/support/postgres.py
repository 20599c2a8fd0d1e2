"""PostgreSQL servers and databases of the tests' own: made from nothing, and gone afterwards.

A `Server` is a cluster in a private temporary directory, a `Database` an empty database in it, owned by a fresh role
that may log in and nothing more. Over the socket every role is trusted (the directory is closed to other users); over
TCP a password is asked for, so that no other user of the machine can walk in.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

INSTALLATIONS = Path("/usr/lib/postgresql")
SUPERUSER = "postgres"
SERVER_USER = "postgres"  # of the operating system: runs the server where the tests run as root
START_ATTEMPTS = 3

# Durability costs most of the time of a test; PG_FSYNC=on brings it back. (synchronous_commit stays on: VACUUM does not
# mark as all-visible what was committed asynchronously, and index-only scans would not be what they are elsewhere.)
FAST = {"fsync": "off", "full_page_writes": "off"}


def installed_majors() -> List[int]:
    """The major versions whose server programs are installed; PG_MAJORS="15 17" asks for exactly these."""
    if wanted := os.environ.get("PG_MAJORS", "").replace(",", " ").split():
        return sorted(int(major) for major in wanted)
    return sorted(int(initdb.parts[-3]) for initdb in INSTALLATIONS.glob("[0-9]*/bin/initdb"))


class ServerError(RuntimeError):
    """One of the server's programs failed; the message is what it said."""


class PsqlError(RuntimeError):
    """psql stopped at an error; the message is what it wrote."""


class Server:
    """A running PostgreSQL cluster. Use it as a context manager: leaving it stops the server and deletes its files."""

    def __init__(self, major: int, settings: Optional[Mapping[str, object]] = None) -> None:
        self.major = major
        self.bin = INSTALLATIONS / str(major) / "bin"
        self.host = "127.0.0.1"
        self.port = 0
        self.password = secrets.token_hex(16)
        self._fast = os.environ.get("PG_FSYNC", "off") != "on"
        self._settings: Dict[str, object] = {
            "listen_addresses": self.host,
            "max_prepared_transactions": 8,
            **(FAST if self._fast else {}),
            **(settings or {}),
        }

    def __enter__(self) -> Server:
        if not (self.bin / "initdb").exists():
            raise FileNotFoundError(f"PostgreSQL {self.major} is not installed: there is no {self.bin}/initdb")
        self.directory = Path(tempfile.mkdtemp(prefix=f"registry-pg{self.major}-"))
        self.data_directory = self.directory / "data"
        self.log = self.directory / "server.log"
        try:
            self._initdb()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_unused: object) -> None:
        try:
            if (self.data_directory / "postmaster.pid").exists():
                self.stop(mode="immediate")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def socket_directory(self) -> Path:
        return self.directory

    def start(self) -> None:
        """Start the server on a free port. It keeps its port over a restart, unless somebody took it meanwhile."""
        for attempt in range(1, START_ATTEMPTS + 1):
            if not self.port or attempt > 1:
                self.port = _free_port(self.host)
            settings = {**self._settings, "port": self.port, "unix_socket_directories": self.socket_directory}
            options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
            try:
                self._as_server_user("pg_ctl", "start", "-D", self.data_directory, "-l", self.log, "-w", "-o", options)
                return
            except ServerError as error:
                if attempt == START_ATTEMPTS:
                    raise ServerError(f"{error}\n{self.log.read_text()}") from None

    def stop(self, mode: str = "fast") -> None:
        self._as_server_user("pg_ctl", "stop", "-D", self.data_directory, "-m", mode, "-w")

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """A libpq connection string by the socket, where every role is trusted."""
        return make_dsn(host=str(self.socket_directory), port=self.port, dbname=dbname, user=user)

    def connect(self, dbname: str = "postgres", user: str = SUPERUSER, **options: Any) -> Connection:
        connection: Connection = psycopg2.connect(self.dsn(dbname, user), **options)
        return connection

    def execute(self, statement: Union[str, sql.Composable], dbname: str = "postgres") -> None:
        """Run one statement as superuser, outside of a transaction."""
        connection = self.connect(dbname)
        try:
            connection.autocommit = True
            connection.cursor().execute(statement)
        finally:
            connection.close()

    @contextmanager
    def database(self, *, owner_options: str = "") -> Iterator[Database]:
        """A fresh, empty database and its owner; `owner_options` are further role attributes, such as CREATEROLE."""
        token = secrets.token_hex(4)
        database = Database(self, name=f"registry_{token}", owner=f"owner_{token}", password=secrets.token_hex(16))
        name, owner = sql.Identifier(database.name), sql.Identifier(database.owner)
        self.execute(sql.SQL("create role {} login {} password {}").format(owner, sql.SQL(owner_options), sql.Literal(database.password)))
        try:
            self.execute(sql.SQL("create database {} owner {} template template0").format(name, owner))
            yield database
        finally:
            self.execute(sql.SQL("drop database if exists {} with (force)").format(name))
            self.execute(sql.SQL("drop role {}").format(owner))

    def _initdb(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        for path in (self.directory, password_file):
            self._give_to_server_user(path)
        self._as_server_user(
            "initdb",
            *("--pgdata", self.data_directory, "--username", SUPERUSER, "--pwfile", password_file),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--data-checksums"),
            *(("--no-sync",) if self._fast else ()),
        )
        password_file.unlink()

    def _as_server_user(self, program: str, *arguments: object) -> None:
        """Run one of the server's programs, which refuse to run as root."""
        root = os.geteuid() == 0
        result = subprocess.run(
            [str(self.bin / program), *map(str, arguments)],
            user=SERVER_USER if root else None,
            group=SERVER_USER if root else None,
            extra_groups=[] if root else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if result.returncode:
            raise ServerError(f"{program} failed: {result.stderr}")

    @staticmethod
    def _give_to_server_user(path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, SERVER_USER, SERVER_USER)


@dataclass(frozen=True)
class Database:
    """A database of the tests' own. Everything connects as its owner, unless another `user` is named."""

    server: Server
    name: str
    owner: str
    password: str

    @property
    def dsn(self) -> str:
        """libpq's connection string of the owner, by the socket."""
        return self.server.dsn(self.name, self.owner)

    @property
    def url(self) -> str:
        """The owner's URL by TCP and with password, as sqlx and applications want it."""
        return f"postgres://{self.owner}:{self.password}@{self.server.host}:{self.server.port}/{self.name}"

    def connect(self, *, user: Optional[str] = None, **options: Any) -> Connection:
        """A new connection; the caller closes it. `user="postgres"` is the superuser."""
        return self.server.connect(self.name, user or self.owner, **options)

    def execute(
        self,
        statement: Union[str, sql.Composable],
        parameters: Optional[Sequence[Any]] = None,
        *,
        user: Optional[str] = None,
    ) -> List[Tuple[Any, ...]]:
        """Run one statement (or several, without parameters) in a transaction of its own; return the last one's rows."""
        connection = self.connect(user=user)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def psql(self, script: Union[str, Path], *, single_transaction: bool = True, user: Optional[str] = None) -> str:
        """Run a file (a Path) or a text with psql, stopping at the first error; return its stdout and NOTICEs."""
        result = subprocess.run(
            [
                *(str(self.server.bin / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"),
                *(("--single-transaction",) if single_transaction else ()),
                *("--dbname", self.server.dsn(self.name, user or self.owner)),
                *("--file", str(script) if isinstance(script, Path) else "-"),
            ],
            input=None if isinstance(script, Path) else script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode:
            raise PsqlError(result.stdout)
        return result.stdout

    def dump(self, *, data: bool = False) -> str:
        """The schema (and the data) as pg_dump writes it, without what is different every time.

        That is the random token of its `\\restrict` lines, and the stamps that the latest minor releases give to columns.
        """
        result = subprocess.run(
            [
                *(str(self.server.bin / "pg_dump"), "--dbname", self.server.dsn(self.name)),
                *(() if data else ("--schema-only",)),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return re.sub(r"^(\\(un)?restrict .*|ALTER TABLE .* SET \(pg_attver=\d+\);)\n", "", result.stdout, flags=re.MULTILINE)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
