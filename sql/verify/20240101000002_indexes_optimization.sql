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
        'schemas_containment_idx', 'schemas_deleted_at_idx', 'validation_history_slow_idx', 'compatibility_checks_subject_idx'
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
            ('compatibility_checks_subject_idx', false,
                $s$select * from public.compatibility_checks where subject = 's' order by checked_at desc$s$),
            ('schema_access_log_schema_idx', false,
                $s$select * from public.schema_access_log where schema_id = uuid_nil() order by accessed_at desc$s$),
            ('popular_schemas_access_count_idx', false, $s$select * from public.popular_schemas order by access_count desc$s$)
        ) as queries (serves, bitmap, statement)
        -- Among a few rows, or with a visibility map that is not fresh, another index may rightly be preferred.
        where not exists (select from public.schemas where subject not like 'verification %')
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

-- The read-only role reads everything and changes nothing; nobody refreshes whom the owner did not let.
do $$
declare
    relation text;
begin
    if has_function_privilege('public', 'public.refresh_popular_schemas()', 'execute') then
        raise exception 'everybody may call refresh_popular_schemas()';
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'schema_registry_readonly' and not rolsuper) then
        foreach relation in array array['schema_access_log', 'popular_schemas'] loop
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
