"""One fault after another, chosen by a seed: what is run, what strikes it and when, and whether the database came out right."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import psycopg2
from support.migrations import Release
from support.postgres import Database, Server, ServerError
from support.process import Run

from . import world
from .proxy import Link, Moment, Proxy

# Durability is what is tested.
DURABLE = {"fsync": "on", "full_page_writes": "on", "max_connections": 30, "shared_buffers": "16MB"}

# Seconds in which a run must end, whatever happened to it; and in which the next must have finished the work.
PATIENCE = 60.0
NEXT_RUN = 30.0

SMALL_DISK_MB = 160
# Of which a session needs so much to begin, and a whole run less than so much.
SESSION_BYTES = 200_000
RUN_BYTES = 2_000_000

# New files all the time, so that WAL meets the end of the disk as tables do.
SMALL_WAL = {"min_wal_size": "2MB", "max_wal_size": "16MB", "wal_recycle": "off"}


class NoSmallDisk(Exception):
    """This machine lets nobody here mount a disk to fill."""


class SmallDisk(Server):
    """A server whose whole data directory, WAL included, is on a disk that can be filled.

    :raises NoSmallDisk: where that cannot be made.
    """

    def _initdb(self) -> None:
        self.data_directory.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m,mode=0700", "tmpfs", str(self.data_directory)]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoSmallDisk(f"no disk to fill can be mounted: {getattr(error, 'stderr', error)}") from error
        self._give_to_server_user(self.data_directory)
        super()._initdb()

    def _as_server_user(self, program: str, *arguments: object) -> None:
        super()._as_server_user(program, *arguments, *(("--wal-segsize=1",) if program == "initdb" else ()))

    def __exit__(self, *exception: object) -> None:
        if (self.data_directory / "postmaster.pid").exists():
            with suppress(ServerError):
                self.stop("immediate")
        if self.data_directory.is_mount():
            subprocess.run(["umount", "--lazy", str(self.data_directory)], check=True)
        super().__exit__(*exception)

    @property
    def ballast(self) -> Path:
        return self.data_directory / "ballast"

    def fill(self, leave: int) -> None:
        """Leave no more than so many bytes."""
        self.ballast.touch()
        free = shutil.disk_usage(self.data_directory).free
        with self.ballast.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.ballast.stat().st_size + free - leave))

    def empty(self) -> None:
        self.ballast.unlink(missing_ok=True)


# What is run


@dataclass(frozen=True)
class Scenario:
    name: str
    migrations: Sequence[world.Migration]
    verified: bool = False
    revert: bool = False
    transaction: str = "each"

    @property
    def target(self) -> Optional[int]:
        return 1 if self.revert else None

    @property
    def action(self) -> str:
        return "revert" if self.revert else "apply"

    @property
    def steps(self) -> List[int]:
        """The versions that a run applies, or reverts."""
        return [migration.version for migration in self.migrations if not (self.revert and migration.version == 1)]


SCENARIOS = (
    Scenario("apply", world.MIGRATIONS),
    Scenario("apply verified", world.MIGRATIONS, verified=True),
    Scenario("revert", world.MIGRATIONS, revert=True),
    Scenario("apply all or none", world.INSIDE, verified=True, transaction="all"),
    Scenario("revert all or none", world.INSIDE, revert=True, transaction="all"),
)
WEIGHTS = (4, 4, 4, 1, 1)

KILLS = ("kill client", "kill backend", "terminate backend", "cancel", "immediate restart", "kill postmaster", "cut", "cut client's side", "stall")
FULL = "disk full"
PHASES = ("before", "during", "after", "lost")


@dataclass(frozen=True)
class Case:
    """All that chance decides of one run."""

    scenario: Scenario
    fault: str
    place: float
    """Where in the run it strikes: from 0, its first message, to 1, its last."""
    at_commit: bool
    """Whether only messages count that carry a commit."""
    phase: str
    delay: float
    again: Optional[Tuple[str, int, str]]
    """A second fault, so many messages after the first."""
    rival: bool
    """Whether a second run is waiting meanwhile."""

    def __str__(self) -> str:
        again = f", then {self.again[0]} {self.again[2]} the {self.again[1]}. message after" if self.again else ""
        rival = ", with a rival" if self.rival else ""
        if self.fault == FULL:
            return f"{self.scenario.name}: {FULL} at {self.place:.2f}{rival}"
        commit = " of the commits" if self.at_commit else ""
        return f"{self.scenario.name}: {self.fault} {self.phase} {self.place:.2f}{commit}{again}{rival}"


def choose(seed: int, number: int) -> Case:
    """The case of this number; the same for the same seed."""
    chance = random.Random(f"{seed}/{number}")
    fault = FULL if chance.random() < 0.08 else chance.choice(KILLS)
    return Case(
        chance.choices(SCENARIOS, WEIGHTS)[0],
        fault,
        chance.random(),
        chance.random() < 0.4,
        chance.choice(PHASES),
        chance.random() ** 3 * 0.3,
        (chance.choice(KILLS), chance.randint(1, 8), chance.choice(PHASES)) if chance.random() < 0.2 else None,
        chance.random() < 0.2,
    )


class Wrong(AssertionError):
    """The database did not come out right, or a run did not say the truth."""


# How it is run


@dataclass
class Undisturbed:
    """How a scenario goes where nothing happens."""

    messages: Sequence[int]
    commits: Sequence[int]
    fingerprint: str


class Bench:
    """Servers, and for each scenario a database to start from; entered for as long as cases are tried."""

    def __init__(self, major: int) -> None:
        self.major = major
        self.struck = 0
        self._servers: Dict[bool, Server] = {}
        self._starts: Dict[Tuple[bool, str], Database] = {}
        self._undisturbed: Dict[Tuple[bool, str], Undisturbed] = {}
        self._open = ExitStack()

    def __enter__(self) -> Bench:
        self._directory = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="registry-faults-")))
        return self

    def __exit__(self, *_: object) -> None:
        with self._open:
            for server in self._servers.values():
                up(server)

    def _server(self, small: bool) -> Server:
        if small not in self._servers:
            server = SmallDisk(self.major, {**DURABLE, **SMALL_WAL}) if small else Server(self.major, DURABLE)
            self._servers[small] = self._open.enter_context(server)
        return self._servers[small]

    def _release(self, scenario: Scenario, database: Database) -> Release:
        directory = self._directory / scenario.name.replace(" ", "-")
        found = Release(directory, database)
        if not directory.exists():
            world.write(found, scenario.migrations, scenario.verified)
        return found

    def _start(self, scenario: Scenario, server: Server, small: bool) -> Database:
        """The database from which a run starts, as a template."""
        key = (small, scenario.name if scenario.revert else "empty")
        if key not in self._starts:
            self._starts[key] = database = self._open.enter_context(server.database())
            if scenario.revert:
                self._release(scenario, database).migrate()
            for table in ("pg_class", "pg_attribute"):
                server.execute(f"vacuum {table}", database.name)
        return self._starts[key]

    @contextmanager
    def _fresh(self, scenario: Scenario, small: bool) -> Iterator[Release]:
        server = self._server(small)
        start = self._start(scenario, server, small)
        name = f"{start.name}_run"
        server.execute(f"create database {name} owner {start.owner} template {start.name}")
        try:
            yield self._release(scenario, Database(server, name, start.owner, start.password))
        finally:
            up(server)
            server.execute(f"drop database {name} with (force)")

    def undisturbed(self, scenario: Scenario, small: bool) -> Undisturbed:
        key = (small, scenario.name)
        if key not in self._undisturbed:
            with self._fresh(scenario, small) as release:
                server = release.database.server
                with Proxy((server.host, server.port)) as proxy, start(release, scenario, proxy.port) as run:
                    answer = run.answer(PATIENCE)
                    if "failed" in answer:
                        raise Wrong(f"an undisturbed run fails: {answer['failed']}")
                self._undisturbed[key] = Undisturbed(range(1, proxy.messages + 1), proxy.commits, answer["fingerprint"])
                _check(world.observe(release.database), scenario)
        return self._undisturbed[key]

    def attempt(self, case: Case) -> None:
        """Try a case.

        :raises Wrong: if it did not come out right.
        """
        small = case.fault == FULL
        normal = self.undisturbed(case.scenario, small)
        with self._fresh(case.scenario, small) as release:
            server = release.database.server
            with Proxy((server.host, server.port)) as proxy:
                answers = self._disturb(case, normal, release, proxy)
            up(server)
            state = world.observe(release.database)
            _check(state, case.scenario)
            if case.rival:
                _check_claims(answers, case.scenario)
            else:
                _check_report(answers[0], state, case.scenario)
            self._finish(case.scenario, normal, release)

    def _disturb(self, case: Case, normal: Undisturbed, release: Release, proxy: Proxy) -> List[Dict[str, Any]]:
        """Run until the fault, and to the end that it brings; what the surviving runs answered."""
        server = release.database.server
        runs: List[Run] = []
        if isinstance(server, SmallDisk):
            server.fill(leave=SESSION_BYTES + int(case.place * RUN_BYTES))
        else:
            messages = normal.commits if case.at_commit else normal.messages
            message = messages[int(case.place * len(messages))]
            proxy.plan(Moment(message, case.phase, case.delay), _strike(case.fault, case, server, runs))
            if case.again:
                fault, later, phase = case.again
                proxy.plan(Moment(later, phase, case.delay), _strike(fault, case, server, runs))
        try:
            with start(release, case.scenario, proxy.port) as run:
                runs.append(run)
                if not case.rival:
                    answers = [run.answer(PATIENCE)]
                else:
                    with start(release, case.scenario, server.port) as rival:
                        answers = [run.answer(PATIENCE), rival.answer(PATIENCE)]
        finally:
            if isinstance(server, SmallDisk):
                server.empty()
        if not isinstance(server, SmallDisk) and not proxy.struck and not case.rival:
            raise Wrong(f"message {message} of {len(normal.messages)} never came")
        self.struck += proxy.struck
        return answers

    def _finish(self, scenario: Scenario, normal: Undisturbed, release: Release) -> None:
        """The next run does what is left to do."""
        database = release.database
        began = time.monotonic()
        with start(release, scenario, database.server.port) as run:
            answer = run.answer(PATIENCE)
        if "failed" in answer:
            raise Wrong(f"the next run fails: {answer['failed']}")
        if time.monotonic() - began > NEXT_RUN:
            raise Wrong(f"the next run took {time.monotonic() - began:.0f} s")
        if answer["fingerprint"] != normal.fingerprint:
            raise Wrong("the fingerprint is not that of an undisturbed run")
        state = world.observe(database)
        _check(state, scenario)
        expected = {1: True} if scenario.revert else dict.fromkeys(scenario.steps, True)
        if state.ledger != expected:
            raise Wrong(f"the next run left work undone: {state.ledger}")
        for version in scenario.steps:
            if state.done[version, scenario.action] != 1:
                raise Wrong(f"the side table counts {state.done[version, scenario.action]} runs of version {version}")
        _check_nobody_left(database)


def start(release: Release, scenario: Scenario, port: int) -> Run:
    """A run over this port: the server's own, or the proxy's."""
    database = release.database
    parameters = {
        **{"host": database.server.host, "port": port, "password": database.password},
        **{"sslmode": "disable", "gssencmode": "disable"},
    }
    return Run(
        release, scenario.target, allow_revert=True, transaction=scenario.transaction, advisory_lock_timeout=30.0, parameters=parameters
    )


# What strikes


def up(server: Server) -> None:
    """Have the server answer, whatever state it is in."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(psycopg2.Error):
            server.execute("select 1")
            return
        with _STARTING:
            _start(server, deadline)
        time.sleep(0.1)


# Of two that are started at once, the one that gives up may take the other's socket away with it.
_STARTING = threading.Lock()


def _start(server: Server, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Wrong(f"the server is not back after {PATIENCE:.0f} s:\n{server.log.read_text()[-2000:]}")
    if not _postmaster(server):
        # Its last children may still be on their way out.
        with suppress(ServerError):
            server.start()


def _postmaster(server: Server) -> int:
    """Its process, or 0 where it does not run."""
    with suppress(OSError, ValueError):
        pid = int((server.data_directory / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            return pid
    return 0


def _strike(fault: str, case: Case, server: Server, runs: List[Run]) -> Callable[[Link], None]:
    def kill_client(link: Link) -> None:
        runs[0].kill()

    def kill_backend(link: Link) -> None:
        with suppress(ProcessLookupError):
            os.kill(link.backend_pid, signal.SIGKILL)

    def signal_backend(link: Link, function: str) -> None:
        # Where a fault before has taken the server away, its backend is gone as well.
        with suppress(psycopg2.Error):
            server.execute(f"select {function}({link.backend_pid})")

    def restart(link: Link) -> None:
        server.stop("immediate")
        up(server)

    def kill_postmaster(link: Link) -> None:
        os.kill(_postmaster(server), signal.SIGKILL)
        up(server)

    def close_client(link: Link) -> None:
        link.close_client()
        # The server learns of it later, and may go on meanwhile.
        threading.Timer(case.delay * 10, link.close).start()

    strikes: Dict[str, Callable[[Link], None]] = {
        "kill client": kill_client,
        "kill backend": kill_backend,
        "terminate backend": lambda link: signal_backend(link, "pg_terminate_backend"),
        "cancel": lambda link: signal_backend(link, "pg_cancel_backend"),
        "immediate restart": restart,
        "kill postmaster": kill_postmaster,
        "cut": Link.close,
        "cut client's side": close_client,
        "stall": lambda link: time.sleep(case.delay * 5),
    }
    strike = strikes[fault]

    def if_there(link: Link) -> None:
        # Before its log-in is done, a connection has no backend that could be named.
        if link.backend_pid or ("backend" not in fault and fault != "cancel"):
            strike(link)

    return if_there


# What must hold


def _check(state: world.State, scenario: Scenario) -> None:
    """The ledger says exactly what the schema is."""
    expected = list(world.expectations(state, scenario.migrations, scenario.steps if scenario.revert else ()))
    # An index build under way, or interrupted, leaves something that is not valid yet; nothing else may.
    leftovers = [name for name in state.invalid if name.endswith(("_ccnew", "_ccold"))]
    objects = state.objects - Counter(leftovers)
    if objects not in expected:
        wanted = expected[0]
        raise Wrong(f"the ledger does not say what is there: more than it should {dict(objects - wanted)}, less {dict(wanted - objects)}\n{state}")
    if state.invalid and not any(success is False for success in state.ledger.values()):
        raise Wrong(f"left behind: invalid {state.invalid}\n{state}")


def _claims(answer: Dict[str, Any], scenario: Scenario) -> List[int]:
    """The versions that a run says it has applied, or reverted."""
    told = answer.get("partial", {}) if "failed" in answer else answer
    return [entry["version"] for entry in told.get("reverted" if scenario.revert else "applied", ())]


def _check_claims(answers: Sequence[Dict[str, Any]], scenario: Scenario) -> None:
    """No two runs say that they did the same."""
    twice = [version for version, count in Counter(v for answer in answers for v in _claims(answer, scenario)).items() if count > 1]
    if twice:
        raise Wrong(f"two runs report {twice}: {answers}")


def _check_report(answer: Dict[str, Any], state: world.State, scenario: Scenario) -> None:
    """What a run says that it did is in the database, and what it does not say is not."""
    if not answer or "is not known" in answer.get("failed", ""):
        return
    claimed = _claims(answer, scenario)
    if scenario.revert:
        found = [version for version in reversed(scenario.steps) if version not in state.ledger]
    else:
        found = [version for version in scenario.steps if state.ledger.get(version)]
    if claimed != found:
        raise Wrong(f"a run reports {claimed}, and did {found}: {answer}")
    if "failed" not in answer and found and len(found) != len(scenario.steps):
        raise Wrong(f"a run reports success, and did only {found}")


def _check_nobody_left(database: Database) -> None:
    """No backend, no lock, no prepared transaction of a run stays."""
    query = (
        "select (select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend')"
        " + (select count(*) from pg_locks where locktype = 'advisory') + (select count(*) from pg_prepared_xacts)"
    )
    with closing(database.connect(user="postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        deadline = time.monotonic() + 30.0
        while True:
            cursor.execute(query)
            if cursor.fetchone() == (0,):
                return
            if time.monotonic() > deadline:
                cursor.execute("select pid, application_name, state, query from pg_stat_activity where datname = current_database()")
                raise Wrong(f"somebody is left: {cursor.fetchall()}")
            time.sleep(0.05)
