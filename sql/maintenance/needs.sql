-- What there is to do now, as statements that each run outside of a transaction, and why; none where all is well. `tasks_from: run` of the role
-- maintenance runs them one by one: those for tables first, and then, since what is said of indexes goes by statistics, it asks again.
--
-- Settings: registry.reindex_percent=50 (a larger part of an index is air) of registry.reindex_mb=64 (and it is at least so large).
select reason, statement
from (
    select
        1 as place, relname, format('%s dead of %s rows', n_dead_tup, n_live_tup + n_dead_tup) as reason,
        format('vacuum %s', relid::regclass) as statement
    from pg_stat_user_tables
    where schemaname = 'public' and n_dead_tup > 50 + 0.02 * n_live_tup
    union all
    -- By itself, since as a part of VACUUM it leaves the count of an index's entries as it was.
    select 2, relname, coalesce(n_mod_since_analyze || ' changes since ' || greatest(last_analyze, last_autoanalyze)::timestamptz(0), 'never analyzed'),
        format('analyze %s', relid::regclass)
    from pg_stat_user_tables
    where schemaname = 'public' and (
        n_dead_tup > 50 + 0.02 * n_live_tup
        or n_mod_since_analyze > 50 + 0.05 * n_live_tup
        or coalesce(last_analyze, last_autoanalyze) is null
    )
    union all
    -- What REINDEX CONCURRENTLY left behind is superfluous; what CREATE INDEX CONCURRENTLY did, is somebody's wish.
    select 3, relname, 'invalid',
        case when relname ~ '_cc(new|old)\d*$' then format('drop index concurrently %s', oid::regclass)
        else format('reindex index concurrently %s', oid::regclass) end
    from pg_index
    join pg_class on oid = indexrelid
    where not indisvalid and relkind = 'i' and relnamespace = 'public'::regnamespace
        -- Whoever builds one now holds this lock on its table. (The view of such builds names no table to other roles.)
        and not exists (
            select from pg_locks
            where locktype = 'relation' and relation = indrelid and mode = 'ShareUpdateExclusiveLock' and granted
                and pg_locks.database = (select pg_database.oid from pg_database where datname = current_database())
                and pid is distinct from pg_backend_pid()
        )
    union all
    select 4, relname, format('%s of %s are air', pg_size_pretty(size - needed), pg_size_pretty(size)), format('reindex index concurrently %s', index)
    from public.index_bloat()
    join pg_class on oid = index
    where percent_bloat > coalesce(nullif(current_setting('registry.reindex_percent', true), '')::integer, 50)
        and size >= coalesce(nullif(current_setting('registry.reindex_mb', true), '')::bigint, 64) * 1024 * 1024
) as needs
order by place, relname;
