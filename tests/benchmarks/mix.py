"""The service's statements, as pgbench runs them: which, how often, and how fast each has to be."""

from __future__ import annotations

import math
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import connection as Connection

VERSION = "version_major, version_minor, version_patch"
NEWEST = "version_major desc, version_minor desc, version_patch desc"


@dataclass(frozen=True)
class Statement:
    """One statement; :id, :subject, :owner and the like are filled in from a table of samples, so that what is read differs every time."""

    name: str
    weight: int
    sql: str
    goal: str = ""
    """What it is measured by: read, write or search; empty where there is nothing to reach."""


# The first two are what the others are measured by, in the same run.
KEY_LOOKUP, KEY_UPDATE = "lookup by primary key", "update by primary key"

MIX = (
    Statement(KEY_LOOKUP, 20, "select name from bench_key where id = :key;"),
    Statement(KEY_UPDATE, 4, "update bench_key set name = name where id = :key;"),
    Statement("1 a schema by id", 20, "select * from schemas where id = :id;", goal="read"),
    Statement(
        "2 a version of a subject",
        10,
        f"select * from schemas where subject = :subject and ({VERSION}) = (:major, :minor, :patch) and deleted_at is null;",
        goal="read",
    ),
    Statement(
        "3 the latest version",
        15,
        f"select id, subject, {VERSION} from schemas where subject = :subject and deleted_at is null order by {NEWEST} limit 1;",
        goal="read",
    ),
    Statement(
        "4 versions of a subject, 50 newest",
        6,
        f"select id, {VERSION} from schemas where subject = :subject and deleted_at is null order by {NEWEST} limit 50;",
        goal="read",
    ),
    Statement("5 all subjects", 1, "select distinct subject from schemas where deleted_at is null order by subject;"),
    Statement(
        "6 search by part of the subject",
        2,
        "select * from schemas where subject ilike :part and deleted_at is null order by created_at desc limit 50;",
        goal="search",
    ),
    Statement(
        "6 search by owner and state",
        2,
        "select * from schemas where metadata->>'owner' = :owner and metadata->>'state' = 'ACTIVE' and deleted_at is null"
        " order by created_at desc limit 50;",
        goal="search",
    ),
    Statement(
        "6 search by tag and type, by subject",
        2,
        "select * from schemas where metadata->'tags' ? :tag and schema_type = 'JSON' and deleted_at is null order by subject limit 50;",
        goal="search",
    ),
    Statement(
        "6 search by a common state, newest first",
        2,
        "select * from schemas where metadata->>'state' = 'ACTIVE' and deleted_at is null order by created_at desc limit 50 offset 50;",
        goal="search",
    ),
    Statement(
        "7 the latest ACTIVE version",
        4,
        f"select * from schemas where subject = :subject and metadata->>'state' = 'ACTIVE' and deleted_at is null order by {NEWEST} limit 1;",
        goal="read",
    ),
    Statement(
        "8 containment in metadata", 1, "select id from schemas where metadata @> :contained limit 50;", goal="search"
    ),
    Statement(
        "9 dependencies, to any depth",
        2,
        "with recursive needed as (select depends_on_id as id from schema_dependencies where schema_id = :id"
        " union select depends_on_id from needed join schema_dependencies on schema_id = needed.id) select id from needed;",
    ),
    Statement(
        "9 dependents, to depth 3",
        1,
        "with recursive dependent as (select schema_id as id, 1 as depth from schema_dependencies where depends_on_id = :id"
        " union select schema_id, depth + 1 from dependent join schema_dependencies on depends_on_id = dependent.id where depth < 3)"
        " select id from dependent;",
    ),
    Statement(
        "10 validations of a schema, newest first",
        4,
        "select * from validation_history where schema_id = :id order by validated_at desc limit 50;",
    ),
    Statement(
        "10 slow validations, newest first",
        1,
        "select * from validation_history where duration_ms > 100 order by validated_at desc limit 50;",
    ),
    Statement(
        "11 checks of a subject, newest first", 2, "select * from compatibility_checks where subject = :subject order by checked_at desc limit 50;"
    ),
    Statement("12 accesses to a schema, newest first", 2, "select * from schema_access_log where schema_id = :id order by accessed_at desc limit 50;"),
    Statement("12 the most used schemas", 2, "select * from popular_schemas order by access_count desc limit 50;"),
    Statement(
        "13 soft delete",
        1,
        "update schemas set deleted_at = now(), metadata = jsonb_set(metadata, '{state}', '\"DELETED\"') where id = :id and deleted_at is null;",
        goal="write",
    ),
    Statement(
        "13 change of state", 2, "update schemas set metadata = jsonb_set(metadata, '{state}', '\"DEPRECATED\"') where id = :id;", goal="write"
    ),
    Statement(
        "13 register",
        3,
        f"insert into schemas (subject, {VERSION}, schema_type, content, metadata, compatibility_level, created_by)"
        " values (:subject, nextval('bench_version'), 0, 0, 'JSON', :content, :metadata, 'FULL', 'bench');",
    ),
    Statement(
        "record a validation",
        10,
        "insert into validation_history (schema_id, data_hash, valid, duration_ms) values (:id, repeat('0', 64), true, 3.5);",
    ),
)

# What the statements are filled in with. Each script first fetches its sample; what that takes is measured too, and subtracted.
COLUMNS = {
    "id": "drawn.id",
    "subject": "drawn.subject",
    "major": "version_major",
    "minor": "version_minor",
    "patch": "version_patch",
    "owner": "metadata->>'owner'",
    "part": "'%%topic-' || split_part(split_part(drawn.subject, 'topic-', 2), '.', 1) || '.%%'",
    "tag": "metadata->'tags'->>0",
    "contained": "jsonb_build_object('owner', metadata->'owner', 'tags', jsonb_build_array(metadata->'tags'->0))",
    "content": "drawn.content",
    "metadata": "drawn.metadata",
    "key": "bench_key.id",
}
SAMPLES = f"""
drop table if exists bench_sample, bench_key;
drop sequence if exists bench_version;
create sequence bench_version;
select setval('bench_version', (select max(version_major) + 1 from schemas));
create table bench_key (n integer, id uuid primary key, name text);
insert into bench_key select n, uuid_generate_v4(), 'name ' || n from generate_series(1, %(schemas)s) as n;
create table bench_sample as
    select (row_number() over ())::integer as n, {", ".join(f"{expression} as {name}" for name, expression in COLUMNS.items())}
    from (select *, 1 + floor(random() * %(schemas)s)::integer as key from schemas tablesample system (%(percent)s)
          where deleted_at is null order by random() limit %(samples)s) as drawn
    join bench_key on bench_key.n = drawn.key;
alter table bench_sample add primary key (n);
"""
SAMPLED = 10_000
FETCH = "fetch a sample"


def prepare(connection: Connection) -> None:
    """Draw the samples."""
    cursor = connection.cursor()
    cursor.execute("select count(*) from schemas")
    [(schemas,)] = cursor.fetchall()
    # Ten times as many as are wanted are read: pages are drawn, not rows.
    percent = min(100.0, 1000.0 * SAMPLED / schemas)
    cursor.execute(SAMPLES, {"schemas": schemas, "percent": percent, "samples": SAMPLED})
    for table in ("bench_sample", "bench_key"):
        cursor.execute(f"vacuum (analyze) {table}")


def clean(connection: Connection) -> None:
    """Leave the registry without what was prepared."""
    connection.cursor().execute("drop table if exists bench_sample, bench_key; drop sequence if exists bench_version")


@dataclass(frozen=True)
class Latencies:
    """How long one statement took, in milliseconds, each time it ran."""

    statement: Statement
    times: Sequence[float]

    def percentile(self, percent: float) -> float:
        """The time within which so many of them were done."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


@dataclass(frozen=True)
class Load:
    """What a run of pgbench came to."""

    latencies: list[Latencies]
    per_second: float
    failed: int
    """Transactions that ended in an error: a deadlock, a serialization failure, anything."""


def run(
    pgbench: Path, dsn: str, directory: Path, statements: Sequence[Statement], *, clients: int, seconds: int, samples: int, rate: int | None = None
) -> Load:
    """Run the statements by their weights, for so many seconds, and time each of them."""
    directory.mkdir(parents=True, exist_ok=True)
    fetch = Statement(FETCH, max(1, sum(statement.weight for statement in statements) // 20), "")
    scripts = []
    for number, statement in enumerate((fetch, *statements)):
        script = directory / f"{number}.sql"
        names = ", ".join(name for name in COLUMNS if name == "n" or f":{name}" in statement.sql) or "id"
        script.write_text(f"\\set i random(1, {samples})\nselect {names} from bench_sample where n = :i \\gset\n{statement.sql}\n", encoding="utf-8")
        scripts.append(f"--file={script}@{statement.weight}")
    for old in directory.glob("log.*"):
        old.unlink()
    done = subprocess.run(
        [
            *(str(pgbench), dsn, "--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=2", f"--time={seconds}"),
            *("--log", f"--log-prefix={directory / 'log'}", "--failures-detailed", *scripts),
            *((f"--rate={rate}",) if rate else ()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"pgbench ended with {done.returncode}: {done.stderr}")
    times: dict[int, list[float]] = defaultdict(list)
    failed = 0
    for log in directory.glob("log.*"):
        for line in log.read_text(encoding="ascii").splitlines():
            _client, _number, microseconds, script_number, *_when = line.split()
            if microseconds.isdigit():
                times[int(script_number)].append(int(microseconds) / 1000)
            else:
                failed += 1
    fetching = Latencies(fetch, times[0]).percentile(50)
    latencies = [
        Latencies(statement, [max(0.001, time - fetching) for time in times[number]]) for number, statement in enumerate(statements, 1)
    ]
    return Load(latencies, sum(map(len, times.values())) / seconds, failed)
