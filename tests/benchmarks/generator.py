"""Fill a migrated registry with data like a real one's: made by the server itself, set by set.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/generator.py DSN --scale 0.01        the DSN is the owner's

Scale 1 is the full size: a million schemas, a hundred million validations. Indexes, keys and foreign keys are taken off while rows
are loaded, and put on again afterwards: that is several times as fast, and leaves indexes as tight as a rebuilt one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import connection as Connection

BATCH = 5_000_000
HISTORY = ("validation_history", "compatibility_checks", "schema_access_log")
LOADED = ("schemas", "schema_dependencies", *HISTORY)


@dataclass(frozen=True)
class Size:
    """How much there is of everything."""

    schemas: int
    subjects: int
    validations: int
    accesses: int
    days: int = 100
    """The history's extent: a tenth of it is older than the 90 days that are kept."""

    @classmethod
    def at(cls, scale: float, history: float = 1) -> Size:
        """The size of a registry, where 1 is the full size, and of its history, where 1 is what such a registry has."""
        schemas = max(1000, round(1_000_000 * scale))
        return cls(schemas, max(20, schemas // 50), round(schemas * 100 * history), round(schemas * 10 * history))


@dataclass(frozen=True)
class Step:
    """Statements that are run together."""

    title: str
    sql: str
    autocommit: bool = False


# The subjects' sizes are skewed (the largest has most of a percent of all versions), and so are uses of schemas.
_SCHEMAS = """
insert into public.schemas (subject, version_major, version_minor, version_patch, version_prerelease, version_build, schema_type,
                            content, metadata, created_at, created_by, compatibility_level, deleted_at)
select
    format('team-%s.topic-%s.%s', subject % 400, subject, case when subject % 3 = 0 then 'key' else 'value' end),
    place / 50, place / 5 % 10, place % 5,
    case when place % 6 = 0 then (array['alpha.', 'beta.', 'rc.'])[1 + place % 3] || place % 4 end,
    case when place % 50 = 49 then 'build.' || n % 1000 end,
    (array['JSON', 'JSON', 'AVRO', 'PROTOBUF', 'THRIFT'])[1 + subject % 5],
    jsonb_build_object(
        'type', 'record', 'name', 'Record' || subject, 'namespace', 'org.example.team' || subject % 400,
        'fields', jsonb_build_array(
            jsonb_build_object('name', 'id', 'type', 'string'),
            jsonb_build_object('name', 'created_at', 'type', jsonb_build_object('type', 'long', 'logicalType', 'timestamp-millis')),
            jsonb_build_object('name', 'field_' || n % 997, 'type', 'string', 'doc', 'What was measured by sensor ' || n % 5000),
            jsonb_build_object('name', 'field_' || n % 1009, 'type', jsonb_build_array('null', 'double'), 'default', null),
            jsonb_build_object('name', 'field_' || n % 1013, 'type', 'int', 'default', n % 100)
        )
    ),
    jsonb_build_object(
        'state', case when deleted then 'DELETED' when n % 49 = 0 then 'DRAFT' when n % 10 = 0 then 'DEPRECATED' else 'ACTIVE' end,
        'owner', 'owner-' || subject % 2000,
        'tags', jsonb_build_array('tag-' || n % 3000, 'domain-' || subject % 50, case when n % 3 = 0 then 'pii' else 'common' end),
        'compatibility_level', level,
        'description', 'Version ' || place || ' of what team ' || subject % 400 || ' says'
    ),
    made, 'user-' || n % 500, level,
    case when deleted then made + (now() - made) * ((n / 25 % 10 + 1) / 11.0) end
from (
    select n, subject, row_number() over (partition by subject order by n desc) as place, n % 25 = 0 as deleted,
           now() - n * (interval '2 years' / {schemas}) as made,
           (array['BACKWARD', 'BACKWARD', 'BACKWARD', 'FULL', 'NONE', 'BACKWARD_TRANSITIVE', 'FORWARD'])[1 + subject % 7] as level
    from (select n, floor(power(random(), 2) * {subjects})::integer as subject from generate_series(1, {schemas}) as n) as drawn
) as placed
order by n desc
"""

# By the order of their making: the later ones depend on earlier ones, in chains of up to twelve.
_DEPENDENCIES = """
create unlogged table public.bench_numbered as
    select (row_number() over (order by created_at))::integer as n, id, subject from public.schemas;
alter table public.bench_numbered add primary key (n);
analyze public.bench_numbered;
insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type)
select one.id, other.id, (array['reference', 'import', 'extends'])[1 + one.n % 3]
from public.bench_numbered as one
join public.bench_numbered as other on other.n in (one.n / 3, one.n / 7) and other.n <> one.n
where one.n % 4 > 0
"""

_SUBJECTS = """
insert into public.subjects (name, default_compatibility_level, tags)
select distinct subject, 'BACKWARD', array['generated'] from public.schemas
"""

_EVENT = """public.bench_numbered join (
    select n as event, 1 + floor(power(random(), 3) * {schemas})::integer as n from generate_series({first}, {last}) as n
) as drawn using (n)"""
_MOMENT = "now() - ({total} - event) * (interval '{days} days' / {total})"

_VALIDATIONS = f"""
insert into public.validation_history (schema_id, data_hash, valid, error_count, validated_at, duration_ms)
select id, encode(sha256(event::text::bytea), 'hex'), event % 20 > 0, case when event % 20 = 0 then 1 + event % 3 else 0 end, {_MOMENT},
       case when event % 500 = 0 then 100 + event % 977 else round((2 + random() * 20)::numeric, 3) end
from {_EVENT}
"""

_ACCESSES = f"""
insert into public.schema_access_log (schema_id, access_count, accessed_at, response_time_ms)
select id, 1 + event % 5, {_MOMENT}, case when event % 7 > 0 then random() * 10 end
from {_EVENT}
"""

_CHECKS = """
insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible, violations, checked_at)
select subject, '1.0.0', '1.1.0', 'BACKWARD', n % 9 > 0, case when n % 9 = 0 then '[{{"path": "/fields/2", "kind": "removed"}}]'::jsonb end,
       now() - ({schemas} - n) * (interval '{days} days' / {schemas})
from public.bench_numbered order by n
"""


def steps(size: Size) -> Iterator[Step]:
    """Everything between the indexes' going and coming."""
    numbers = {"schemas": size.schemas, "subjects": size.subjects, "days": size.days}
    yield Step("schemas", f"select setseed(0.5); {_SCHEMAS.format(**numbers)}")
    yield Step("dependencies", _DEPENDENCIES)
    yield Step("subjects", _SUBJECTS)
    yield Step("compatibility checks", _CHECKS.format(**numbers))
    for title, statement, total in (("validations", _VALIDATIONS, size.validations), ("accesses", _ACCESSES, size.accesses)):
        for first in range(1, total + 1, BATCH):
            last = min(first + BATCH - 1, total)
            yield Step(f"{title} {first:,} to {last:,}", statement.format(**numbers, total=total, first=first, last=last))


_REMEMBERED = """
select format('alter table %%s drop constraint %%I cascade', conrelid::regclass, conname),
       format('alter table %%s add constraint %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)), contype::text as kind, conname::text as name
from pg_constraint where conrelid = any (%(tables)s::regclass[]) and (contype = 'f' or contype = 'p' and conrelid <> 'public.schemas'::regclass)
union all
select format('drop index %%s', indexrelid::regclass), pg_get_indexdef(indexrelid), 'i', indexrelid::regclass::text
from pg_index where indrelid = any (%(tables)s::regclass[]) and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u'))
"""
_COMMENTS = """
select format('comment on index %%s is %%L', indexrelid::regclass, obj_description(indexrelid))
from pg_index where indrelid = any (%(tables)s::regclass[]) and obj_description(indexrelid) is not null
"""


def fill(connection: Connection, size: Size) -> Iterator[tuple[str, float]]:
    """Fill the database of the connection; what was done, and how many seconds it took, come one by one."""
    connection.autocommit = True
    cursor = connection.cursor()
    tables = {"tables": [f"public.{table}" for table in LOADED]}
    cursor.execute("set maintenance_work_mem = '1GB'; set work_mem = '256MB'; set max_parallel_maintenance_workers = 2")
    cursor.execute(_REMEMBERED, tables)
    # Foreign keys go before the keys that they need, and come after them.
    remembered = sorted(cursor.fetchall(), key=lambda row: "fip".index(row[2]))
    cursor.execute(_COMMENTS, tables)
    comments = [comment for (comment,) in cursor.fetchall()]

    def run(step: Step) -> tuple[str, float]:
        began = time.perf_counter()
        cursor.execute(step.sql)
        return step.title, time.perf_counter() - began

    for drop, _unused, _unused, _unused in remembered:
        cursor.execute(drop)
    for step in steps(size):
        yield run(step)
    for _unused, create, kind, name in reversed(remembered):
        yield run(Step(f"{'foreign key' if kind == 'f' else 'index'} {name}", create))
    for comment in comments:
        cursor.execute(comment)
    cursor.execute("drop table public.bench_numbered")
    for table in (*LOADED, "subjects"):
        yield run(Step(f"vacuum {table}", f"vacuum (analyze) public.{table}"))
    for view in ("subject_versions", "popular_schemas"):
        yield run(Step(f"refresh {view}", f"select public.refresh_{view}()"))
        yield run(Step(f"vacuum {view}", f"vacuum (analyze) public.{view}"))


def main() -> None:
    """Fill the database that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dsn")
    parser.add_argument("--scale", type=float, default=0.1)
    arguments = parser.parse_args()
    connection = psycopg2.connect(arguments.dsn)
    try:
        for title, seconds in fill(connection, Size.at(arguments.scale)):
            print(f"{seconds:8.1f} s  {title}", flush=True)
    finally:
        connection.close()


if __name__ == "__main__":
    main()
