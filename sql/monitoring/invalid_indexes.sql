-- Indexes that a CREATE INDEX or REINDEX CONCURRENTLY left behind when it failed, or is building now: they cost writers, and serve nobody.
select
    indexrelid::regclass as index, pg_index.indrelid::regclass as "table", pg_size_pretty(pg_relation_size(indexrelid)) as size,
    exists (select from pg_stat_progress_create_index as build where build.index_relid = indexrelid) as is_being_built
from pg_index
where not indisvalid
order by 1;
