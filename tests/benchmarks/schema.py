"""Measure the registry's schema on a filled registry: docs/schema-performance.md says what each figure means.

    make bench-schema, or make bench-schema SCALE=0.01 BENCH='queries retention'        BENCH=--help lists what there is

Scale 1 is the full size, a million schemas and a hundred million validations: 27 GB of disk, and most of an hour.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import generator
import mix
import psycopg2
from psycopg2.extensions import connection as Connection
from support import extensions, registry
from support.postgres import Server, installed_majors

# Beside PostgreSQL's defaults, which are durable, what the role server would set on a machine of this size.
SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "6GB",
    "random_page_cost": 1.1,
    "max_wal_size": "6GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
}


@dataclass(frozen=True)
class Registry:
    """A filled registry, and where to work on it."""

    dsn: str
    superuser: str
    bin: Path
    directory: Path
    seconds: int
    """How long each load lasts."""

    @contextmanager
    def connect(self, dsn: str = "") -> Iterator[Connection]:
        """A connection of the owner's, without transactions around single statements."""
        with closing(psycopg2.connect(dsn or self.dsn)) as connection:
            connection.autocommit = True
            yield connection

    def one(self, statement: str) -> object:
        """The one value that a statement answers with."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row[0] if row else None

    def run(self, *statements: str) -> float:
        """Run statements one by one; how many seconds they took."""
        with self.connect() as connection, connection.cursor() as cursor:
            began = time.perf_counter()
            for statement in statements:
                cursor.execute(statement)
            return time.perf_counter() - began


Benchmark = Callable[[Registry], Iterator[str]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(function: Benchmark) -> Benchmark:
    """Enter a function into the list."""
    BENCHMARKS[function.__name__] = function
    return function


def table(*rows: tuple[object, ...]) -> Iterator[str]:
    """Rows as Markdown; the first one is the heading."""
    heading, *rest = rows
    yield f"| {' | '.join(map(str, heading))} |"
    yield f"|{'---|' * len(heading)}"
    for row in rest:
        yield f"| {' | '.join(map(str, row))} |"


@benchmark
def sizes(registry_: Registry) -> Iterator[str]:
    """How large everything is."""
    with registry_.connect() as connection, connection.cursor() as cursor:
        cursor.execute("""
            select relname, reltuples::bigint, pg_size_pretty(pg_table_size(oid)), pg_size_pretty(pg_indexes_size(oid)) from pg_class
            where relnamespace = 'public'::regnamespace and relkind in ('r', 'm') and reltuples > 0 and relname not like 'bench%'
            order by pg_total_relation_size(oid) desc
        """)
        yield from table(("table", "rows", "size", "indexes"), *((name, f"{rows:,}", size, indexes) for name, rows, size, indexes in cursor.fetchall()))


@benchmark
def queries(registry_: Registry) -> Iterator[str]:
    """Every statement of the service's mix: p50, p95, p99, and p95 in terms of a lookup by primary key in the same run; by a client a core, and by two."""
    cores = os.cpu_count() or 1
    with registry_.connect() as connection:
        mix.prepare(connection)
        try:
            samples = int(str(registry_.one("select count(*) from bench_sample")))
            warm = max(5, registry_.seconds // 4)
            for clients, seconds, counts in ((cores, warm, False), (cores, registry_.seconds, True), (2 * cores, registry_.seconds, True)):
                load = mix.run(
                    registry_.bin / "pgbench", registry_.dsn, registry_.directory / "mix", mix.MIX, clients=clients, seconds=seconds, samples=samples
                )
                if counts:
                    yield f"{load.per_second:,.0f} statements a second by {clients} clients on {cores} cores, {load.failed} failed. Milliseconds:"
                    yield ""
                    yield from table(("statement", "runs", "p50", "p95", "p99", "p95 : key", "goal"), *_latencies(load))
                    yield ""
        finally:
            mix.clean(connection)


def _latencies(load: mix.Load) -> Iterator[tuple[object, ...]]:
    """A row for each statement: its percentiles, and whether it reaches its goal."""
    base = {each.statement.name: each.percentile(95) for each in load.latencies}
    for each in load.latencies:
        against = mix.KEY_UPDATE if each.statement.goal == "write" else mix.KEY_LOOKUP
        ratio = each.percentile(95) / base[against]
        goal = {"read": "3 x", "write": "5 x an update", "search": "50 ms", "": ""}[each.statement.goal]
        reached = {"read": ratio <= 3, "write": ratio <= 5, "search": each.percentile(95) <= 50, "": True}[each.statement.goal]
        times = (f"{each.percentile(percent):.2f}" for percent in (50, 95, 99))
        yield (each.statement.name, len(each.times), *times, f"{ratio:.1f} x", goal and f"{goal}{'' if reached else ': missed'}")


@benchmark
def concurrency(registry_: Registry) -> Iterator[str]:
    """8 writers and 8 readers at once; then the same without the secondary indexes of schemas."""
    writes = [each for each in mix.MIX if each.goal == "write" or each.name in ("13 register", "record a validation")]
    reads = [each for each in mix.MIX if each.goal == "read" and each.name.startswith(("1 ", "2 ", "3 ", "4 "))]
    rows = []
    with registry_.connect() as connection, connection.cursor() as cursor:
        for title in ("with all indexes", "without the secondary indexes"):
            mix.prepare(connection)
            samples = int(str(registry_.one("select count(*) from bench_sample")))
            if title != "with all indexes":
                cursor.execute("""
                    select string_agg(format('drop index %s', indexrelid::regclass), '; '), string_agg(pg_get_indexdef(indexrelid), '; ')
                    from pg_index where indrelid = 'schemas'::regclass and not indisunique
                """)
                [(drop, create)] = cursor.fetchall()
                cursor.execute(drop)
            loads: dict[str, mix.Load] = {}

            def work(loads: dict[str, mix.Load], samples: int, name: str, statements: list[mix.Statement]) -> None:
                loads[name] = mix.run(
                    registry_.bin / "pgbench", registry_.dsn, registry_.directory / name, statements, clients=8, seconds=registry_.seconds, samples=samples
                )

            threads = [threading.Thread(target=work, args=(loads, samples, *arguments)) for arguments in (("writers", writes), ("readers", reads))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if title != "with all indexes":
                cursor.execute(create)
            (registered,) = (each for each in loads["writers"].latencies if each.statement.name == "13 register")
            rows.append(
                (
                    title,
                    f"{loads['writers'].per_second:,.0f}",
                    f"{loads['readers'].per_second:,.0f}",
                    loads["writers"].failed + loads["readers"].failed,
                    f"{registered.percentile(95):.1f} ms",
                )
            )
        mix.clean(connection)
    yield from table(("8 writers and 8 readers", "writes a second", "reads a second", "failed", "register, p95"), *rows)


TRIGGER = """
create function bench_refresh() returns trigger language plpgsql as $$ begin refresh materialized view subject_versions; return null; end $$;
create trigger bench_refresh after insert on schemas for each statement execute function bench_refresh();
"""


@benchmark
def registering(registry_: Registry) -> Iterator[str]:
    """Registering a schema in a registry of 1,000, and in this one; and with a trigger that refreshes the view, as one might think of first."""
    register = [each for each in mix.MIX if each.name == "13 register"]
    rows = []
    for title, trigger in (("scheduled refresh (ours)", False), ("refresh by a trigger", True)):
        p95 = []
        for small in (True, False):
            with registry_.connect() as connection, connection.cursor() as cursor:
                mix.prepare(connection)
                samples = int(str(registry_.one("select count(*) from bench_sample")))
                if small:
                    cursor.execute("alter table schemas rename to bench_schemas; create table schemas (like bench_schemas including all)")
                    cursor.execute("insert into schemas select * from bench_schemas limit 1000")
                    cursor.execute("alter materialized view subject_versions rename to bench_versions")
                    definition = str(registry_.one("select replace(pg_get_viewdef('bench_versions'::regclass), 'bench_schemas', 'schemas')"))
                    cursor.execute(f"create materialized view subject_versions as {definition}")
                if trigger:
                    cursor.execute(TRIGGER)
                try:
                    seconds = registry_.seconds if trigger else max(5, registry_.seconds // 2)
                    load = mix.run(
                        registry_.bin / "pgbench", registry_.dsn, registry_.directory / "register", register, clients=1, seconds=seconds, samples=samples
                    )
                finally:
                    if trigger:
                        cursor.execute("drop function bench_refresh() cascade")
                    if small:
                        cursor.execute("drop materialized view subject_versions; alter materialized view bench_versions rename to subject_versions")
                        cursor.execute("drop table schemas; alter table bench_schemas rename to schemas")
                    mix.clean(connection)
                p95.append(load.latencies[0].percentile(95))
        rows.append((title, f"{p95[0]:.2f} ms", f"{p95[1]:.2f} ms", f"{p95[1] / p95[0]:.2f} x"))
    yield from table(("register, p95", "of 1,000 schemas", "of all", "ratio"), *rows)


@benchmark
def refreshing(registry_: Registry) -> Iterator[str]:
    """The refresh of both views, and what readers and writers notice of it."""
    rows = []
    for view in ("subject_versions", "popular_schemas"):
        done = threading.Event()
        longest = {"read": 0.0, "write": 0.0}

        def look(done: threading.Event, longest: dict[str, float], kind: str, statement: str) -> None:
            with registry_.connect() as connection, connection.cursor() as cursor:
                while not done.is_set():
                    began = time.perf_counter()
                    cursor.execute(statement)
                    longest[kind] = max(longest[kind], time.perf_counter() - began)

        write = "update schemas set created_by = created_by where id = (select id from popular_schemas limit 1)"
        threads = [
            threading.Thread(target=look, args=(done, longest, *arguments)) for arguments in (("read", f"select * from {view} limit 10"), ("write", write))
        ]
        for thread in threads:
            thread.start()
        seconds = registry_.run(f"select refresh_{view}()")
        done.set()
        for thread in threads:
            thread.join()
        rows.append((view, f"{seconds:.2f} s", f"{longest['read'] * 1000:.0f} ms", f"{longest['write'] * 1000:.0f} ms"))
    statistics_ = registry_.run("select * from get_schema_statistics()")
    rows.append(("get_schema_statistics()", f"{statistics_:.2f} s", "", ""))
    yield from table(("refresh", "takes", "longest read meanwhile", "longest write meanwhile"), *rows)


class Watch:
    """Asks, many times a second, how old the oldest transaction of the owner's is, and how long anybody has been waiting for a lock."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._done = threading.Event()
        self.transaction = self.wait = 0.0

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        query = """
            select coalesce(max(extract(epoch from clock_timestamp() - xact_start)) filter (where query ilike 'call%%' or query ilike 'delete%%'
                            or query ilike 'drop%%' or query ilike '%%drop_chunks%%'), 0)
            from pg_stat_activity where pid <> pg_backend_pid() and state = 'active' and backend_type = 'client backend'
        """
        with closing(psycopg2.connect(self._dsn)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not self._done.wait(0.01):
                cursor.execute(query)
                [(transaction,)] = cursor.fetchall()
                self.transaction = max(self.transaction, float(transaction))


@contextmanager
def writers(dsn: str, waits: list[float]) -> Iterator[None]:
    """Somebody who records validations all the while: how long each of them took."""
    done = threading.Event()

    def write() -> None:
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("select id from schemas where deleted_at is null limit 1")
            [(schema,)] = cursor.fetchall()
            while not done.is_set():
                began = time.perf_counter()
                cursor.execute("insert into validation_history (schema_id, data_hash, valid, duration_ms) values (%s, repeat('0', 64), true, 1)", [schema])
                waits.append(time.perf_counter() - began)
                time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# Of a very large history only every so many-th row.
PARTITIONED = 10_000_000
PARTITIONS = """
alter table validation_history rename to bench_validation_history;
create table validation_history (like bench_validation_history including defaults including constraints) partition by range (validated_at);
create sequence bench_ids start 1000000000000;
alter table validation_history alter id set default nextval('bench_ids');
do $$
declare day date;
begin
    for day in select generate_series((select min(validated_at) from bench_validation_history)::date, now()::date + 1, interval '1 day') loop
        execute format('create table %I partition of validation_history for values from (%L) to (%L)', 'bench_' || to_char(day, 'YYYYMMDD'), day, day + 1);
    end loop;
end
$$;
insert into validation_history select * from bench_validation_history where id % {nth} = 0;
alter table validation_history add primary key (validated_at, id);
create index on validation_history (schema_id, validated_at);
create index on validation_history (duration_ms) where duration_ms > 100;
create index on validation_history (validated_at) where duration_ms > 100;
alter table validation_history add foreign key (schema_id) references schemas on delete cascade;
analyze validation_history;
"""
UNDO = "drop table validation_history; drop sequence bench_ids; alter table bench_validation_history rename to validation_history"


def _read(registry_: Registry) -> str:
    """The newest validations of schemas that are seldom validated, which have to be looked for everywhere: the median of some."""
    times = []
    with registry_.connect() as connection, connection.cursor() as cursor:
        cursor.execute("select id from schemas order by created_at limit 30")
        for (schema,) in cursor.fetchall():
            began = time.perf_counter()
            cursor.execute("select * from validation_history where schema_id = %s order by validated_at desc limit 50", [schema])
            cursor.fetchall()
            times.append(time.perf_counter() - began)
    return f"{statistics.median(times) * 1000:.1f} ms"


@benchmark
def retention(registry_: Registry) -> Iterator[str]:
    """A tenth of the history goes: from the plain table, from partitions by day, and from a hypertable where there is timescaledb."""
    rows = []

    def measure(title: str, *statements: str) -> None:
        read = _read(registry_)
        before = int(str(registry_.one("select count(*) from validation_history")))
        waits: list[float] = []
        with writers(registry_.dsn, waits), Watch(registry_.superuser) as watch:
            seconds = registry_.run(*statements)
        gone = before + len(waits) - int(str(registry_.one("select count(*) from validation_history")))
        rows.append(
            (title, f"{gone:,}", f"{gone / seconds:,.0f}", f"{max(waits) * 1000:.0f} ms", f"{watch.transaction * 1000:.0f} ms", read)
        )

    rows_ = int(str(registry_.one("select reltuples::bigint from pg_class where oid = 'validation_history'::regclass")))
    with registry_.connect() as connection, connection.cursor() as cursor:
        cursor.execute(PARTITIONS.format(nth=max(1, round(rows_ / PARTITIONED))))
        cursor.execute("select string_agg(format('drop table %s', oid::regclass), ';' order by relname) from pg_class where relname ~ '^bench_[0-9]{8}$'"
                       " and substr(relname, 7)::date < (now() - interval '90 days')::date")
        [(drops,)] = cursor.fetchall()
        measure("partitions by day, dropped", *str(drops).split(";"))
        cursor.execute(UNDO)
    if "timescaledb" in extensions.available(int(str(registry_.one("show server_version_num"))) // 10000):
        yield from _hypertable(registry_, measure)
    measure("plain table, batch by batch", "call purge_history('validation_history', 90)")
    vacuum = registry_.run("vacuum (analyze) validation_history")
    yield from table(("retention", "rows", "rows a second", "longest wait of a writer", "longest transaction", "read of a seldom used schema"), *rows)
    yield ""
    yield f"VACUUM of the plain table afterwards: {vacuum:.1f} s."


def _hypertable(registry_: Registry, measure: Callable[..., None]) -> Iterator[str]:
    with registry_.connect(registry_.superuser) as connection:
        connection.cursor().execute("create extension if not exists timescaledb")
    script = registry.SQL / "optional" / "timescaledb.sql"
    for kind in ("hypertable", "plain"):
        done = subprocess.run(
            [str(registry_.bin / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", registry_.dsn, "-f", str(script)],
            env={**os.environ, "PGOPTIONS": f"-c registry.history={kind} -c registry.chunk_days=1"},
            capture_output=True,
            text=True,
            check=True,
        )
        yield from (line.split("NOTICE:")[-1].strip() for line in done.stderr.splitlines() if "validation_history is" in line)
        if kind == "hypertable":
            with registry_.connect() as connection:
                connection.cursor().execute("create table bench_old as select * from validation_history where validated_at < now() - interval '91 days'")
            measure("hypertable by day, drop_chunks", "call purge_history('validation_history', 90)")
            with registry_.connect() as connection:
                # Back again, for the plain table to have as much to do.
                connection.cursor().execute("insert into validation_history overriding system value select * from bench_old on conflict do nothing")
                connection.cursor().execute("drop table bench_old")
    yield ""


def main() -> int:
    """Run what the command line asks for."""
    names = "\n".join(f"  {name:<12} {(function.__doc__ or '').strip()}" for name, function in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog=f"benchmarks:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help="what to measure; everything below, if none is named")
    parser.add_argument("--scale", type=float, default=0.1, help="the registry's size; 1 is a million schemas and a hundred million validations")
    parser.add_argument("--history", type=float, default=1, help="a fraction of the history that a registry of this size has, where only schemas matter")
    parser.add_argument("--seconds", type=int, default=60, help="how long each load lasts")
    parser.add_argument("--major", type=int, default=max(installed_majors(), default=0), help="PostgreSQL's major version")
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - {*BENCHMARKS}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")

    # So that `timeout` and the like leave no server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["PG_FSYNC"] = "on"
    preload = {"shared_preload_libraries": "timescaledb"} if "timescaledb" in extensions.available(arguments.major) else {}
    with tempfile.TemporaryDirectory() as scratch, Server(arguments.major, {**SETTINGS, **preload}) as server, server.database() as database:
        registry.migrate(database)
        began = time.perf_counter()
        with closing(database.connect()) as connection:
            for title, seconds in generator.fill(connection, generator.Size.at(arguments.scale, arguments.history)):
                print(f"{seconds:8.1f} s  {title}", file=sys.stderr, flush=True)
        size = f"PostgreSQL {arguments.major}, scale {arguments.scale:g}, history {arguments.history:g}"
        print(f"{size}: filled in {time.perf_counter() - began:.0f} s", flush=True)
        filled = Registry(database.dsn, server.dsn(database.name), server.bin, Path(scratch), arguments.seconds)
        measure(filled, arguments.names or [*BENCHMARKS])
    return 0


def measure(filled: Registry, names: list[str]) -> None:
    """Run benchmarks, and print what they come to as they come."""
    for name in names:
        print(f"\n### {name}: {(BENCHMARKS[name].__doc__ or '').strip()}\n", flush=True)
        for line in BENCHMARKS[name](filled):
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
