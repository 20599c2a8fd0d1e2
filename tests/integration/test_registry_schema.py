"""The registry's migrations: the way up, the way back, their verification, and what the schema lets in and whom."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from typing import Iterator, Set

import psycopg2
import pytest
from psycopg2 import errors
from support import registry
from support.postgres import Database, PsqlError, Server

EXTENSIONS = ("uuid-ossp", "pg_trgm", "btree_gin")
READONLY = "schema_registry_readonly"
INITIAL, INDEXES = registry.NAMES
TABLES = {
    "schemas",
    "schema_dependencies",
    "subjects",
    "validation_history",
    "compatibility_checks",
    "subject_versions",
    "schema_access_log",
    "popular_schemas",
}


def surroundings(database: Database) -> str:
    """All that a migration may change: the database's schema, and the server's roles with their comments."""
    roles = database.execute("select rolname, shobj_description(oid, 'pg_authid') from pg_roles order by 1")
    return f"{database.dump()}\n{roles}"


def apply_and_verify(database: Database, up: str, verification: str) -> None:
    """What the migration engine does: the verification sees the migration's transaction, and leaves nothing in it."""
    database.psql(f"{up}\nsavepoint verification;\n{verification}\nrollback to savepoint verification;")


def exists(database: Database, role: str) -> bool:
    return database.execute("select count(*) from pg_roles where rolname = %s", [role]) == [(1,)]


@pytest.fixture
def no_role(server: Server) -> Iterator[None]:
    """Roles belong to the server, not to a database: whoever makes the read-only role, it goes after the test."""
    yield
    server.execute(f"drop role if exists {READONLY}")


@pytest.fixture
def readonly(no_role: None, server: Server) -> None:
    """The read-only role, made by somebody else. Name it before `database`, whose objects depend on it."""
    server.execute(f"create role {READONLY}")


@pytest.fixture(params=["bare", "extensions", "role", "createrole"])
def prepared(request: pytest.FixtureRequest, no_role: None, server: Server) -> Iterator[Database]:
    """The databases that the migrations may meet: bare, with extensions or role from somebody else, owned by one who may create roles."""
    if request.param == "role":
        server.execute(f"create role {READONLY}")
    with server.database(owner_options="createrole" if request.param == "createrole" else "") as database:
        if request.param == "extensions":
            for extension in EXTENSIONS:
                database.execute(f'create extension "{extension}"', user="postgres")
        yield database


@pytest.fixture
def migrated(readonly: None, database: Database) -> Database:
    """A migrated registry whose server has the read-only role."""
    registry.migrate(database)
    return database


def test_down_restores_exactly_what_was(prepared: Database) -> None:
    stairs = [surroundings(prepared)]
    for name in registry.NAMES:
        prepared.psql(registry.up(name))
        stairs.append(surroundings(prepared))
    assert len(set(stairs)) == len(stairs)

    for name, before in zip(reversed(registry.NAMES), reversed(stairs[:-1])):
        prepared.psql(registry.down(name))
        assert surroundings(prepared) == before
    for name, after in zip(registry.NAMES, stairs[1:]):
        prepared.psql(registry.up(name))
        assert surroundings(prepared) == after
    for name in reversed(registry.NAMES):
        prepared.psql(registry.down(name))
    assert surroundings(prepared) == stairs[0]


@pytest.mark.parametrize("name", registry.NAMES)
def test_down_announces_what_it_loses(database: Database, name: str) -> None:
    relations = "select relname, relkind from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'm')"
    for earlier in registry.NAMES[: registry.NAMES.index(name) + 1]:
        database.psql(registry.up(earlier))
    before = set(database.execute(relations))
    database.psql(registry.down(name))
    lost = before - set(database.execute(relations))

    announcement = registry.down(name).read_text().splitlines()[0]
    kinds = {"r": "table", "m": "view"}
    assert announcement.startswith("-- data-loss: ")
    assert set(announcement[len("-- data-loss: ") :].split(", ")) == {f"{kinds[kind]} {relname}" for relname, kind in lost}


def test_an_extension_that_others_use_stays(database: Database) -> None:
    database.psql(registry.up(INITIAL))
    database.execute("create table other (id uuid default public.uuid_generate_v4())")
    assert "extension uuid-ossp stays" in database.psql(registry.down(INITIAL))
    assert [name for (name,) in database.execute("select extname from pg_extension where extname <> 'plpgsql'")] == ["uuid-ossp"]


def test_an_extension_that_belongs_to_somebody_else_stays(database: Database) -> None:
    """A superuser brought the first migration in, or a dump of what it had made: the marked extensions are his then."""
    for extension in EXTENSIONS:
        database.execute(f"""
            create extension "{extension}";
            comment on extension "{extension}" is 'made by migration 20240101000001_initial_schema; its down script drops it'
        """, user="postgres")
    before = database.dump()
    database.psql(registry.up(INITIAL))
    said = database.psql(registry.down(INITIAL))
    for extension in EXTENSIONS:
        assert f"extension {extension} stays: must be owner of extension {extension}" in said
    assert database.dump() == before


def test_the_last_database_takes_its_role_along(no_role: None, server: Server) -> None:
    with server.database(owner_options="createrole") as one:
        one.psql(registry.up(INITIAL))
        # The second owner did not make the role, and PostgreSQL 16 and later would not let it drop it.
        with server.database() as other:
            other.psql(registry.up(INITIAL))
            assert f"role {READONLY} stays" in one.psql(registry.down(INITIAL))
            other.psql(registry.down(INITIAL))
            assert exists(one, READONLY)
        one.psql(registry.up(INITIAL))
        one.psql(registry.down(INITIAL))
        assert not exists(one, READONLY)


def test_an_unusual_name_of_the_owner_is_no_matter(no_role: None, server: Server) -> None:
    with server.database(owner_options="createrole") as database:
        server.execute(f'alter role {database.owner} rename to "Öwner of ""{database.owner}"""')
        try:
            named = replace(database, owner=f'Öwner of "{database.owner}"')
            before = surroundings(named)
            registry.migrate(named)
            for name in reversed(registry.NAMES):
                named.psql(registry.down(name))
            assert surroundings(named) == before
        finally:
            server.execute(f'alter role "Öwner of ""{database.owner}""" rename to {database.owner}')


def test_a_role_with_members_stays(no_role: None, server: Server) -> None:
    with server.database(owner_options="createrole") as database:
        database.psql(registry.up(INITIAL))
        server.execute(f"create role auditor in role {READONLY}")
        try:
            assert f"role {READONLY} stays" in database.psql(registry.down(INITIAL))
        finally:
            server.execute("drop role auditor")


def test_a_missing_role_is_worth_a_notice(database: Database) -> None:
    assert f"NOTICE:  role {READONLY} does not exist" in database.psql(registry.up(INITIAL))


def test_verification_passes_and_leaves_nothing(prepared: Database) -> None:
    for name in registry.NAMES:
        apply_and_verify(prepared, registry.up(name).read_text(), registry.verify(name).read_text())
    verified = prepared.dump(data=True)
    for name in reversed(registry.NAMES):
        prepared.psql(registry.down(name))
    registry.migrate(prepared)
    # But for the sequences: what is taken from them is not given back.
    counters = re.compile(r"^SELECT pg_catalog.setval.*$", flags=re.MULTILINE)
    assert counters.sub("", verified) == counters.sub("", prepared.dump(data=True))


# What several of the functions begin with.
AGE_CHECK = """\
if retention_days is null or retention_days < 0 then
        raise exception 'retention_days must be 0 or more, not %', coalesce(retention_days::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    """

HISTORY = "public.purge_history(text, integer, bigint, integer)"
DELETED = "public.purge_deleted_schemas(integer, bigint, integer)"

# A mistake in a migration, and the word with which its verification must refuse it.
MISTAKES = [
    (INITIAL, "schemas_subject_version_key", "create unique index schemas_subject_version_key", "create index schemas_subject_version_key"),
    (INITIAL, "schemas_subject_version_key", "if coalesce(prerelease, '') = '' then", "if prerelease is null then"),
    (INITIAL, "schemas_subject_version_key", "coalesce(build, '')", "coalesce(build, ' ')"),
    (INITIAL, "schemas_schema_type_check", "'JSON', 'AVRO', 'PROTOBUF', 'THRIFT')", "'JSON', 'AVRO', 'PROTOBUF', 'THRIFT', 'XML')"),
    (INITIAL, "schemas_metadata_state_check", "('ACTIVE', 'DEPRECATED', 'DELETED', 'DRAFT')),", "('ACTIVE', 'DEPRECATED', 'DELETED', 'DRAFT', 'GONE')),"),
    (INITIAL, "schemas_version_prerelease_check", "(0|[1-9][0-9]*|", "([0-9]+|"),
    (INITIAL, "validation_history_data_hash_check", "length(data_hash) = 64", "length(data_hash) <= 64"),
    (INITIAL, "validation_history_data_hash_check", " and data_hash !~ '[^0-9A-Fa-f]'", ""),
    (INITIAL, "validation_history_duration_ms_check", "duration_ms >= 0 and duration_ms < 'infinity'", "duration_ms >= 0"),
    (INITIAL, "defaults of schemas", "metadata jsonb not null default '{}'", "metadata jsonb not null default '{\"state\": \"DRAFT\"}'"),
    (INITIAL, "updated_at does not move", "new.updated_at := clock_timestamp()", "new.updated_at := now()"),
    (INITIAL, "versions of a subject are listed as", "if identifier ~ '^[0-9]+$' then", "if false then"),
    (INITIAL, "versions of a subject are listed as", "key := '\\xff'", "key := '\\x00'"),
    (INITIAL, "versions of a subject are listed as", "    where deleted_at is null\n) as numbered", ") as numbered"),
    (INITIAL, "misses the highest version", "max(version_minor) filter (where place = 1)", "max(version_minor)"),
    (INITIAL, "misses the highest version", "max(created_at) filter (where place = 1)", "max(created_at)"),
    (INITIAL, "cannot refresh materialized view", "create unique index subject_versions_subject_key", "create index subject_versions_subject_key"),
    (INITIAL, "does not keep 90 days", "default 90", "default 30"),
    (INITIAL, "was not refused", "if retention_days is null or retention_days < 0 then", "if retention_days is null then"),
    (INITIAL, "counts wrongly", "where deleted_at is not null or metadata", "where metadata"),
    (INITIAL, "violates foreign key constraint", "(depends_on_id) references public.schemas on delete cascade", "(depends_on_id) references public.schemas"),
    (INITIAL, "everybody may call", "revoke execute on function", "-- revoke execute on function"),
    (INITIAL, "may not read", "grant select\n        on public.schemas, public.schema_dependencies,", "grant select\n        on public.schemas,"),
    (INITIAL, "may not read tables that come later", "in schema public grant select on tables", "in schema public grant insert on tables"),
    (INITIAL, "may write", "    grant select\n        on public.schemas", "    grant all\n        on public.schemas"),
    (INDEXES, "defaults of schema_access_log", "access_count integer not null default 1", "access_count integer not null default 2"),
    (INDEXES, "schema_access_log_access_count_check", "check (access_count > 0)", "check (access_count >= 0)"),
    (INDEXES, "popular_schemas lists", "where schemas.deleted_at is null", "where true"),
    (INDEXES, "popular_schemas lists", "interval '7 days'\n", "interval '9 days'\n"),
    (INDEXES, "popular_schemas ", "sum(access_count) as access_count", "count(*) as access_count"),
    (INDEXES, "popular_schemas sums up wrongly", "sum(response_time_ms * access_count)", "sum(response_time_ms)"),
    (INDEXES, "cannot refresh materialized view", "create unique index popular_schemas_id_key", "create index popular_schemas_id_key"),
    (INDEXES, "is missing or invalid", "create index schemas_live_subject_idx", "create index schemas_live_subjects_idx"),
    (INDEXES, "Index Only Scan using schemas_live_version_idx", "include (id, version_prerelease, ", "include (version_prerelease, "),
    (INDEXES, "Index Only Scan using schemas_live_version_idx", "version_minor desc,", "version_minor,"),
    (INDEXES, "schemas_live_search_idx is not what searches need", "    (metadata->>'owner'),\n", ""),
    (INDEXES, "schemas_containment_idx", "gin (metadata jsonb_path_ops, ", "gin ("),
    (INDEXES, "schemas_deleted_at_idx", "where deleted_at is not null", "where deleted_at is null"),
    (INDEXES, "validation_history_slow_idx", "where duration_ms > 100", "where duration_ms > 1000"),
    (INDEXES, "everybody may call", "revoke execute on function", "-- revoke execute on function"),
    (INDEXES, "index validation_history_slow_recent_idx is missing",
     "create index validation_history_slow_recent_idx", "create index validation_history_slow_late_idx"),
    (INDEXES, "validation_history_slow_recent_idx", "(validated_at) where duration_ms > 100", "(validated_at) where duration_ms > 1000"),
    (INDEXES, "statistics schemas_search_stats are of",
     "(metadata->>'owner'), (metadata->>'state'), (metadata->>'compatibility_level')\nfrom", "(metadata->>'owner'), (metadata->>'state')\nfrom"),
    (INDEXES, "statistics schemas_search_stats do not list", "public.schemas_search_stats (mcv) on", "public.schemas_search_stats (ndistinct) on"),
    (INDEXES, "statistics schemas_tags_stats are of", "on (metadata->'tags') from", "on (metadata->'tag') from"),
    (INDEXES, "the sample of subjects or tags is too small", "alter column subject set statistics 1000", "alter column subject set statistics 100"),
    (INDEXES, "the sample of subjects or tags is too small", "alter statistics public.schemas_tags_stats set statistics 1000", "select"),
    (INDEXES, "defaults of maintenance_runs", "    message text,\n", "    message text default '',\n"),
    (INDEXES, "a result without an end", "(finished_at is null) = (succeeded is null) and finished_at", "finished_at"),
    (INDEXES, "an end before the beginning", " and finished_at >= started_at", ""),
    (INDEXES, "keeps two runs of one job", "constraint maintenance_runs_pkey primary key (job)", "constraint maintenance_runs_pkey check (job <> '')"),
    (INDEXES, "history_horizon() of validation_history and 90 days",
     "now() - make_interval(days => retention_days);\n    is_hypertable", "now() - make_interval(days => retention_days - 80);\n    is_hypertable"),
    (INDEXES, "was not refused: select public.history_horizon('schemas', 1)",
     "if history not in ('validation_history', ", "if history not in ('schemas', 'validation_history', "),
    (INDEXES, "was not refused: select public.history_horizon('validation_history', -1)", f"{AGE_CHECK}if to_regclass", "if to_regclass"),
    (INDEXES, "was not refused: call public.purge_deleted_schemas(-1)", f"{AGE_CHECK}doomed", "doomed"),
    (INDEXES, "purge_history() deletes from validation_history what is not old enough", "%1$I >= $1 and %1$I < $2 order", "%1$I >= $1 order"),
    (INDEXES, "purge_history() does not delete from validation_history", "        reached := last_time;\n        commit;\n", "        reached := last_time;\n"),
    (INDEXES, "purge_deleted_schemas() does not delete", "doomed := array(select public.schemas_to_purge(retention_days))", "doomed := array[]::uuid[]"),
    (INDEXES, "schemas_to_purge() lists other schemas", " and dependent.deleted_at is null", ""),
    (INDEXES, "schemas_to_purge() lists other schemas",
     "schemas_to_purge(retention_days integer default 30)", "schemas_to_purge(retention_days integer default 20)"),
    (INDEXES, "retention_backlog() counts wrongly",
     "checked_at < public.history_horizon(kind, check_days)", "checked_at >= public.history_horizon(kind, check_days)"),
    (INDEXES, "retention_backlog() does not go by the ages", "public.history_horizon(kind, access_days)", "public.history_horizon(kind, 90)"),
    (INDEXES, "maintenance_jobs() lists", "('vacuum', '12 3", "('vacuum_all', '12 3"),
    (INDEXES, "without a time", "'17 */6 * * *'", "'17 */6 * *'"),
    (INDEXES, "which is not there", "'select public.refresh_subject_versions()'", "'select public.refresh_subjects()'"),
    (INDEXES, "maintenance_jobs() deletes by", "(''compatibility_checks'', %s)', check_days)", "(''compatibility_checks'', %s)', access_days)"),
    (INDEXES, "without knowing its table", "counted.entries > 0 and widths.are_known", "true"),
    (INDEXES, "finds a full index bloated", "ceil(counted.entries * (12", "ceil(0.1 * counted.entries * (12"),
    (INDEXES, "mostly air", "least(necessary, actual),\n        round(100 *", "least(necessary, actual),\n        round(10 *"),
    (INDEXES, "everybody may call purge_history", f"{HISTORY}, {DELETED}\n    from", f"{DELETED}\n    from"),
    (INDEXES, "everybody may call purge_deleted_schemas", f"{HISTORY}, {DELETED}\n    from", f"{HISTORY}\n    from"),
    (INDEXES, "may write maintenance_runs", "grant select on public.maintenance_runs to", "grant insert, select on public.maintenance_runs to"),
    (INDEXES, "may write", "grant select on public.schema_access_log", "grant insert, select on public.schema_access_log"),
]  # fmt: skip


def test_verification_passes_where_tables_were_emptied(readonly: None, database: Database) -> None:
    """VACUUM has counted no row then, and the planner takes whichever index comes first."""
    first, *later = registry.NAMES
    apply_and_verify(database, registry.up(first).read_text(), registry.verify(first).read_text())
    database.server.execute("vacuum (analyze)", database.name)
    for name in later:
        apply_and_verify(database, registry.up(name).read_text(), registry.verify(name).read_text())


@pytest.mark.parametrize(("name", "refusal", "right", "wrong"), MISTAKES, ids=map(str, range(len(MISTAKES))))
def test_verification_refuses_a_mistake(readonly: None, database: Database, name: str, refusal: str, right: str, wrong: str) -> None:
    for earlier in registry.NAMES[: registry.NAMES.index(name)]:
        database.psql(registry.up(earlier))
    up = registry.up(name).read_text()
    # Some of these also stand in comments on indexes that a mistake renames.
    mistaken = re.sub(r"^comment on index .*?;$", "", up.replace(right, wrong), flags=re.MULTILINE | re.DOTALL)
    assert right in up
    with pytest.raises(PsqlError, match=re.escape(refusal)):
        apply_and_verify(database, mistaken, registry.verify(name).read_text())


def test_the_read_only_role_reads_everything_and_writes_nothing(migrated: Database) -> None:
    migrated.execute("create table later (id integer generated always as identity)")
    with closing(migrated.connect(user="postgres")) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"set role {READONLY}")
        for table in {*TABLES, "later"}:
            cursor.execute(f"select * from {table}")
        cursor.execute("select last_value from validation_history_id_seq")
        cursor.execute("select last_value from later_id_seq")
        cursor.execute("select * from get_schema_statistics()")
        cursor.execute("select version_precedence('rc.1', null)")
        for statement in (
            "insert into subjects (name, default_compatibility_level) values ('a', 'NONE')",
            "update subjects set description = ''",
            "delete from validation_history",
            "truncate schema_access_log",
            "select nextval('validation_history_id_seq')",
            "select cleanup_old_validation_history()",
            "select refresh_subject_versions()",
            "select refresh_popular_schemas()",
            "create table of_its_own (id integer)",
        ):
            # PostgreSQL 14 lets everybody create tables in the schema public.
            if migrated.server.major >= 15 or not statement.startswith("create"):
                with pytest.raises(errors.InsufficientPrivilege):
                    cursor.execute(statement)


def test_an_application_with_default_privileges_can_do_its_work(server: Server) -> None:
    """A provisioned database: nothing is for everybody, and an application has what the owner gives it by default."""
    with server.database() as database:
        application = f"{database.owner}_app"
        server.execute(f"create role {application} login")
        try:
            database.execute(f"""
                alter default privileges revoke execute on functions from public;
                alter default privileges grant select, insert, update, delete on tables to {application};
                alter default privileges grant usage on sequences to {application};
                alter default privileges grant execute on functions to {application};
            """)
            before = surroundings(database)
            registry.migrate(database)
            database.execute(
                """
                    insert into schemas (subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level)
                    values ('orders', 1, 0, 0, 'JSON', '{}', 'FULL');
                    insert into validation_history (schema_id, data_hash, valid, duration_ms) select id, repeat('0', 64), true, 1 from schemas;
                    insert into schema_access_log (schema_id) select id from schemas;
                    select refresh_subject_versions(), refresh_popular_schemas(), cleanup_old_validation_history(0)
                """,
                user=application,
            )
            assert database.execute("select subject, versions from subject_versions", user=application) == [("orders", ["1.0.0"])]
            assert database.execute("select subject, access_count from popular_schemas", user=application) == [("orders", 1)]
            for name in reversed(registry.NAMES):
                database.psql(registry.down(name))
            assert surroundings(database) == before
        finally:
            database.execute(f"drop owned by {application}", user="postgres")
            server.execute(f"drop role {application}")


def test_a_dump_can_be_restored(migrated: Database, server: Server) -> None:
    """Restoring runs with an empty search_path: what indexes, constraints and views call must be found nevertheless."""
    registry.fill(migrated, schemas=500, subjects=50, validations=500)
    with server.database() as copy:
        copy.psql(migrated.dump(data=True).replace(migrated.owner, copy.owner), user="postgres")
        for table in TABLES:
            query = f"select * from {table} order by {table}::text"
            assert copy.execute(query) == migrated.execute(query)
        copy.execute("select refresh_subject_versions(), refresh_popular_schemas()")


def test_views_without_data_are_refreshed_all_the_same(migrated: Database, server: Server) -> None:
    """A restored schema has views that were never populated, and those cannot be refreshed concurrently."""
    with server.database() as copy:
        copy.psql(migrated.dump().replace(migrated.owner, copy.owner), user="postgres")
        with pytest.raises(errors.ObjectNotInPrerequisiteState):
            copy.execute("select * from subject_versions")
        copy.execute("select refresh_subject_versions(), refresh_popular_schemas()")
        assert copy.execute("select * from subject_versions") == copy.execute("select * from popular_schemas") == []


def test_readers_do_not_wait_for_a_refresh(migrated: Database) -> None:
    with closing(migrated.connect()) as refreshing, closing(migrated.connect()) as reading:
        refreshing.cursor().execute("select refresh_subject_versions(), refresh_popular_schemas()")
        reading.cursor().execute("set lock_timeout = '1s'; select * from subject_versions, popular_schemas, schemas for share of schemas")


def test_two_writers_of_one_version_do_not_both_win(migrated: Database) -> None:
    insert = """
        insert into schemas (subject, version_major, version_minor, version_patch, version_prerelease, schema_type, content, compatibility_level)
        values ('orders', 1, 0, 0, %s, 'JSON', '{}', 'FULL')
    """
    migrated.execute(insert, [None])
    migrated.execute("update schemas set deleted_at = now(), metadata = jsonb_set(metadata, '{state}', '\"DELETED\"')")
    for same in (None, ""):
        with pytest.raises(errors.UniqueViolation):
            migrated.execute(insert, [same])
    migrated.execute(insert, ["rc.1"])


def test_generated_ids_are_not_for_the_application_to_choose(migrated: Database) -> None:
    with pytest.raises(psycopg2.Error, match="cannot insert a non-DEFAULT value"):
        migrated.execute("insert into compatibility_checks values (1, 'orders', '1.0.0', '2.0.0', 'FULL', false)")


def test_history_may_become_hypertables(migrated: Database) -> None:
    """Every unique key of the history tables contains their time column."""
    history = {"validation_history": "validated_at", "compatibility_checks": "checked_at", "schema_access_log": "accessed_at"}
    keys = migrated.execute(
        """
            select indrelid::regclass::text, array_agg(attname::text)
            from pg_index join pg_attribute on attrelid = indrelid and attnum = any (indkey)
            where indisunique and indrelid::regclass::text = any (%s)
            group by indexrelid, indrelid
        """,
        [list(history)],
    )
    assert {table for table, _unused in keys} == set(history)
    assert [table for table, columns in keys if history[table] not in columns] == []


def test_everything_not_obvious_is_explained(migrated: Database) -> None:
    undescribed: Set[str] = {
        name
        for (name,) in migrated.execute("""
            select oid::regclass::text from pg_class
            where relnamespace = 'public'::regnamespace and relkind in ('r', 'm') and obj_description(oid, 'pg_class') is null
            union all
            select oid::regprocedure::text from pg_proc
            where pronamespace = 'public'::regnamespace and obj_description(oid, 'pg_proc') is null
              and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'e')
        """)
    }
    assert undescribed == set()
