-- How much of what was read was in PostgreSQL's memory. Below 99 % a registry of this kind wants more shared_buffers, or is being dumped.
select
    relname as "table",
    round(100.0 * heap_blks_hit / nullif(heap_blks_hit + heap_blks_read, 0), 1) as percent_of_table,
    round(100.0 * idx_blks_hit / nullif(idx_blks_hit + idx_blks_read, 0), 1) as percent_of_indexes,
    heap_blks_read + coalesce(idx_blks_read, 0) as blocks_read
from pg_statio_user_tables
where schemaname = 'public'
union all
select '(database)', round(100.0 * blks_hit / nullif(blks_hit + blks_read, 0), 1), null, blks_read
from pg_stat_database
where datname = current_database()
order by blocks_read desc;
