-- What the functions answer, and to whom.
begin;
select plan(29);

select has_function('public', 'get_schema_statistics', array[]::name[]);
select has_function('public', 'cleanup_old_validation_history', array['integer']);
select has_function('public', 'refresh_popular_schemas', array[]::name[]);
select has_function('public', 'refresh_subject_versions', array[]::name[]);
select function_returns('public', 'cleanup_old_validation_history', array['integer'], 'integer');
select is((select pg_get_function_result('get_schema_statistics()'::regprocedure)),
    'TABLE(total_schemas bigint, total_subjects bigint, active_schemas bigint, deprecated_schemas bigint, deleted_schemas bigint, avg_validations_per_day numeric, avg_validation_duration_ms numeric)');

select is_empty(
    $$select oid::regprocedure from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'f'
      and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = pg_proc.oid and deptype = 'e')
      and not exists (select from unnest(proconfig) as setting where setting like 'search_path=%')$$,
    'every function pins its search_path');
select is_empty(
    $$select oid::regprocedure from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'p' and prosrc !~ 'set_config\(''search_path'', ''pg_catalog, pg_temp'', true\)'$$,
    'every procedure pins its search_path inside');

insert into schemas (id, subject, version_major, version_minor, version_patch, schema_type, content, metadata, compatibility_level, deleted_at) values
    ('00000000-0000-0000-0000-000000000001', 'orders', 1, 0, 0, 'JSON', '{}', '{"state": "ACTIVE"}', 'FULL', null),
    ('00000000-0000-0000-0000-000000000002', 'orders', 2, 0, 0, 'JSON', '{}', '{"state": "DEPRECATED"}', 'FULL', null),
    ('00000000-0000-0000-0000-000000000003', 'orders', 3, 0, 0, 'JSON', '{}', '{"state": "DELETED"}', 'FULL', now() - interval '31 days'),
    ('00000000-0000-0000-0000-000000000004', 'orders', 4, 0, 0, 'JSON', '{}', '{"state": "DELETED"}', 'FULL', now() - interval '31 days'),
    ('00000000-0000-0000-0000-000000000005', 'orders', 5, 0, 0, 'JSON', '{}', '{"state": "DELETED"}', 'FULL', now() - interval '29 days');
insert into schema_dependencies values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003', 'import');
insert into validation_history (schema_id, data_hash, valid, duration_ms, validated_at)
select '00000000-0000-0000-0000-000000000001', repeat('0', 64), true, 2, now() - days * interval '1 day' from unnest(array[0, 1, 89, 91, 200]) as days;

select results_eq('select total_schemas, total_subjects, active_schemas, deprecated_schemas, deleted_schemas from get_schema_statistics()',
    $$values (5::bigint, 1::bigint, 1::bigint, 1::bigint, 3::bigint)$$);
select is((select avg_validation_duration_ms from get_schema_statistics()), 2.000);
select is((select total from retention_backlog() where kind = 'validation_history'), 2::bigint);
select is((select total from retention_backlog(validation_days => 300) where kind = 'validation_history'), 0::bigint);
select is((select total from retention_backlog() where kind = 'schemas'), 1::bigint, 'what a live schema depends on, and what is deleted since less than a month, stays');
select is(array(select schemas_to_purge(30)), array['00000000-0000-0000-0000-000000000004'::uuid]);
select is(cleanup_old_validation_history(), 2);
select is(cleanup_old_validation_history(), 0);
select throws_ok('select cleanup_old_validation_history(-1)', '22023');
select throws_ok($$select history_horizon('schemas', 1)$$, '22023');
select throws_ok($$call purge_history('validation_history', -1)$$, '22023');

select is((select count(*) from maintenance_jobs()), 8::bigint);
select is_empty($$select job from maintenance_jobs() where schedule !~ '^(\S+ ){4}\S+$'$$, 'every job has a time');

select refresh_subject_versions();
select is((select versions from subject_versions where subject = 'orders'), array['2.0.0', '1.0.0']);
select refresh_popular_schemas();

select function_privs_are('public', 'refresh_subject_versions', array[]::name[], 'schema_registry_readonly', array[]::name[]);
select function_privs_are('public', 'cleanup_old_validation_history', array['integer'], 'schema_registry_readonly', array[]::name[]);
select function_privs_are('public', 'get_schema_statistics', array[]::name[], 'schema_registry_readonly', array['EXECUTE']);
select table_privs_are('public', 'schemas', 'schema_registry_readonly', array['SELECT']);
select table_privs_are('public', 'validation_history', 'schema_registry_readonly', array['SELECT']);
select table_privs_are('public', 'maintenance_runs', 'schema_registry_readonly', array['SELECT']);
select table_privs_are('public', 'popular_schemas', 'schema_registry_readonly', array['SELECT']);

select * from finish();
rollback;
