-- Tables and views with their indexes, the largest first; dead rows wait for VACUUM. A hypertable's rows are in its chunks, which are summed up.
select
    coalesce(parent, relid)::regclass as "table",
    pg_size_pretty(sum(pg_table_size(relid))) as size,
    pg_size_pretty(sum(pg_indexes_size(relid))) as indexes,
    sum(n_live_tup) as rows,
    sum(n_dead_tup) as dead,
    round(100.0 * sum(n_dead_tup) / nullif(sum(n_live_tup + n_dead_tup), 0), 1) as percent_dead,
    max(greatest(last_vacuum, last_autovacuum)) as vacuumed,
    max(greatest(last_analyze, last_autoanalyze)) as analyzed
from pg_stat_user_tables
left join (select inhrelid as relid, inhparent as parent from pg_inherits) as inherited using (relid)
where coalesce(parent, relid) in (select oid from pg_class where relnamespace = 'public'::regnamespace)
group by 1
order by sum(pg_total_relation_size(relid)) desc;
