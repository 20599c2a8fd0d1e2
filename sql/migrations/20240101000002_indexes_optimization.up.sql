-- The log of accesses, the view of the most used schemas, and the indexes that keep the application's queries fast at a
-- million schemas and a hundred million validations.

-- The application's queries fix the columns' types, and there are no writers yet that building an index could block:
-- squawk-ignore-file prefer-text-field, prefer-bigint-over-int, require-concurrent-index-creation


-- Accesses -----------------------------------------------------------------------------------------------------------

create table public.schema_access_log (
    id bigint not null generated always as identity,
    schema_id uuid not null,
    accessed_at timestamptz not null default now(),
    access_count integer not null default 1,
    response_time_ms double precision,

    -- Begins with the time for the same reasons as the other history tables' keys.
    constraint schema_access_log_pkey primary key (accessed_at, id),
    constraint schema_access_log_schema_id_fkey foreign key (schema_id) references public.schemas on delete cascade,
    constraint schema_access_log_access_count_check check (access_count > 0),
    constraint schema_access_log_response_time_ms_check check (response_time_ms >= 0 and response_time_ms < 'infinity')
) with (
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- A schema's accesses, newest first; the foreign key needs it too.
create index schema_access_log_schema_idx on public.schema_access_log (schema_id, accessed_at);

comment on table public.schema_access_log is 'Which schema was read when; append-only';
comment on column public.schema_access_log.access_count is 'How many accesses the row stands for';
comment on column public.schema_access_log.response_time_ms is 'Mean of these accesses; null: not measured';

-- The log is summed up before it meets the schemas, so that the join is as small as the result.
create materialized view public.popular_schemas as
select
    schemas.id,
    schemas.subject,
    schemas.version_major,
    schemas.version_minor,
    schemas.version_patch,
    recent.access_count,
    recent.avg_response_time_ms,
    recent.last_accessed_at
from (
    select
        schema_id,
        sum(access_count) as access_count,
        sum(response_time_ms * access_count)
            / sum(access_count) filter (where response_time_ms is not null) as avg_response_time_ms,
        max(accessed_at) as last_accessed_at
    from public.schema_access_log
    where accessed_at > now() - interval '7 days'
    group by schema_id
) as recent
join public.schemas on schemas.id = recent.schema_id
where schemas.deleted_at is null
order by recent.access_count desc, schemas.id
limit 1000
with data;

-- Refreshing concurrently needs a unique index.
create unique index popular_schemas_id_key on public.popular_schemas (id);
create index popular_schemas_access_count_idx on public.popular_schemas (access_count);

comment on materialized view public.popular_schemas is
    'The 1,000 most used live schemas of the 7 days before the last refresh_popular_schemas()';
comment on column public.popular_schemas.avg_response_time_ms is 'Over those accesses whose time was measured';

-- Nested loops are off since the planner takes to them right after a bulk load, when nothing is analyzed yet: a refresh
-- that takes a tenth of a second would then take minutes.
create function public.refresh_popular_schemas()
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set enable_nestloop = off
as $$
begin
    -- A view that was restored without its data cannot be refreshed concurrently.
    if (select relispopulated from pg_class where oid = 'public.popular_schemas'::regclass) then
        refresh materialized view concurrently public.popular_schemas;
    else
        refresh materialized view public.popular_schemas;
    end if;
end
$$;

revoke execute on function public.refresh_popular_schemas() from public;

comment on function public.refresh_popular_schemas() is 'Refreshes popular_schemas without blocking its readers';

do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'schema_registry_readonly') then
        grant select on public.schema_access_log, public.popular_schemas to schema_registry_readonly;
        grant select on sequence public.schema_access_log_id_seq to schema_registry_readonly;
    end if;
end
$$;


-- Indexes on schemas -------------------------------------------------------------------------------------------------
-- The application nearly always asks for live schemas, so most indexes hold only these.

-- A subject's versions, newest first. The first one is the latest: by precedence, also where a query orders by the
-- three numbers only. Walking on to the latest ACTIVE one, or reading just ids and versions, does not visit the table.
create index schemas_live_version_idx on public.schemas (
    subject,
    version_major desc,
    version_minor desc,
    version_patch desc,
    public.version_precedence(version_prerelease, version_build) desc,
    (metadata->>'state')
) include (id, version_prerelease, version_build) where deleted_at is null;

-- The list of subjects. Without further columns a million rows of some thousand subjects take 7 MB.
create index schemas_live_subject_idx on public.schemas (subject) where deleted_at is null;

-- The orders in which a search may want its results; the order by subject is above.
create index schemas_live_created_at_idx on public.schemas (created_at) where deleted_at is null;
create index schemas_live_precedence_idx on public.schemas (
    version_major, version_minor, version_patch, public.version_precedence(version_prerelease, version_build)
) where deleted_at is null;

-- The search, by any of these or several together.
create index schemas_live_search_idx on public.schemas using gin (
    subject gin_trgm_ops,
    schema_type,
    (metadata->>'owner'),
    (metadata->>'state'),
    (metadata->>'compatibility_level'),
    (metadata->'tags')
) where deleted_at is null;

-- Containment (@>) in either or both.
create index schemas_containment_idx on public.schemas using gin (metadata jsonb_path_ops, content jsonb_path_ops);

-- Those whose time to be deleted for good has come.
create index schemas_deleted_at_idx on public.schemas (deleted_at) where deleted_at is not null;

-- Partial indexes give the planner no statistics about their expressions: without these it takes every owner, state and
-- tag to be equally rare.
create statistics public.schemas_search_stats (mcv) on
    schema_type, (metadata->>'owner'), (metadata->>'state'), (metadata->>'compatibility_level'), (metadata->'tags')
from public.schemas;

comment on index public.schemas_live_version_idx is 'Versions of a subject, the latest, the latest in a state; index-only for ids and versions';
comment on index public.schemas_live_subject_idx is 'List of subjects';
comment on index public.schemas_live_created_at_idx is 'Search, ordered by creation';
comment on index public.schemas_live_precedence_idx is 'Search, ordered by version';
comment on index public.schemas_live_search_idx is 'Search by part of the subject, type, owner, state, compatibility level and tags';
comment on index public.schemas_containment_idx is 'Containment in metadata and content';
comment on index public.schemas_deleted_at_idx is 'Hard deletion of what was soft-deleted long ago';


-- Indexes on the history ---------------------------------------------------------------------------------------------

create index validation_history_slow_idx on public.validation_history (duration_ms) where duration_ms > 100;
create index compatibility_checks_subject_idx on public.compatibility_checks (subject, checked_at);

comment on index public.validation_history_slow_idx is 'Slow validations, over 100 ms';
comment on index public.compatibility_checks_subject_idx is 'Checks of a subject, newest first';
