"""The registry's SQL, and a registry filled with data for the planner to think about."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict

from psycopg2.extras import RealDictCursor

if TYPE_CHECKING:
    from .postgres import Database

SQL = Path(__file__).parents[2] / "sql"
MIGRATIONS = SQL / "migrations"
VERIFY = SQL / "verify"
SAMPLES = SQL / "samples"
STATE = SQL.parent / "roles" / "maintenance" / "files" / "state.sql"
NAMES = sorted(path.name[: -len(".up.sql")] for path in MIGRATIONS.glob("*.up.sql"))


def up(name: str) -> Path:
    return MIGRATIONS / f"{name}.up.sql"


def down(name: str) -> Path:
    return MIGRATIONS / f"{name}.down.sql"


def verify(name: str) -> Path:
    return VERIFY / f"{name}.sql"


def migrate(database: Database, count: int = len(NAMES)) -> None:
    """Apply the first `count` migrations, each in a transaction of its own."""
    for name in NAMES[:count]:
        database.psql(up(name))


def fill(database: Database, *, schemas: int, subjects: int, validations: int) -> None:
    """Fill a migrated registry: subjects of very different size, pre-releases, all states, months of history."""
    database.execute(f"""
        select setseed(0.5);

        insert into public.schemas (subject, version_major, version_minor, version_patch, version_prerelease,
                                    schema_type, content, metadata, created_at, compatibility_level, deleted_at)
        select
            format('team-%s.topic-%s.value', subject % 40, subject),
            place / 50, place / 5 % 10, place % 5,
            case when place % 6 = 0 then 'rc.' || place % 4 end,
            (array['JSON', 'JSON', 'AVRO', 'PROTOBUF', 'THRIFT'])[1 + n % 5],
            jsonb_build_object('type', 'record', 'name', 'Record' || n % 5000, 'field', n),
            jsonb_build_object(
                'state', case when n % 49 = 0 then 'DRAFT' when n % 10 = 0 then 'DEPRECATED' else 'ACTIVE' end,
                'owner', 'owner-' || subject % 200,
                'tags', jsonb_build_array('tag-' || n % 300, 'common'),
                'compatibility_level', case when n % 499 = 0 then 'FORWARD' else 'BACKWARD' end
            ),
            now() - n * interval '1 minute',
            'BACKWARD',
            case when n % 25 = 0 then now() - n * interval '30 seconds' end
        from (
            select n, subject, row_number() over (partition by subject order by n) as place
            from (select n, floor(power(random(), 2) * {subjects})::integer as subject from generate_series(1, {schemas}) n) as drawn
        ) as placed
        order by n desc; -- as time goes: the order of the table and that of created_at are much the same

        create temporary table numbered as select row_number() over (order by id) as n, id, subject from public.schemas;
        create unique index on numbered (n);
        create temporary table event as
            select n, 1 + floor(power(random(), 3) * {schemas}) as schema, now() - n * interval '30 days' / {validations} as at
            from generate_series(1, {validations}) n;
        analyze numbered, event;

        insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type)
        select a.id, b.id, 'reference' from numbered a join numbered b on b.n in (a.n / 3, a.n / 7) and b.n <> a.n;

        insert into public.validation_history (schema_id, data_hash, valid, error_count, validated_at, duration_ms)
        select numbered.id, encode(sha256(event.n::text::bytea), 'hex'), event.n % 20 > 0, (event.n % 20 = 0)::integer, at,
               case when event.n % 500 = 0 then 100 + event.n % 97 else random() * 20 end
        from event join numbered on numbered.n = schema;

        insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible, checked_at)
        select subject, '1.0.0', '1.1.0', 'BACKWARD', true, now() - n * interval '10 minutes' from numbered;

        insert into public.schema_access_log (schema_id, accessed_at, response_time_ms)
        select numbered.id, at, random() * 10 from event join numbered on numbered.n = schema;
    """)
    vacuum(database)
    database.execute("select public.refresh_subject_versions(), public.refresh_popular_schemas()")
    vacuum(database)


def vacuum(database: Database) -> None:
    """Bring statistics and visibility map up to date: plans depend on them."""
    connection = database.connect()
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        # A session that has just ended may still be taking its temporary tables away, which the command may find and miss.
        others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        for _attempt in range(100):
            cursor.execute(others)
            if cursor.fetchone() == (0,):
                break
            time.sleep(0.05)
        cursor.execute("vacuum (analyze)")
    finally:
        connection.close()


def maintenance_state(database: Database, prefix: str = "schema-registry-5432-registry", etc: Path = Path("/etc")) -> Dict[str, Any]:
    """What the role maintenance finds; `etc` is another place for the files of its timers."""
    query = STATE.read_text().replace("'/etc/", f"'{etc}/")
    connection = database.connect(user="postgres")
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(query, {"prefix": prefix, "script": "/nowhere", "schedules": "{}"})
            [state] = cursor.fetchall()
            return dict(state)
    finally:
        connection.close()
