-- The history tables become hypertables where timescaledb is on, or plain tables again, with all that is in them and without
-- stopping those who read and write them. Run it as superuser or as the tables' owner, as often as you like, outside of a transaction:
--
--   psql --dbname schema_registry --set ON_ERROR_STOP=1 --file sql/optional/timescaledb.sql
--   PGOPTIONS='-c registry.history=plain' psql ...          before `drop extension timescaledb`
--
-- Settings, each with its default:
--
--   registry.history=hypertable  registry.chunk_days=7  registry.batch_rows=20000
--
-- A table is copied batch by batch, each in a transaction of its own, while a trigger does to the copy what happens to the table. When both are
-- alike, row by row, they change places: that takes a short lock, which is tried for and never waited for long. (create_hypertable
-- with migrate_data would lock everybody out for all of that time.) Meanwhile the disk holds the table twice. An interrupted run leaves the
-- table as it was, and the next one begins anew.

-- Whoever logged in: what is made here belongs to the tables' owner.
do $$
begin
    perform set_config('role', pg_catalog.pg_get_userbyid(relowner), false)
    from pg_catalog.pg_class where oid = 'public.validation_history'::regclass;
end
$$;

create or replace function pg_temp.is_hypertable(history text)
    returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    found boolean := false;
begin
    if to_regclass('timescaledb_information.hypertables') is not null then
        execute 'select exists (select from timescaledb_information.hypertables where hypertable_schema = ''public'' and hypertable_name = $1)'
            into found using history;
    end if;
    return found;
end
$$;

-- What keeps a table from being replaced, since this would not carry it over.
create or replace function pg_temp.obstacle(history regclass)
    returns text
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    select string_agg(distinct what, ', ')
    from (
        select 'trigger ' || tgname from pg_trigger
        where tgrelid = history and not tgisinternal and tgname not in ('ts_insert_blocker', 'registry_mirror')
        union all
        select 'policy ' || polname from pg_policy where polrelid = history
        union all
        select 'publication ' || pubname from pg_publication_rel join pg_publication on pg_publication.oid = prpubid where prrelid = history
        union all
        select 'view ' || ev_class::regclass from pg_rewrite join pg_depend on classid = 'pg_rewrite'::regclass and objid = pg_rewrite.oid
        where refclassid = 'pg_class'::regclass and refobjid = history
        union all
        select 'foreign key ' || conname from pg_constraint where confrelid = history
        union all
        select 'partitioning' from pg_class where oid = history and relkind <> 'r'
        union all
        select 'rights on column ' || attname from pg_attribute where attrelid = history and attacl is not null
    ) as obstacles (what)
$$;

-- An empty twin with all that belongs to a table, under names that end in _next.
create or replace function pg_temp.make_twin(history text, moment text, hypertable boolean)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    original constant regclass := format('public.%I', history);
    twin constant text := history || '_next';
    part record;
    extension_schema text;
begin
    execute format('drop trigger if exists registry_mirror on %s', original);
    execute format('drop function if exists public.%I()', history || '_mirror');
    execute format('drop table if exists public.%I', twin);

    execute format('create table public.%I (like %s including all excluding indexes excluding identity)', twin, original);
    for part in
        select format('alter table public.%I set (%s)', twin, array_to_string(reloptions, ', ')) as statement from pg_class
        where oid = original and reloptions is not null
        union all
        select format('comment on table public.%I is %L', twin, obj_description(original, 'pg_class'))
        union all
        select format('alter table public.%I alter %I add generated %s as identity', twin, attname,
                      case attidentity when 'a' then 'always' else 'by default' end)
        from pg_attribute where attrelid = original and attidentity <> ''
    loop
        execute part.statement;
    end loop;
    if hypertable then
        select extnamespace::regnamespace into strict extension_schema from pg_extension where extname = 'timescaledb';
        execute format(
            'select %s.create_hypertable(%L::regclass, %L::name, chunk_time_interval => make_interval(days => %s), create_default_indexes => false)',
            extension_schema, 'public.' || twin, moment, coalesce(nullif(current_setting('registry.chunk_days', true), '')::integer, 7));
    end if;
    for part in
        select format('alter table public.%I add constraint %I %s', twin, conname || case contype when 'f' then '' else '_next' end,
                      pg_get_constraintdef(oid)) as statement
        from pg_constraint where conrelid = original and contype in ('p', 'u', 'f') and conislocal
        union all
        select regexp_replace(pg_get_indexdef(indexrelid), ' INDEX \S+ ON (ONLY )?\S+ ', format(' INDEX %I ON public.%I ', relname || '_next', twin))
        from pg_index join pg_class on pg_class.oid = indexrelid
        where indrelid = original and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))
        union all
        select format('comment on index public.%I is %L', relname || '_next', obj_description(indexrelid, 'pg_class'))
        from pg_index join pg_class on pg_class.oid = indexrelid
        where indrelid = original and obj_description(indexrelid, 'pg_class') is not null
    loop
        execute part.statement;
    end loop;

    -- Rights on the table and on its sequence. What a new table has by default and the old one does not have any more, is taken away first.
    for part in
        select kind, old_oid, new_name
        from (
            select 'table' as kind, original::oid as old_oid, format('public.%I', twin) as new_name
            union all
            select 'sequence', objid, format('public.%I', twin || '_id_seq')
            from pg_depend where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and refobjid = original and deptype = 'i'
                and exists (select from pg_class where oid = objid and relkind = 'S')
        ) as relations
    loop
        perform pg_temp.copy_rights(part.kind, part.old_oid, part.new_name);
    end loop;

    -- As its owner, since those who write to the table need not have any right on the twin.
    execute format($function$
        create function public.%1$I()
            returns trigger
            language plpgsql
            security definer
            set search_path = pg_catalog, pg_temp
        as $body$
        begin
            if tg_op <> 'INSERT' then
                -- Not while a batch is on its way, which may still see the row.
                perform pg_advisory_xact_lock_shared(hashtext('registry_mirror'), hashtext(%2$L));
                delete from public.%3$I where %4$I = old.%4$I and id = old.id;
            end if;
            if tg_op <> 'DELETE' then
                insert into public.%3$I overriding system value values (new.*) on conflict do nothing;
            end if;
            return null;
        end
        $body$
        $function$, history || '_mirror', history, twin, moment);
    execute format('revoke execute on function public.%I() from public', history || '_mirror');
    execute format('create trigger registry_mirror after insert or update or delete on %s for each row execute function public.%I()',
                   original, history || '_mirror');
end
$$;

create or replace function pg_temp.copy_rights(kind text, original oid, copy text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    right_ record;
begin
    for right_ in
        select case when grantee = 0 then 'public' else grantee::regrole::text end as grantee
        from pg_class cross join aclexplode(relacl) where oid = copy::regclass and grantee <> relowner group by 1
    loop
        execute format('revoke all on %s %s from %s', kind, copy, right_.grantee);
    end loop;
    for right_ in
        select case when grantee = 0 then 'public' else grantee::regrole::text end as grantee, privilege_type, is_grantable
        from pg_class cross join aclexplode(relacl) where oid = original and grantee <> relowner
    loop
        execute format('grant %s on %s %s to %s%s', right_.privilege_type, kind, copy, right_.grantee,
                       case when right_.is_grantable then ' with grant option' else '' end);
    end loop;
end
$$;

-- The twin takes the table's place and names.
create or replace function pg_temp.change_places(history text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    original constant regclass := format('public.%I', history);
    twin constant regclass := format('public.%I', history || '_next');
    renaming record;
    sequence regclass := pg_get_serial_sequence(format('public.%I', history), 'id');
    sequence_name text := (select relname from pg_class where oid = sequence);
    last_value bigint;
    is_called boolean;
begin
    execute format('select last_value, is_called from %s', sequence) into last_value, is_called;
    perform setval(pg_get_serial_sequence(twin::text, 'id'), last_value, is_called);
    execute format('drop table %s', original);
    execute format('drop function public.%I()', history || '_mirror');
    execute format('alter table %s rename to %I', twin, history);
    execute format('alter sequence %s rename to %I', pg_get_serial_sequence(format('public.%I', history), 'id'), sequence_name);
    for renaming in
        select relname, left(relname, -5) as name
        from pg_index join pg_class on pg_class.oid = indexrelid
        where indrelid = twin and relname like '%\_next'
    loop
        -- A key's constraint follows its index.
        execute format('alter index public.%I rename to %I', renaming.relname, renaming.name);
    end loop;
end
$$;

create or replace procedure pg_temp.become(history text, moment text, hypertable boolean)
    language plpgsql
as $$
declare
    batch_rows integer := coalesce(nullif(current_setting('registry.batch_rows', true), '')::integer, 20000);
    obstacle text := pg_temp.obstacle(format('public.%I', history)::regclass);
    last_time timestamptz := '-infinity';
    last_id bigint := 0;
    copied bigint;
    total bigint := 0;
    twins bigint;
    began timestamptz := clock_timestamp();
    locked timestamptz;
begin
    if pg_temp.is_hypertable(history) = hypertable then
        return;
    end if;
    if obstacle is not null then
        raise exception 'public.% cannot be replaced, since it has what would not be carried over: %', history, obstacle;
    end if;
    perform set_config('lock_timeout', '5s', true);
    perform pg_temp.make_twin(history, moment, hypertable);
    commit;

    loop
        -- Deletions wait for the end of a batch, and a batch for the end of those that have begun.
        perform pg_advisory_xact_lock(hashtext('registry_mirror'), hashtext(history));
        execute format(
            'with batch as materialized (select * from public.%1$I where (%3$I, id) > ($1, $2) order by %3$I, id limit $3),'
            ' copied as (insert into public.%2$I overriding system value select * from batch on conflict do nothing)'
            ' select %3$I, id, count(*) over () from batch order by %3$I desc, id desc limit 1',
            history, history || '_next', moment)
            into last_time, last_id, copied using last_time, last_id, batch_rows;
        commit;
        exit when last_time is null;
        total := total + copied;
    end loop;

    execute format('analyze public.%I', history || '_next');
    execute format('select (select count(*) from public.%I), (select count(*) from public.%I)', history, history || '_next') into total, twins;
    if total <> twins then
        raise exception 'public.% has % rows and its copy %: somebody deleted rows past the trigger; run this again', history, total, twins;
    end if;
    commit;

    for attempt in 1 .. 60 loop
        begin
            perform set_config('lock_timeout', '1s', true);
            execute format('lock table public.schemas, public.%I in access exclusive mode', history);
            locked := clock_timestamp();
            perform pg_temp.change_places(history);
            exit;
        exception
            when lock_not_available then
                if attempt = 60 then
                    raise exception 'public.% was in use all the time: nothing has changed, run this again', history using errcode = 'lock_not_available';
                end if;
        end;
        commit;
        perform pg_sleep(0.5 + random());
    end loop;
    commit;
    raise notice 'changed: public.% is a % now: % rows in % s, locked for % ms', history,
        case when hypertable then 'hypertable' else 'plain table' end, total,
        round(extract(epoch from clock_timestamp() - began)::numeric, 1), round(extract(epoch from clock_timestamp() - locked)::numeric * 1000, 1);
end
$$;

do $$
begin
    if coalesce(nullif(current_setting('registry.history', true), ''), 'hypertable') not in ('hypertable', 'plain') then
        raise exception 'registry.history is %, which is neither hypertable nor plain', current_setting('registry.history', true);
    end if;
    if coalesce(nullif(current_setting('registry.history', true), ''), 'hypertable') = 'hypertable'
        and not exists (select from pg_catalog.pg_extension where extname = 'timescaledb')
    then
        raise exception 'timescaledb is not installed in this database' using hint = 'create extension timescaledb';
    end if;
end
$$;

call pg_temp.become('validation_history', 'validated_at', coalesce(nullif(current_setting('registry.history', true), ''), 'hypertable') = 'hypertable');
call pg_temp.become('schema_access_log', 'accessed_at', coalesce(nullif(current_setting('registry.history', true), ''), 'hypertable') = 'hypertable');
call pg_temp.become('compatibility_checks', 'checked_at', coalesce(nullif(current_setting('registry.history', true), ''), 'hypertable') = 'hypertable');
