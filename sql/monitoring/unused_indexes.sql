-- Indexes that nobody has read since the statistics were reset. Standbys count for themselves: ask there, too, before you drop one.
select
    indexrelid::regclass as index, relid::regclass as "table", pg_size_pretty(pg_relation_size(indexrelid)) as size,
    (select stats_reset from pg_stat_database where datname = current_database()) as counted_since
from pg_stat_user_indexes
join pg_index using (indexrelid)
where idx_scan = 0 and not indisunique
order by pg_relation_size(indexrelid) desc, 1;
