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
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

-- A schema's accesses, newest first; the foreign key needs it too.
create index schema_access_log_schema_idx on public.schema_access_log (schema_id, accessed_at);

comment on table public.schema_access_log is 'Which schema was read when; append-only';
comment on column public.schema_access_log.access_count is 'How many accesses the row stands for';
comment on column public.schema_access_log.response_time_ms is 'Mean of these accesses; null: not measured';
comment on index public.schema_access_log_pkey is 'Accesses by time: the last week''s, and those too old to be kept';
comment on index public.schema_access_log_schema_idx is 'Accesses to a schema, newest first; deletion of the schema';

-- Looks the log up when it runs, not when the view is made: so the log can become a hypertable, and a table again, under
-- the view. It is summed up before it meets the schemas, and the join is as small as the result.
create function public.recent_accesses()
    returns table (
        schema_id uuid,
        access_count bigint,
        avg_response_time_ms double precision,
        last_accessed_at timestamptz
    )
    language sql
    stable
    rows 100000
    set search_path = pg_catalog, pg_temp
as $$
    select
        schema_id,
        sum(access_count) as access_count,
        sum(response_time_ms * access_count)
            / sum(access_count) filter (where response_time_ms is not null) as avg_response_time_ms,
        max(accessed_at) as last_accessed_at
    from public.schema_access_log
    where accessed_at > now() - interval '7 days'
    group by schema_id
$$;

grant execute on function public.recent_accesses() to public;

comment on function public.recent_accesses() is 'The last 7 days of schema_access_log, summed up by schema';

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
from public.recent_accesses() as recent
join public.schemas on schemas.id = recent.schema_id
where schemas.deleted_at is null
order by recent.access_count desc, schemas.id
limit 1000
with data;

-- Refreshing concurrently needs a unique index.
create unique index popular_schemas_id_key on public.popular_schemas (id);
create index popular_schemas_access_count_idx on public.popular_schemas (access_count);

comment on index public.popular_schemas_id_key is 'Refreshing without blocking readers needs it';
comment on index public.popular_schemas_access_count_idx is 'The most used ones first';
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
    schema_type, (metadata->>'owner'), (metadata->>'state'), (metadata->>'compatibility_level')
from public.schemas;
create statistics public.schemas_tags_stats on (metadata->'tags') from public.schemas;

-- How often a part of a subject, or a tag, is found is told from a sample of that many values. With the usual hundred, a rare one that happens
-- to be in it counts as frequent, and a search for it walks through the schemas in their order (docs/schema-performance.md says how long).
alter table public.schemas alter column subject set statistics 1000;
alter statistics public.schemas_tags_stats set statistics 1000;

comment on index public.schemas_live_version_idx is 'Versions of a subject, the latest, the latest in a state; index-only for ids and versions';
comment on index public.schemas_live_subject_idx is 'List of subjects';
comment on index public.schemas_live_created_at_idx is 'Search, ordered by creation';
comment on index public.schemas_live_precedence_idx is 'Search, ordered by version';
comment on index public.schemas_live_search_idx is 'Search by part of the subject, type, owner, state, compatibility level and tags';
comment on index public.schemas_containment_idx is 'Containment in metadata and content';
comment on index public.schemas_deleted_at_idx is 'Hard deletion of what was soft-deleted long ago';


-- Indexes on the history ---------------------------------------------------------------------------------------------

-- The slow ones are few, and so is what these two cost.
create index validation_history_slow_idx on public.validation_history (duration_ms) where duration_ms > 100;
create index validation_history_slow_recent_idx on public.validation_history (validated_at) where duration_ms > 100;
create index compatibility_checks_subject_idx on public.compatibility_checks (subject, checked_at);

comment on index public.validation_history_slow_idx is 'Slow validations, over 100 ms, slowest first';
comment on index public.validation_history_slow_recent_idx is 'Slow validations, over 100 ms, newest first';
comment on index public.compatibility_checks_subject_idx is 'Checks of a subject, newest first';


-- Care ---------------------------------------------------------------------------------------------------------------
-- Called by pg_cron, by timers or by hand. The procedures commit after every batch, so that locks and transactions are
-- short however much there is to delete. A procedure that commits can have no SET clause: it pins search_path itself, in
-- every transaction anew.

create table public.maintenance_runs (
    job text not null,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    succeeded boolean,
    message text,

    constraint maintenance_runs_pkey primary key (job),
    constraint maintenance_runs_finished_check check (
        (finished_at is null) = (succeeded is null) and finished_at >= started_at
    )
);

comment on table public.maintenance_runs is 'The last run of every job that is scheduled outside of the database; pg_cron keeps its own record';
comment on column public.maintenance_runs.finished_at is 'Null: it still runs, or was cut off';
comment on column public.maintenance_runs.message is 'What it said last';
comment on index public.maintenance_runs_pkey is 'A job by its name';

-- Rows of a hypertable go with their chunk, and a chunk goes when all of it is old enough: so its horizon is the end of
-- the last such chunk.
create function public.history_horizon(history text, retention_days integer)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    horizon timestamptz := now() - make_interval(days => retention_days);
    is_hypertable boolean := false;
begin
    if history not in ('validation_history', 'schema_access_log', 'compatibility_checks') or history is null then
        raise exception 'there is no history %', coalesce(history, 'null') using errcode = 'invalid_parameter_value';
    end if;
    if retention_days is null or retention_days < 0 then
        raise exception 'retention_days must be 0 or more, not %', coalesce(retention_days::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    if to_regclass('timescaledb_information.hypertables') is not null then
        execute 'select exists (select from timescaledb_information.hypertables'
            ' where hypertable_schema = ''public'' and hypertable_name = $1)' into is_hypertable using history;
    end if;
    if is_hypertable then
        execute 'select coalesce(max(range_end), ''-infinity'') from timescaledb_information.chunks'
            ' where hypertable_schema = ''public'' and hypertable_name = $1 and range_end <= $2' into horizon using history, horizon;
    end if;
    return horizon;
end
$$;

comment on function public.history_horizon(text, integer) is 'Rows of a history that are older than this are to go';

create procedure public.purge_history(
    history text,
    retention_days integer,
    inout purged bigint default 0,
    batch_size integer default 10000
)
language plpgsql
as $$
declare
    time_column text := case history
        when 'validation_history' then 'validated_at' when 'schema_access_log' then 'accessed_at' when 'compatibility_checks' then 'checked_at'
    end;
    horizon timestamptz;
    reached timestamptz := '-infinity';
    last_time timestamptz;
    last_id bigint;
    deleted bigint;
    chunk record;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    purged := 0;
    horizon := public.history_horizon(history, retention_days);

    if to_regclass('timescaledb_information.chunks') is not null then
        for chunk in execute
            'select format(''%I.%I'', chunk_schema, chunk_name) as name, range_end, extnamespace::regnamespace as extension_schema'
            ' from timescaledb_information.chunks cross join pg_extension'
            ' where hypertable_schema = ''public'' and hypertable_name = $1 and range_end <= $2 and extname = ''timescaledb'' order by range_end'
            using history, horizon
        loop
            perform set_config('search_path', 'pg_catalog, pg_temp', true);
            execute format('select count(*) from %s', chunk.name) into deleted;
            -- It locks schemas too, and whoever comes after waits as long as it does: so it tries again and again, and never waits for long.
            for attempt in 1 .. 60 loop
                begin
                    perform set_config('search_path', 'pg_catalog, pg_temp', true), set_config('lock_timeout', '1s', true);
                    execute format('select %s.drop_chunks(%L::regclass, older_than => $1)', chunk.extension_schema, 'public.' || history)
                        using chunk.range_end;
                    exit;
                exception
                    when lock_not_available then
                        if attempt = 60 then
                            raise exception 'public.% or public.schemas was in use all the time: % rows are gone, and the rest waits for the next run',
                                history, purged using errcode = 'lock_not_available';
                        end if;
                end;
                commit;
                perform pg_catalog.pg_sleep(0.5 + pg_catalog.random());
            end loop;
            purged := purged + deleted;
            commit;
        end loop;
    end if;

    -- Begins where the batch before has ended: from the oldest row on, it would meet again all that is deleted by now.
    loop
        perform set_config('search_path', 'pg_catalog, pg_temp', true);
        execute format(
            'select %1$I, id from (select %1$I, id from public.%2$I where %1$I >= $1 and %1$I < $2 order by %1$I, id limit $3) as batch'
            ' order by %1$I desc, id desc limit 1', time_column, history)
            into last_time, last_id using reached, horizon, batch_size;
        exit when last_time is null;
        -- The comparison of rows says it all, but not to the planner: it would expect everything that is old, and read another index from end to end.
        execute format('delete from public.%2$I where %1$I >= $1 and %1$I <= $2 and (%1$I, id) <= ($2, $3)', time_column, history)
            using reached, last_time, last_id;
        get diagnostics deleted = row_count;
        purged := purged + deleted;
        reached := last_time;
        commit;
    end loop;
end
$$;

comment on procedure public.purge_history(text, integer, bigint, integer) is
    'Deletes what is older than so many days from validation_history, schema_access_log or compatibility_checks, batch by batch or chunk by chunk';

-- What a live schema still depends on stays: without it, that one could not be resolved any more.
create function public.schemas_to_purge(retention_days integer default 30)
    returns setof uuid
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select schemas.id
    from public.schemas
    where schemas.deleted_at < now() - make_interval(days => greatest(retention_days, 0))
        and not exists (
            select
            from public.schema_dependencies
            join public.schemas as dependent on dependent.id = schema_dependencies.schema_id
            where schema_dependencies.depends_on_id = schemas.id and dependent.deleted_at is null
        )
    order by schemas.deleted_at
$$;

comment on function public.schemas_to_purge(integer) is
    'Schemas that were soft-deleted more than so many days ago, and that no live schema depends on';

create procedure public.purge_deleted_schemas(
    retention_days integer default 30,
    inout purged bigint default 0,
    batch_size integer default 10000
)
language plpgsql
as $$
declare
    doomed uuid[];
    remaining uuid[];
    history text;
    deleted bigint;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    purged := 0;
    if retention_days is null or retention_days < 0 then
        raise exception 'retention_days must be 0 or more, not %', coalesce(retention_days::text, 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    doomed := array(select public.schemas_to_purge(retention_days));
    for begin_at in 1 .. cardinality(doomed) by 100 loop
        -- Their history goes first, batch by batch: the cascade would take millions of rows at once.
        foreach history in array array['validation_history', 'schema_access_log'] loop
            loop
                perform set_config('search_path', 'pg_catalog, pg_temp', true);
                -- Whoever was brought back meanwhile, stays.
                remaining := array(
                    select id from public.schemas
                    where id = any (doomed[begin_at : begin_at + 99]) and deleted_at < now() - make_interval(days => retention_days)
                );
                execute format(
                    'delete from public.%1$I as history using (select %2$I as moment, id from public.%1$I where schema_id = any ($1) limit $2) as batch'
                    ' where history.%2$I = batch.moment and history.id = batch.id',
                    history, case history when 'validation_history' then 'validated_at' else 'accessed_at' end)
                    using remaining, batch_size;
                get diagnostics deleted = row_count;
                commit;
                exit when deleted < batch_size;
            end loop;
        end loop;
        perform set_config('search_path', 'pg_catalog, pg_temp', true);
        delete from public.schemas where id = any (remaining) and deleted_at < now() - make_interval(days => retention_days);
        get diagnostics deleted = row_count;
        purged := purged + deleted;
        commit;
    end loop;
end
$$;

comment on procedure public.purge_deleted_schemas(integer, bigint, integer) is
    'Deletes schemas_to_purge() for good, with their history and dependencies, batch by batch';

create function public.retention_backlog(
    validation_days integer default 90,
    access_days integer default 90,
    check_days integer default 365,
    deleted_schema_days integer default 30
)
    returns table (kind text, total bigint)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    kind := 'validation_history';
    select count(*) into total from public.validation_history where validated_at < public.history_horizon(kind, validation_days);
    return next;
    kind := 'schema_access_log';
    select count(*) into total from public.schema_access_log where accessed_at < public.history_horizon(kind, access_days);
    return next;
    kind := 'compatibility_checks';
    select count(*) into total from public.compatibility_checks where checked_at < public.history_horizon(kind, check_days);
    return next;
    kind := 'schemas';
    select count(*) into total from public.schemas_to_purge(deleted_schema_days);
    return next;
end
$$;

comment on function public.retention_backlog(integer, integer, integer, integer) is
    'How many rows of each kind retention would delete now';

-- The one list of what is to be done regularly, for whatever does it: each command is one statement.
create function public.maintenance_jobs(
    validation_days integer default 90,
    access_days integer default 90,
    check_days integer default 365,
    deleted_schema_days integer default 30
)
    returns table (job text, schedule text, command text)
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    values
        ('refresh_subject_versions', '*/10 * * * *', 'select public.refresh_subject_versions()'),
        ('refresh_popular_schemas', '7 * * * *', 'select public.refresh_popular_schemas()'),
        ('analyze', '17 */6 * * *',
            'analyze public.schemas, public.schema_dependencies, public.subjects, public.validation_history,'
            ' public.compatibility_checks, public.schema_access_log'),
        ('purge_validations', '12 2 * * *', format('call public.purge_history(''validation_history'', %s)', validation_days)),
        ('purge_accesses', '22 2 * * *', format('call public.purge_history(''schema_access_log'', %s)', access_days)),
        ('purge_checks', '32 2 * * *', format('call public.purge_history(''compatibility_checks'', %s)', check_days)),
        ('purge_schemas', '42 2 * * *', format('call public.purge_deleted_schemas(%s)', deleted_schema_days)),
        ('vacuum', '12 3 * * *',
            'vacuum (analyze) public.schemas, public.schema_dependencies, public.subjects, public.validation_history,'
            ' public.compatibility_checks, public.schema_access_log, public.subject_versions, public.popular_schemas')
$$;

comment on function public.maintenance_jobs(integer, integer, integer, integer) is
    'What is to be done regularly, and when (in cron''s words, for times at which little is going on)';

-- From the statistics alone, without reading an index: one whose entries were never counted, or of which a column's width is not known, is left
-- out. An index of all rows has as many entries as its table has rows, which VACUUM counts more often. Entries that share their key are stored
-- more tightly than this assumes: so it finds too little in such indexes, and not too much, as long as the statistics are fresh.
create function public.index_bloat()
    returns table (index regclass, size bigint, needed bigint, percent_bloat numeric)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        oid::regclass,
        actual,
        least(necessary, actual),
        round(100 * greatest(1 - necessary::numeric / nullif(actual, 0), 0), 1)
    from (
        select
            pg_class.oid,
            pg_relation_size(pg_class.oid) as actual,
            -- A tuple's header and pointer, and its columns; nine tenths of a page are filled; the tree above is less than a hundredth.
            ceil(counted.entries * (12 + 8 * ceil(widths.width / 8.0)) / (8152 * 0.9) * 1.01 + 2)::bigint
                * current_setting('block_size')::bigint as necessary
        from pg_class
        join pg_am on pg_am.oid = pg_class.relam and pg_am.amname = 'btree'
        join pg_index on pg_index.indexrelid = pg_class.oid and pg_index.indisvalid
        join pg_class as base on base.oid = pg_index.indrelid
        cross join lateral (values (case when pg_index.indpred is null then base.reltuples else pg_class.reltuples end)) as counted (entries)
        cross join lateral (
            select
                sum(case when pg_attribute.attlen > 0 then pg_attribute.attlen else pg_stats.avg_width end) as width,
                bool_and(pg_attribute.attlen > 0 or pg_stats.avg_width is not null) as are_known
            from pg_attribute
            left join pg_attribute as base_attribute
                on base_attribute.attrelid = base.oid and base_attribute.attnum = pg_index.indkey[pg_attribute.attnum - 1]
            left join pg_stats on pg_stats.schemaname = base.relnamespace::regnamespace::text
                and pg_stats.tablename = case when base_attribute.attnum > 0 then base.relname else pg_class.relname end
                and pg_stats.attname = coalesce(base_attribute.attname, pg_attribute.attname)
            where pg_attribute.attrelid = pg_class.oid
        ) as widths
        where pg_class.relnamespace = 'public'::regnamespace and pg_class.relkind = 'i' and counted.entries > 0 and widths.are_known
    ) as estimated
$$;

comment on function public.index_bloat() is 'How large the B-tree indexes are, and how large they need be, by an estimate';

revoke execute
    on procedure public.purge_history(text, integer, bigint, integer), public.purge_deleted_schemas(integer, bigint, integer)
    from public;
grant execute
    on function public.history_horizon(text, integer), public.schemas_to_purge(integer), public.retention_backlog(integer, integer, integer, integer),
        public.maintenance_jobs(integer, integer, integer, integer), public.index_bloat()
    to public;

do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'schema_registry_readonly') then
        grant select on public.maintenance_runs to schema_registry_readonly;
    end if;
end
$$;
