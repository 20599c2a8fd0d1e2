-- The view slow_statements, and reset_statements(), where pg_stat_statements is on. Run it as superuser, as often as you like:
--
--   psql --dbname schema_registry --set ON_ERROR_STOP=1 --file sql/optional/pg_stat_statements.sql
--
-- They become members of the extension: they go with it, no dump has them, and they are no part of the schema that migrations make. Nothing of
-- theirs depends on the extension's own view and functions, which its updates drop and make anew.

do $$
begin
    if not exists (select from pg_catalog.pg_extension where extname = 'pg_stat_statements') then
        raise exception 'pg_stat_statements is not installed in this database' using hint = 'create extension pg_stat_statements';
    end if;

    -- Runs as whoever asks, who sees of other people's statements what the extension lets him see.
    if to_regprocedure('public.counted_statements()') is null then
        create function public.counted_statements()
            returns table (
                calls bigint,
                total_exec_time double precision,
                mean_exec_time double precision,
                max_exec_time double precision,
                rows bigint,
                shared_blks_hit bigint,
                shared_blks_read bigint,
                userid oid,
                query text
            )
            language plpgsql
            stable
            set search_path = pg_catalog, pg_temp
        as $function$
        begin
            return query execute format(
                'select calls, total_exec_time, mean_exec_time, max_exec_time, rows, shared_blks_hit, shared_blks_read, userid, query'
                ' from %s.pg_stat_statements where dbid = (select oid from pg_database where datname = current_database())',
                (select extnamespace::regnamespace from pg_extension where extname = 'pg_stat_statements'));
        end
        $function$;
        revoke execute on function public.counted_statements() from public;
        grant execute on function public.counted_statements() to pg_monitor;
        alter extension pg_stat_statements add function public.counted_statements();
        comment on function public.counted_statements() is 'What pg_stat_statements has counted in this database';
        raise notice 'changed: function counted_statements()';
    end if;

    if to_regclass('public.slow_statements') is null then
        create view public.slow_statements as
        select
            calls,
            round(total_exec_time::numeric / 1000, 3) as total_seconds,
            round(mean_exec_time::numeric, 3) as mean_ms,
            round(max_exec_time::numeric, 3) as max_ms,
            round((100 * total_exec_time / nullif(sum(total_exec_time) over (), 0))::numeric, 1) as percent_of_time,
            rows,
            round(100.0 * shared_blks_hit / nullif(shared_blks_hit + shared_blks_read, 0), 1) as percent_cached,
            pg_catalog.pg_get_userbyid(userid) as role,
            query
        from public.counted_statements()
        order by total_exec_time desc;
        alter extension pg_stat_statements add view public.slow_statements;
        comment on view public.slow_statements is 'Statements in this database by the time they took altogether, the most expensive first';
        grant select on public.slow_statements to pg_monitor;
        raise notice 'changed: view slow_statements';
    end if;

    if to_regprocedure('public.reset_statements()') is null then
        execute format($function$
            create function public.reset_statements()
                returns void
                language sql
                security definer
                set search_path = pg_catalog, pg_temp
            as 'select %s.pg_stat_statements_reset(0, (select oid from pg_database where datname = current_database()), 0)'
            $function$, (select extnamespace::regnamespace from pg_catalog.pg_extension where extname = 'pg_stat_statements'));
        revoke execute on function public.reset_statements() from public;
        alter extension pg_stat_statements add function public.reset_statements();
        comment on function public.reset_statements() is 'Forgets the statements of this database';
        raise notice 'changed: function reset_statements()';
    end if;
end
$$;
