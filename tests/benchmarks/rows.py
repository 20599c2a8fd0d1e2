"""Every row of the table: what is measured against what, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.plan import Policy
from lab import Lab
from measure import Row, ratios, rounds
from support.playbooks import Task
from support.relay import Relay
from workload import FIRST, Workload, grown, small, trivial


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    scale: float = 1.0
    """1 is what the goals are meant for; less is for trying things out."""
    pairs: int | None = None

    def size(self, count: int) -> int:
        """So many migrations."""
        return max(20, round(count * self.scale))

    def rounds(self, usual: int) -> int:
        """So many runs of each kind."""
        return self.pairs or usual


Benchmark = Callable[[Lab, Extent], Iterator[Row]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(function: Benchmark) -> Benchmark:
    """Enter a function into the list."""
    BENCHMARKS[function.__name__] = function
    return function


@benchmark
def apply(lab: Lab, extent: Extent) -> Iterator[Row]:
    """Many small migrations: a playbook, and the engine alone, against one psql session that runs the same files."""
    count = extent.size(1000)
    work = lab.workload(count, small)
    measured = rounds(
        extent.rounds(7),
        lambda: lab.play(lab.task("migration", work, lab.database())),
        lambda: lab.psql(work.up, lab.database()),
        lab.ping,
        lambda: lab.migrate(work, lab.database()),
    )
    yield Row("ping, a playbook", tuple(ping for _unused, _unused, ping, _unused in measured), unit=" s")
    what = f"apply {count:,} small migrations"
    yield Row(f"{what}, psql", tuple(psql for _unused, psql, _unused, _unused in measured), unit=" s")
    yield Row(f"{what}, playbook less ping: psql", tuple((play - ping) / psql for play, psql, ping, _unused in measured), 1.05, 0.95)
    yield Row(f"{what}, whole playbook: psql", tuple(play / psql for play, psql, _unused, _unused in measured), 1.35, 1.25)
    yield Row(f"{what}, engine alone: psql", tuple(alone / psql for _unused, psql, _unused, alone in measured), 1.05, 0.95)


@benchmark
def apply_trivial(lab: Lab, extent: Extent) -> Iterator[Row]:
    """Very many migrations that do next to nothing: what the engine itself costs."""
    count = extent.size(10_000)
    work = lab.workload(count, trivial)
    measured = rounds(
        extent.rounds(7),
        lambda: lab.migrate(work, lab.database()),
        lambda: lab.psql(work.up, lab.database()),
    )
    what = f"apply {count:,} trivial migrations"
    yield Row(f"{what}, psql", tuple(psql for _unused, psql in measured), unit=" s")
    yield Row(f"{what}, engine alone: psql", ratios(measured), 0.9, 0.65)


@benchmark
def messages(lab: Lab, _extent: Extent) -> Iterator[Row]:
    """Messages to the server, counted on their way."""
    few, many = 20, 120
    counts = []
    for count in (few, many):
        with Relay(lab.server) as relay:
            lab.migrate(lab.workload(count, small), lab.database(), relay=relay)
            counts.append(len(relay.messages))
    yield Row("messages to the server a migration", ((counts[1] - counts[0]) / (many - few),), 3, 2)


@benchmark
def revert(lab: Lab, extent: Extent) -> Iterator[Row]:
    """The way back, in copies of one migrated database."""
    count = extent.size(100)
    work = lab.workload(count, small)
    migrated = lab.migrated(work)
    measured = rounds(
        extent.rounds(15),
        lambda: lab.migrate(work, lab.database(migrated), 0, Policy(allow_revert=True)),
        lambda: lab.psql(work.down, lab.database(migrated)),
    )
    yield Row(f"revert {count:,} migrations, psql", tuple(psql for _unused, psql in measured), unit=" s")
    yield Row(f"revert {count:,} migrations, engine alone: psql", ratios(measured), 1.5, 1.1)


@benchmark
def known(lab: Lab, extent: Extent) -> Iterator[Row]:
    """Databases that stand where they shall: what it costs to be sure of it, and to tell about it."""
    yield from _known(lab, extent, 1_000, 15, Goals(no_op=(1.20, 1.10), info=(1.20, 1.10), alone=(2.0, 1.3), memory=(40, 35)))
    yield from _known(lab, extent, 10_000, 9, Goals(no_op=(1.40, 1.25), info=(1.80, 1.35), alone=(1.5, 1.3), memory=(60, 40)))


class Goals(NamedTuple):
    """Each with what is near the limit."""

    no_op: tuple[float, float]
    info: tuple[float, float]
    alone: tuple[float, float]
    memory: tuple[float, float]


def _known(lab: Lab, extent: Extent, size: int, pairs: int, goals: Goals) -> Iterator[Row]:
    count = extent.size(size)
    work = lab.workload(count, grown)
    database = lab.migrated(work)
    task, telling = lab.task("migration", work, database), lab.task("migration_info", work, database)
    played = rounds(extent.rounds(pairs), lambda: lab.play(task), lambda: lab.play(telling), lab.ping)
    yield Row(f"no-op, {count:,} known, playbook: ping", tuple(no_op / ping for no_op, _unused, ping in played), *goals.no_op)
    yield Row(f"migration_info, {count:,} known, playbook: ping", tuple(info / ping for _unused, info, ping in played), *goals.info)

    looked = rounds(extent.rounds(15), lambda: lab.look(work, database), lambda: lab.loop(work, database))
    yield Row(f"no-op, {count:,} known, plain loop", tuple(loop for _unused, loop in looked), unit=" s")
    yield Row(f"no-op, {count:,} known, engine alone: plain loop", ratios(looked), *goals.alone)
    with Relay(lab.server) as relay:
        lab.look(work, database, relay)
        (conversation,) = relay.conversations
    yield Row(f"no-op, {count:,} known, round trips once connected", (len(conversation),), 3)

    executions = lab.witnessed.run([task]).memory
    yield Row(f"no-op, {count:,} known, module executions", (len(executions),), 1)
    yield Row(f"no-op, {count:,} known, memory of the module", (max(executions) / 1024,), *goals.memory, unit=" MiB")


@benchmark
def scripts(lab: Lab, extent: Extent) -> Iterator[Row]:
    """One task that applies many migrations, against a loop over community.postgresql that keeps a ledger."""
    count = extent.size(100)
    work = lab.workload(count, small)
    measured = rounds(
        extent.rounds(2),
        lambda: lab.play(*_loop(lab, work, lab.database())),
        lambda: lab.play(lab.task("migration", work, lab.database())),
    )
    yield Row(f"apply {count:,} migrations, one task", tuple(one for _unused, one in measured), unit=" s")
    yield Row(f"apply {count:,} migrations, loop of postgresql_script: one task", ratios(measured), 50, least=True)


def _loop(lab: Lab, work: Workload, database: str) -> list[Task]:
    login = {"login_db": database, "login_user": "postgres", **lab.login}
    paths = [str(path) for path in sorted(work.migrations.glob("*.up.sql"))]
    return [
        {"community.postgresql.postgresql_query": {"query": "create table ledger (version bigint primary key)", **login}},
        {"community.postgresql.postgresql_script": {"path": "{{ item }}", **login}, "loop": paths},
        {
            "community.postgresql.postgresql_query": {"query": "insert into ledger values ({{ item }})", **login},
            "loop": [FIRST + number for number in range(len(paths))],
        },
    ]
