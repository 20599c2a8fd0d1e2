-- The registry's tables, their keys and constraints, the functions on them, and the view of every subject's versions.
-- Needs PostgreSQL 14 or later, and no more rights than the database's owner has.

-- The application's queries fix the columns' types, and there are no writers yet that building an index could block:
-- squawk-ignore-file prefer-text-field, prefer-bigint-over-int, require-concurrent-index-creation


-- Extensions ---------------------------------------------------------------------------------------------------------
-- All three are trusted, so an owner may create them. Where they are there already they are somebody else's: the
-- comment marks those that the down script drops again. (Their functions are not qualified below, so that it does not
-- matter where somebody else put them.)

do $$
declare
    extension text;
begin
    foreach extension in array array['uuid-ossp', 'pg_trgm', 'btree_gin'] loop
        if not exists (select from pg_catalog.pg_extension where extname = extension) then
            execute format('create extension %I schema public', extension);
            execute format('comment on extension %I is %L', extension,
                           'made by migration 20240101000001_initial_schema; its down script drops it');
        end if;
    end loop;
end
$$;


-- Schemas ------------------------------------------------------------------------------------------------------------

-- Semantic versions sort by major, minor, patch, and then by this key, which compares byte by byte: a pre-release is
-- lower than its release; identifiers compare from left to right, numbers by value and below words; a longer list is
-- higher than its beginning. Builds have no precedence, and only make the order a total one. Different versions have
-- different keys. Indexes hold what it returns: it must never return anything else.
create function public.version_precedence(prerelease text, build text)
    returns bytea
    language plpgsql
    immutable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
declare
    identifier text;
    key bytea := '';
begin
    if coalesce(prerelease, '') = '' then
        key := '\xff';
    else
        foreach identifier in array string_to_array(prerelease, '.') loop
            if identifier ~ '^[0-9]+$' then
                -- Without leading zeros, the number with more digits is the greater one.
                key := key || '\x01' || int2send(length(identifier)::smallint) || convert_to(identifier, 'UTF8');
            else
                key := key || '\x02' || convert_to(identifier, 'UTF8') || '\x00';
            end if;
        end loop;
        key := key || '\x00';
    end if;
    return key || convert_to(coalesce(build, ''), 'UTF8');
end
$$;

-- Needed by everybody who reads or writes schemas: said aloud for databases whose owner does not give it to all.
grant execute on function public.version_precedence(text, text) to public;

comment on function public.version_precedence(text, text) is
    'Key that sorts versions of equal major, minor and patch by semantic-version precedence, then by build';

create table public.schemas (
    id uuid not null default uuid_generate_v4(),
    subject varchar(255) not null,
    version_major integer not null,
    version_minor integer not null,
    version_patch integer not null,
    version_prerelease varchar(255),
    version_build varchar(255),
    schema_type varchar(50) not null,
    content jsonb not null,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    created_by varchar(255),
    compatibility_level varchar(50) not null,
    deleted_at timestamptz,

    constraint schemas_pkey primary key (id),
    constraint schemas_subject_check check (subject <> ''),
    constraint schemas_version_check check (version_major >= 0 and version_minor >= 0 and version_patch >= 0),
    -- As semver.org has it: dot-separated identifiers, numbers without leading zeros. Empty means none, as null does.
    constraint schemas_version_prerelease_check check (
        version_prerelease ~ '^((0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?$'
    ),
    constraint schemas_version_build_check check (version_build ~ '^([0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$'),
    constraint schemas_schema_type_check check (schema_type in ('JSON', 'AVRO', 'PROTOBUF', 'THRIFT')),
    constraint schemas_compatibility_level_check check (compatibility_level <> ''),
    constraint schemas_metadata_check check (jsonb_typeof(metadata) = 'object'),
    -- An absent state or list of tags passes: the default metadata has neither.
    constraint schemas_metadata_state_check check (metadata->>'state' in ('ACTIVE', 'DEPRECATED', 'DELETED', 'DRAFT')),
    constraint schemas_metadata_tags_check check (jsonb_typeof(metadata->'tags') in ('array', 'null'))
) with (
    -- Index-only scans are as good as the visibility map is fresh.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- Two versions are the same if none precedes the other. Soft-deleted ones keep their place: a version is never given out
-- twice. Read backwards it lists a subject's versions newest first, deleted ones too, and a release before its
-- pre-releases also where a query orders by the three numbers only.
create unique index schemas_subject_version_key on public.schemas (
    subject, version_major, version_minor, version_patch, public.version_precedence(version_prerelease, version_build)
);

comment on table public.schemas is 'Every version of every schema';
comment on column public.schemas.version_prerelease is 'Null and the empty string both mean: a release';
comment on column public.schemas.version_build is 'Null and the empty string both mean: no build';
comment on column public.schemas.schema_type is 'JSON, AVRO, PROTOBUF or THRIFT';
comment on column public.schemas.content is 'The schema itself';
comment on column public.schemas.metadata is
    'state (ACTIVE, DEPRECATED, DELETED, DRAFT), owner, tags (array), compatibility_level, description, custom';
comment on column public.schemas.deleted_at is 'When it was soft-deleted; null: it is live';
comment on index public.schemas_pkey is 'A schema by its id';
comment on index public.schemas_subject_version_key is
    'One row a version, soft-deleted ones included; a version of a subject, and all of them in order';

create table public.schema_dependencies (
    schema_id uuid not null,
    depends_on_id uuid not null,
    dependency_type varchar(50) not null,
    created_at timestamptz not null default now(),

    constraint schema_dependencies_pkey primary key (schema_id, depends_on_id),
    constraint schema_dependencies_schema_id_fkey foreign key (schema_id) references public.schemas on delete cascade,
    constraint schema_dependencies_depends_on_id_fkey foreign key (depends_on_id) references public.schemas on delete cascade,
    constraint schema_dependencies_self_check check (schema_id <> depends_on_id),
    constraint schema_dependencies_dependency_type_check check (dependency_type in ('reference', 'import', 'extends'))
);

-- The way back, dependents of a schema, to be walked without visiting the table; the foreign key needs it too.
create index schema_dependencies_depends_on_idx on public.schema_dependencies (depends_on_id, schema_id);

comment on table public.schema_dependencies is 'Which schema uses which other one';
comment on column public.schema_dependencies.schema_id is 'The one that uses the other';
comment on column public.schema_dependencies.dependency_type is 'reference, import or extends';
comment on index public.schema_dependencies_pkey is 'Dependencies of a schema, to any depth, without visiting the table';
comment on index public.schema_dependencies_depends_on_idx is
    'Dependents of a schema, to any depth, without visiting the table; deletion of what they depend on';

create table public.subjects (
    name varchar(255) not null,
    default_compatibility_level varchar(50) not null,
    description text,
    tags text[] not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    constraint subjects_pkey primary key (name),
    constraint subjects_name_check check (name <> ''),
    constraint subjects_default_compatibility_level_check check (default_compatibility_level <> '')
);

-- The clock and not the transaction's start: it shall move on every update, also on the second one in a transaction.
create function public.set_updated_at()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    new.updated_at := clock_timestamp();
    return new;
end
$$;

create trigger subjects_set_updated_at
    before update on public.subjects
    for each row execute function public.set_updated_at();

comment on table public.subjects is 'Settings of a subject; schemas may name subjects that have none';
comment on column public.subjects.default_compatibility_level is 'For new versions that do not say their own';
comment on index public.subjects_pkey is 'A subject by its name';
comment on column public.subjects.updated_at is 'Moves by itself on every update';
comment on function public.set_updated_at() is 'Trigger: the row''s updated_at becomes the present moment';


-- History ------------------------------------------------------------------------------------------------------------
-- Append-only and large. The primary keys begin with the time: so they serve as the index by time, which these tables
-- need anyway, and the tables may become hypertables, whose unique keys must contain it. They are no partitioned tables:
-- docs/schema-performance.md has the figures that decided so.

create table public.validation_history (
    id bigint not null generated always as identity,
    schema_id uuid not null,
    data_hash varchar(64) not null,
    valid boolean not null,
    error_count integer not null default 0,
    validated_at timestamptz not null default now(),
    duration_ms double precision not null,

    constraint validation_history_pkey primary key (validated_at, id),
    constraint validation_history_schema_id_fkey foreign key (schema_id) references public.schemas on delete cascade,
    -- As '^[0-9A-Fa-f]{64}$', at a tenth of what that costs on every insert.
    constraint validation_history_data_hash_check check (length(data_hash) = 64 and data_hash !~ '[^0-9A-Fa-f]'),
    constraint validation_history_error_count_check check (error_count >= 0),
    -- NaN counts as greater than infinity.
    constraint validation_history_duration_ms_check check (duration_ms >= 0 and duration_ms < 'infinity')
) with (
    -- The usual fifth of a hundred million rows would wait for weeks of retention.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- A schema's validations, newest first; the foreign key needs it too.
create index validation_history_schema_idx on public.validation_history (schema_id, validated_at);

comment on table public.validation_history is 'Every validation of data against a schema; append-only, kept for 90 days by default';
comment on column public.validation_history.data_hash is 'SHA-256 of the data, hexadecimal';
comment on column public.validation_history.error_count is 'How many errors were found in the data';
comment on column public.validation_history.duration_ms is 'How long the validation took, in milliseconds';
comment on index public.validation_history_pkey is 'Validations by time: the last hour''s, and those too old to be kept';
comment on index public.validation_history_schema_idx is 'Validations of a schema, newest first; deletion of the schema';

create table public.compatibility_checks (
    id bigint not null generated always as identity,
    subject varchar(255) not null,
    old_version varchar(255) not null,
    new_version varchar(255) not null,
    compatibility_level varchar(50) not null,
    compatible boolean not null,
    violations jsonb,
    checked_at timestamptz not null default now(),

    constraint compatibility_checks_pkey primary key (checked_at, id),
    constraint compatibility_checks_subject_check check (subject <> ''),
    constraint compatibility_checks_version_check check (old_version <> '' and new_version <> ''),
    constraint compatibility_checks_compatibility_level_check check (compatibility_level <> '')
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

comment on table public.compatibility_checks is 'Every check of a new version against an old one; append-only';
comment on index public.compatibility_checks_pkey is 'Checks by time: the last hour''s, and those too old to be kept';
comment on column public.compatibility_checks.violations is 'What was found to be incompatible; null: nothing to say';


-- Versions of a subject ----------------------------------------------------------------------------------------------
-- Refreshed on a schedule, never by a trigger: that would make every insert read the whole table.

create materialized view public.subject_versions as
select
    subject,
    count(*) as version_count,
    max(created_at) filter (where place = 1) as latest_version_at,
    max(version_major) filter (where place = 1) as latest_major,
    max(version_minor) filter (where place = 1) as latest_minor,
    max(version_patch) filter (where place = 1) as latest_patch,
    array_agg(version order by place) as versions
from (
    select
        subject,
        version_major,
        version_minor,
        version_patch,
        created_at,
        format('%s.%s.%s', version_major, version_minor, version_patch)
            || coalesce('-' || nullif(version_prerelease, ''), '')
            || coalesce('+' || nullif(version_build, ''), '') as version,
        row_number() over (
            partition by subject
            order by
                version_major desc,
                version_minor desc,
                version_patch desc,
                public.version_precedence(version_prerelease, version_build) desc
        ) as place
    from public.schemas
    where deleted_at is null
) as numbered
group by subject
with data;

-- Refreshing concurrently needs a unique index.
create unique index subject_versions_subject_key on public.subject_versions (subject);

comment on index public.subject_versions_subject_key is 'A subject''s row; refreshing without blocking readers needs it';
comment on materialized view public.subject_versions is 'The live versions of every subject, as of the last refresh_subject_versions()';
comment on column public.subject_versions.latest_version_at is 'When the highest version was created';
comment on column public.subject_versions.latest_major is 'Of the highest version by precedence, as latest_minor and latest_patch are';
comment on column public.subject_versions.versions is 'Newest first';


-- Functions ----------------------------------------------------------------------------------------------------------

-- Only a view's owner may refresh it: so this runs as the owner, and only those whom the owner lets may call it.
create function public.refresh_subject_versions()
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    -- A view that was restored without its data cannot be refreshed concurrently.
    if (select relispopulated from pg_class where oid = 'public.subject_versions'::regclass) then
        refresh materialized view concurrently public.subject_versions;
    else
        refresh materialized view public.subject_versions;
    end if;
end
$$;

create function public.cleanup_old_validation_history(retention_days integer default 90)
    returns integer
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    deleted integer;
begin
    if retention_days is null or retention_days < 0 then
        raise exception 'retention_days must be 0 or more, not %', coalesce(retention_days::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    delete from public.validation_history where validated_at < now() - make_interval(days => retention_days);
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

revoke execute on function public.refresh_subject_versions(), public.cleanup_old_validation_history(integer) from public;

-- The averages are the last week's: what they tell is today's load, and it need not read the whole history.
create function public.get_schema_statistics()
    returns table (
        total_schemas bigint,
        total_subjects bigint,
        active_schemas bigint,
        deprecated_schemas bigint,
        deleted_schemas bigint,
        avg_validations_per_day numeric,
        avg_validation_duration_ms numeric
    )
    language sql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select
        schemas.total_schemas,
        schemas.total_subjects,
        schemas.active_schemas,
        schemas.deprecated_schemas,
        schemas.deleted_schemas,
        round(validations.total / validations.days, 2),
        round(validations.duration_ms::numeric, 3)
    from (
        select
            coalesce(sum(total), 0)::bigint as total_schemas,
            count(*) as total_subjects,
            coalesce(sum(active), 0)::bigint as active_schemas,
            coalesce(sum(deprecated), 0)::bigint as deprecated_schemas,
            coalesce(sum(deleted), 0)::bigint as deleted_schemas
        from (
            select
                count(*) as total,
                count(*) filter (where deleted_at is null and metadata->>'state' = 'ACTIVE') as active,
                count(*) filter (where deleted_at is null and metadata->>'state' = 'DEPRECATED') as deprecated,
                count(*) filter (where deleted_at is not null or metadata->>'state' = 'DELETED') as deleted
            from public.schemas
            group by subject
        ) as by_subject
    ) as schemas
    cross join (
        select
            count(*) as total,
            greatest(extract(epoch from now() - min(validated_at)) / 86400, 1) as days,
            avg(duration_ms) as duration_ms
        from public.validation_history
        where validated_at > now() - interval '7 days'
    ) as validations
$$;

grant execute on function public.get_schema_statistics() to public;

comment on function public.refresh_subject_versions() is 'Refreshes subject_versions without blocking its readers';
comment on function public.cleanup_old_validation_history(integer) is 'Deletes validations older than so many days; returns how many it deleted';
comment on function public.get_schema_statistics() is
    'One row: counts over all schemas, soft-deleted ones included; deleted are those soft-deleted or in state DELETED; averages of the last 7 days';


-- Read-only access ---------------------------------------------------------------------------------------------------
-- Roles belong to the whole server: this one may be there already, or be for somebody else to make.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'schema_registry_readonly') then
        begin
            create role schema_registry_readonly nologin;
            comment on role schema_registry_readonly is
                'May read the schema registry; made by migration 20240101000001_initial_schema, whose down script drops it';
        exception
            when duplicate_object or unique_violation then
                null; -- made by a migration of another database just now
            when insufficient_privilege then
                raise notice 'role schema_registry_readonly does not exist and % may not create it: nothing is granted to it', current_user;
                return;
        end;
    end if;

    grant select
        on public.schemas, public.schema_dependencies, public.subjects, public.validation_history,
           public.compatibility_checks, public.subject_versions
        to schema_registry_readonly;
    grant select
        on sequence public.validation_history_id_seq, public.compatibility_checks_id_seq
        to schema_registry_readonly;
    alter default privileges in schema public grant select on tables to schema_registry_readonly;
    alter default privileges in schema public grant select on sequences to schema_registry_readonly;
end
$$;
