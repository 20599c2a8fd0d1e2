-- Tries what the migration promises, and raises an exception at the first promise that is not kept.
-- What it writes is rolled back by whoever runs it.

-- The log has its defaults and refuses impossible data.
do $$
declare
    one uuid;
    row public.schema_access_log;
    refusal record;
    refused_by text;
begin
    insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level)
    values ('verification ' || uuid_generate_v4(), 1, 0, 0, 'JSON', '{}', 'BACKWARD')
    returning id into one;
    insert into public.schema_access_log (schema_id) values (one) returning * into row;
    if row.id is null or row.accessed_at <> now() or row.access_count <> 1 or row.response_time_ms is not null then
        raise exception 'defaults of schema_access_log: %', row;
    end if;

    for refusal in
        select expected, statement
        from (values
            ('schema_access_log_access_count_check', $s$insert into public.schema_access_log (schema_id, access_count) values (%L, 0)$s$),
            ('schema_access_log_response_time_ms_check', $s$insert into public.schema_access_log (schema_id, response_time_ms) values (%L, -1)$s$),
            ('schema_access_log_schema_id_fkey', $s$insert into public.schema_access_log (schema_id) values (uuid_generate_v4())$s$)
        ) as refusals (expected, statement)
    loop
        refused_by := null;
        begin
            execute format(refusal.statement, one);
        exception
            when check_violation or foreign_key_violation then
                get stacked diagnostics refused_by = constraint_name;
        end;
        if refused_by is distinct from refusal.expected then
            raise exception '% should have refused, but % did: %',
                refusal.expected, coalesce(refused_by, 'nobody'), format(refusal.statement, one);
        end if;
    end loop;

    delete from public.schemas where id = one;
    if exists (select from public.schema_access_log where schema_id = one) then
        raise exception 'a deleted schema leaves accesses behind';
    end if;
end
$$;

-- The most used schemas of the last week are listed with their accesses; what is soft-deleted or long ago is not.
do $$
declare
    verification constant text := 'verification ' || uuid_generate_v4();
    ids uuid[];
    found record;
begin
    with inserted as (
        insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level, deleted_at)
        select verification, n, 0, 0, 'JSON', '{}', 'BACKWARD', case when n = 3 then now() end
        from generate_series(1, 4) as n
        returning id, version_major
    )
    select array_agg(id order by version_major) into ids from inserted;
    insert into public.schema_access_log (schema_id, access_count, accessed_at, response_time_ms)
    values (ids[1], 10, now() - interval '6 days', 1),
           (ids[1], 15, now() - interval '5 days', null),
           (ids[2], 10, now() - interval '1 day', 10),
           (ids[2], 20, now() - interval '2 days', 40),
           (ids[3], 90, now(), 1),
           (ids[4], 90, now() - interval '8 days', 1);
    perform public.refresh_popular_schemas();

    select
        array_agg(id order by access_count desc) as ids,
        array_agg(access_count order by access_count desc) as counts,
        array_agg(avg_response_time_ms order by access_count desc) as times,
        array_agg(last_accessed_at order by access_count desc) as last
    into found
    from public.popular_schemas
    where subject = verification;
    if found.ids is distinct from array[ids[2], ids[1]] then
        raise exception 'popular_schemas lists %, not %', found.ids, array[ids[2], ids[1]];
    end if;
    if found.counts <> array[30, 25]::bigint[] or found.times <> array[30, 1]::double precision[]
        or found.last <> array[now() - interval '1 day', now() - interval '5 days']
    then
        raise exception 'popular_schemas sums up wrongly: %', found;
    end if;
end
$$;

-- Every index is there, can be used, and serves the query that it is for. The planner may choose otherwise for as long as
-- a table is small: so what is not meant is switched off.
do $$
declare
    name text;
    query record;
    line text;
    plan text;
begin
    foreach name in array array[
        'schema_access_log_schema_idx', 'popular_schemas_id_key', 'popular_schemas_access_count_idx', 'schemas_live_version_idx',
        'schemas_live_subject_idx', 'schemas_live_created_at_idx', 'schemas_live_precedence_idx', 'schemas_live_search_idx',
        'schemas_containment_idx', 'schemas_deleted_at_idx', 'validation_history_slow_idx', 'validation_history_slow_recent_idx',
        'compatibility_checks_subject_idx'
    ] loop
        if not exists (select from pg_catalog.pg_index where indexrelid = to_regclass('public.' || name) and indisvalid) then
            raise exception 'index % is missing or invalid', name;
        end if;
    end loop;

    -- In a small table a search is as well served by other indexes: so only what this one can be asked for.
    if (
        select array_agg(pg_get_indexdef(indexrelid, place, true) order by place)
        from pg_catalog.pg_index, generate_series(1, indnatts) as place
        where indexrelid = 'public.schemas_live_search_idx'::regclass
    ) is distinct from array[
        'subject', 'schema_type', $s$(metadata ->> 'owner'::text)$s$, $s$(metadata ->> 'state'::text)$s$,
        $s$(metadata ->> 'compatibility_level'::text)$s$, $s$(metadata -> 'tags'::text)$s$
    ] then
        raise exception 'schemas_live_search_idx is not what searches need: %', pg_get_indexdef('public.schemas_live_search_idx'::regclass);
    end if;

    set local enable_seqscan = off;
    set local enable_sort = off;
    set local enable_incremental_sort = off;
    set local enable_hashagg = off;
    for query in
        select serves, bitmap, statement
        from (values
            ('Index Only Scan using schemas_live_version_idx', false,
                $s$select id, subject, version_major, version_minor, version_patch, version_prerelease, version_build from public.schemas
                   where subject = 's' and deleted_at is null
                   order by version_major desc, version_minor desc, version_patch desc,
                            public.version_precedence(version_prerelease, version_build) desc limit 1$s$),
            ('Index Scan using schemas_live_version_idx', false,
                $s$select * from public.schemas where subject = 's' and metadata->>'state' = 'ACTIVE' and deleted_at is null
                   order by version_major desc, version_minor desc, version_patch desc limit 1$s$),
            ('Index Only Scan using schemas_live_', false,
                $s$select distinct subject from public.schemas where deleted_at is null order by subject$s$),
            ('schemas_live_created_at_idx', false,
                $s$select * from public.schemas where deleted_at is null order by created_at desc limit 50$s$),
            ('schemas_live_precedence_idx', false,
                $s$select * from public.schemas where deleted_at is null order by version_major desc, version_minor desc, version_patch desc limit 50$s$),
            ('schemas_containment_idx', true, $s$select * from public.schemas where metadata @> '{"owner": "o"}'$s$),
            ('schemas_containment_idx', true, $s$select * from public.schemas where content @> '{"type": "record"}'$s$),
            ('schemas_deleted_at_idx', false, $s$select * from public.schemas where deleted_at < now() - interval '30 days'$s$),
            ('validation_history_slow_idx', false,
                $s$select * from public.validation_history where duration_ms > 100 order by duration_ms desc$s$),
            ('validation_history_slow_recent_idx', false,
                $s$select * from public.validation_history where duration_ms > 100 order by validated_at desc$s$),
            ('compatibility_checks_subject_idx', false,
                $s$select * from public.compatibility_checks where subject = 's' order by checked_at desc$s$),
            ('schema_access_log_schema_idx', false,
                $s$select * from public.schema_access_log where schema_id = uuid_nil() order by accessed_at desc$s$),
            ('popular_schemas_access_count_idx', false, $s$select * from public.popular_schemas order by access_count desc$s$)
        ) as queries (serves, bitmap, statement)
        -- Among a few rows, with a visibility map that is not fresh, or where VACUUM has counted no row at all, another index may rightly be preferred.
        where not exists (select from public.schemas where subject not like 'verification %')
            and not exists (
                select from pg_catalog.pg_class
                where reltuples >= 0 and oid in (
                    'public.schemas'::regclass, 'public.validation_history'::regclass, 'public.compatibility_checks'::regclass,
                    'public.schema_access_log'::regclass
                )
            )
    loop
        perform set_config('enable_bitmapscan', query.bitmap::text, true);
        plan := '';
        for line in execute 'explain (costs off) ' || query.statement loop
            plan := plan || line || e'\n';
        end loop;
        if strpos(plan, query.serves) = 0 then
            raise exception e'"%" is not what serves %\n%', query.serves, query.statement, plan;
        end if;
    end loop;
end
$$;

-- The planner knows how often an owner, a state, a tag or a part of a subject is found.
do $$
declare
    expected record;
    found record;
begin
    for expected in
        select *
        from (values
            ('schemas_search_stats', array['schema_type'],
                array[$s$(metadata ->> 'owner'::text)$s$, $s$(metadata ->> 'state'::text)$s$, $s$(metadata ->> 'compatibility_level'::text)$s$]),
            ('schemas_tags_stats', null, array[$s$(metadata -> 'tags'::text)$s$])
        ) as statistics (name, keys, expressions)
    loop
        select
            (select array_agg(attname::text) from pg_catalog.pg_attribute where attrelid = stxrelid and attnum = any (stxkeys)) as keys,
            pg_catalog.pg_get_statisticsobjdef_expressions(oid) as expressions
        into found
        from pg_catalog.pg_statistic_ext
        where stxname = expected.name and stxnamespace = 'public'::regnamespace and stxrelid = 'public.schemas'::regclass;
        if (found.keys, found.expressions) is distinct from (expected.keys, expected.expressions) then
            raise exception 'statistics % are of % and %', expected.name, found.keys, found.expressions;
        end if;
    end loop;
    if not exists (select from pg_catalog.pg_statistic_ext where stxname = 'schemas_search_stats' and 'm' = any (stxkind)) then
        raise exception 'statistics schemas_search_stats do not list what is frequent';
    end if;
    if (select attstattarget from pg_catalog.pg_attribute where attrelid = 'public.schemas'::regclass and attname = 'subject') is distinct from 1000
        or (select stxstattarget from pg_catalog.pg_statistic_ext where stxname = 'schemas_tags_stats') is distinct from 1000
    then
        raise exception 'the sample of subjects or tags is too small';
    end if;
end
$$;

-- A run of a job that has no end has no result either.
do $$
declare
    row public.maintenance_runs;
begin
    insert into public.maintenance_runs (job) values ('verification') returning * into row;
    if row.started_at <> now() or row.finished_at is not null or row.succeeded is not null or row.message is not null then
        raise exception 'defaults of maintenance_runs: %', row;
    end if;
    update public.maintenance_runs set finished_at = started_at, succeeded = true where job = 'verification';
    begin
        update public.maintenance_runs set finished_at = null where job = 'verification';
        raise exception 'maintenance_runs_finished_check did not refuse a result without an end';
    exception
        when check_violation then
            null;
    end;
    begin
        update public.maintenance_runs set finished_at = started_at - interval '1 second' where job = 'verification';
        raise exception 'maintenance_runs_finished_check did not refuse an end before the beginning';
    exception
        when check_violation then
            null;
    end;
    begin
        insert into public.maintenance_runs (job) values ('verification');
        raise exception 'maintenance_runs keeps two runs of one job';
    exception
        when unique_violation then
            null;
    end;
end
$$;

-- Retention counts what is too old, and nothing else; a schema that a live one depends on stays. (Ages of years, since a hypertable's chunk goes when
-- all of it is old.)
do $$
declare
    verification constant text := 'verification ' || uuid_generate_v4();
    ids uuid[];
    before jsonb;
    after jsonb;
    years_before jsonb;
    years_after jsonb;
    history text;
    purged bigint;
    refusal record;
    -- The procedures set it for the rest of the transaction.
    path constant text := current_setting('search_path');
begin
    select jsonb_object_agg(kind, total) into before from public.retention_backlog();
    select jsonb_object_agg(kind, total) into years_before from public.retention_backlog(1300, 1300, 1300, 1300);
    with inserted as (
        insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level, deleted_at)
        select verification, n, 0, 0, 'JSON', '{}', 'BACKWARD', (array[null, now() - interval '31 days', now() - interval '31 days', now() - interval '29 days'])[n]
        from generate_series(1, 4) as n
        returning id, version_major
    )
    select array_agg(id order by version_major) into ids from inserted;
    insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type) values (ids[1], ids[2], 'import'), (ids[4], ids[3], 'import');
    insert into public.validation_history (schema_id, data_hash, valid, duration_ms, validated_at)
    select ids[1], repeat('0', 64), true, 1, now() - years * interval '1 year' from unnest(array[0, 3, 4]) as years;
    insert into public.schema_access_log (schema_id, accessed_at)
    select ids[1], now() - years * interval '1 year' from unnest(array[0, 3, 4, 5]) as years;
    insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible, checked_at)
    select verification, '1.0.0', '2.0.0', 'FULL', true, now() - years * interval '1 year' from unnest(array[0, 3, 3]) as years;

    if (select array_agg(id) from public.schemas_to_purge() as id where id = any (ids)) is distinct from array[ids[3]] then
        raise exception 'schemas_to_purge() lists other schemas than what nobody depends on and is deleted for 30 days: %',
            (select array_agg(id) from public.schemas_to_purge() as id where id = any (ids));
    end if;
    select jsonb_object_agg(kind, total) into after from public.retention_backlog();
    if (
        select jsonb_object_agg(key, (after ->> key)::bigint - value::bigint) from jsonb_each_text(before)
    ) is distinct from '{"schemas": 1, "schema_access_log": 3, "validation_history": 2, "compatibility_checks": 2}'::jsonb then
        raise exception 'retention_backlog() counts wrongly: % before, % after', before, after;
    end if;
    select jsonb_object_agg(kind, total) into years_after from public.retention_backlog(1300, 1300, 1300, 1300);
    if (
        select jsonb_object_agg(key, (years_after ->> key)::bigint - value::bigint) from jsonb_each_text(years_before)
    ) is distinct from '{"schemas": 0, "schema_access_log": 2, "validation_history": 1, "compatibility_checks": 0}'::jsonb then
        raise exception 'retention_backlog() does not go by the ages that it is asked for: % before, % after', years_before, years_after;
    end if;

    foreach history in array array['validation_history', 'schema_access_log', 'compatibility_checks'] loop
        if public.history_horizon(history, 90) > now() - interval '90 days'
            or public.history_horizon(history, 90) < now() - interval '3 years'
        then
            raise exception 'history_horizon() of % and 90 days is %', history, public.history_horizon(history, 90);
        end if;
        -- Where nothing is old enough it has nothing to commit, and otherwise it ends at its first commit: the transaction is not its own here.
        begin
            call public.purge_history(history, 36500, purged);
        exception
            when invalid_transaction_termination then
                raise exception 'purge_history() deletes from % what is not old enough', history;
        end;
        begin
            call public.purge_history(history, 90, purged);
            raise exception 'purge_history() does not delete from % batch by batch', history;
        exception
            when invalid_transaction_termination then
                null;
        end;
    end loop;
    begin
        call public.purge_deleted_schemas(30, purged);
        raise exception 'purge_deleted_schemas() does not delete batch by batch';
    exception
        when invalid_transaction_termination then
            null;
    end;

    for refusal in
        select *
        from (values
            ($s$select public.history_horizon('schemas', 1)$s$),
            ($s$select public.history_horizon(null, 1)$s$),
            ($s$select public.history_horizon('validation_history', -1)$s$),
            ($s$select public.history_horizon('validation_history', null)$s$),
            ($s$call public.purge_history('schemas', 1)$s$),
            ($s$call public.purge_history('validation_history', -1)$s$),
            ($s$call public.purge_deleted_schemas(-1)$s$),
            ($s$call public.purge_deleted_schemas(null)$s$)
        ) as refusals (statement)
    loop
        begin
            execute refusal.statement;
            raise exception 'was not refused: %', refusal.statement;
        exception
            when invalid_parameter_value then
                null;
            when invalid_transaction_termination then
                raise exception 'was not refused: %', refusal.statement;
        end;
    end loop;
    perform set_config('search_path', path, true);
end
$$;

-- Every regular job has a time, and what it calls and names is there; every age arrives in its command.
do $$
declare
    named text;
begin
    if (select array_agg(job order by job) from public.maintenance_jobs()) is distinct from array[
        'analyze', 'purge_accesses', 'purge_checks', 'purge_schemas', 'purge_validations', 'refresh_popular_schemas', 'refresh_subject_versions', 'vacuum'
    ] then
        raise exception 'maintenance_jobs() lists %', (select array_agg(job order by job) from public.maintenance_jobs());
    end if;
    if exists (select from public.maintenance_jobs() where schedule !~ '^([0-9*/,-]+ ){4}[0-9*/,-]+$') then
        raise exception 'maintenance_jobs() has a job without a time';
    end if;
    for named in select (regexp_matches(command, 'public\.(\w+)', 'g'))[1] from public.maintenance_jobs() loop
        if to_regclass('public.' || named) is null
            and not exists (select from pg_catalog.pg_proc where proname = named and pronamespace = 'public'::regnamespace)
        then
            raise exception 'maintenance_jobs() names %, which is not there', named;
        end if;
    end loop;
    if (select array_agg(command order by job) from public.maintenance_jobs(1, 2, 3, 4) where command like 'call %') is distinct from array[
        $s$call public.purge_history('schema_access_log', 2)$s$, $s$call public.purge_history('compatibility_checks', 3)$s$,
        $s$call public.purge_deleted_schemas(4)$s$, $s$call public.purge_history('validation_history', 1)$s$
    ] then
        raise exception 'maintenance_jobs() deletes by %', (select array_agg(command order by job) from public.maintenance_jobs(1, 2, 3, 4) where command like 'call %');
    end if;
end
$$;

-- An index that is full is not called bloated, nor is one of which nothing is known; one that is mostly air is.
create table public.verification_of_bloat (id integer, word text);
create index verification_of_bloat_idx on public.verification_of_bloat (id, word);
insert into public.verification_of_bloat select n, 'word ' || n from generate_series(1, 10000) as n;
do $$
begin
    if exists (select from public.index_bloat() where index = 'public.verification_of_bloat_idx'::regclass) then
        raise exception 'index_bloat() judges an index without knowing its table';
    end if;
    analyze public.verification_of_bloat;
    if not exists (select from public.index_bloat() where index = 'public.verification_of_bloat_idx'::regclass and percent_bloat < 50 and needed <= size) then
        raise exception 'index_bloat() finds a full index bloated, or does not know it';
    end if;
    delete from public.verification_of_bloat where id % 50 <> 0;
    analyze public.verification_of_bloat;
    if not exists (select from public.index_bloat() where index = 'public.verification_of_bloat_idx'::regclass and percent_bloat > 80) then
        raise exception 'index_bloat() does not find what is mostly air';
    end if;
end
$$;

-- The read-only role reads everything and changes nothing; nobody refreshes or deletes whom the owner did not let.
do $$
declare
    relation text;
    function text;
begin
    foreach function in array array[
        'refresh_popular_schemas()', 'purge_history(text, integer, bigint, integer)', 'purge_deleted_schemas(integer, bigint, integer)'
    ] loop
        if has_function_privilege('public', 'public.' || function, 'execute') then
            raise exception 'everybody may call %', function;
        end if;
    end loop;
    foreach function in array array[
        'recent_accesses()', 'history_horizon(text, integer)', 'schemas_to_purge(integer)', 'retention_backlog(integer, integer, integer, integer)',
        'maintenance_jobs(integer, integer, integer, integer)', 'index_bloat()'
    ] loop
        if not has_function_privilege('public', 'public.' || function, 'execute') then
            raise exception 'not everybody may call %', function;
        end if;
    end loop;
    if exists (select from pg_catalog.pg_roles where rolname = 'schema_registry_readonly' and not rolsuper) then
        foreach relation in array array['schema_access_log', 'popular_schemas', 'maintenance_runs'] loop
            if not has_table_privilege('schema_registry_readonly', 'public.' || relation, 'select') then
                raise exception 'schema_registry_readonly may not read %', relation;
            end if;
            if has_table_privilege('schema_registry_readonly', 'public.' || relation, 'insert, update, delete, truncate') then
                raise exception 'schema_registry_readonly may write %', relation;
            end if;
        end loop;
    end if;
end
$$;
