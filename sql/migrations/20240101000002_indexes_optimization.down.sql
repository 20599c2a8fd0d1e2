-- data-loss: table schema_access_log, view popular_schemas, table maintenance_runs

drop function public.index_bloat();
drop function public.maintenance_jobs(integer, integer, integer, integer);
drop function public.retention_backlog(integer, integer, integer, integer);
drop procedure public.purge_deleted_schemas(integer, bigint, integer);
drop function public.schemas_to_purge(integer);
drop procedure public.purge_history(text, integer, bigint, integer);
drop function public.history_horizon(text, integer);
drop table public.maintenance_runs;

drop index public.compatibility_checks_subject_idx;
drop index public.validation_history_slow_recent_idx;
drop index public.validation_history_slow_idx;
alter table public.schemas alter column subject set statistics -1;
drop statistics public.schemas_tags_stats;
drop statistics public.schemas_search_stats;
drop index public.schemas_deleted_at_idx;
drop index public.schemas_containment_idx;
drop index public.schemas_live_search_idx;
drop index public.schemas_live_precedence_idx;
drop index public.schemas_live_created_at_idx;
drop index public.schemas_live_subject_idx;
drop index public.schemas_live_version_idx;
drop function public.refresh_popular_schemas();
drop materialized view public.popular_schemas;
drop function public.recent_accesses();
drop table public.schema_access_log;
