-- The columns that the application's queries rely on, with their types.
begin;
select plan(58);

select columns_are('public', 'schemas', array['id', 'subject', 'version_major', 'version_minor', 'version_patch', 'version_prerelease', 'version_build',
    'schema_type', 'content', 'metadata', 'created_at', 'created_by', 'compatibility_level', 'deleted_at']);
select columns_are('public', 'schema_dependencies', array['schema_id', 'depends_on_id', 'dependency_type', 'created_at']);
select columns_are('public', 'validation_history', array['id', 'schema_id', 'data_hash', 'valid', 'error_count', 'validated_at', 'duration_ms']);
select columns_are('public', 'compatibility_checks', array['id', 'subject', 'old_version', 'new_version', 'compatibility_level', 'compatible', 'violations', 'checked_at']);
select columns_are('public', 'subjects', array['name', 'default_compatibility_level', 'description', 'tags', 'created_at', 'updated_at']);
select columns_are('public', 'schema_access_log', array['id', 'schema_id', 'accessed_at', 'access_count', 'response_time_ms']);
select columns_are('public', 'subject_versions', array['subject', 'version_count', 'latest_version_at', 'latest_major', 'latest_minor', 'latest_patch', 'versions']);
select columns_are('public', 'popular_schemas', array['id', 'subject', 'version_major', 'version_minor', 'version_patch', 'access_count', 'avg_response_time_ms', 'last_accessed_at']);

select col_type_is('public', t, c, type, format('%s.%s is %s', t, c, type))
from (values
    ('schemas'::name, 'id'::name, 'uuid'), ('schemas', 'subject', 'character varying(255)'), ('schemas', 'version_major', 'integer'),
    ('schemas', 'version_prerelease', 'character varying(255)'), ('schemas', 'version_build', 'character varying(255)'),
    ('schemas', 'schema_type', 'character varying(50)'), ('schemas', 'content', 'jsonb'), ('schemas', 'metadata', 'jsonb'),
    ('schemas', 'created_at', 'timestamp with time zone'), ('schemas', 'created_by', 'character varying(255)'),
    ('schemas', 'compatibility_level', 'character varying(50)'), ('schemas', 'deleted_at', 'timestamp with time zone'),
    ('schema_dependencies', 'dependency_type', 'character varying(50)'), ('validation_history', 'id', 'bigint'),
    ('validation_history', 'data_hash', 'character varying(64)'), ('validation_history', 'error_count', 'integer'),
    ('validation_history', 'duration_ms', 'double precision'), ('compatibility_checks', 'violations', 'jsonb'),
    ('subjects', 'tags', 'text[]'), ('schema_access_log', 'access_count', 'integer'), ('schema_access_log', 'response_time_ms', 'double precision')
) as expected (t, c, type);

select col_is_null('public', t, c, format('%s.%s may be null', t, c))
from (values ('schemas'::name, 'version_prerelease'::name), ('schemas', 'version_build'), ('schemas', 'created_by'), ('schemas', 'deleted_at'),
             ('compatibility_checks', 'violations'), ('subjects', 'description'), ('schema_access_log', 'response_time_ms')) as nullable (t, c);

select col_is_pk('public', 'schemas', 'id', 'the id is the key');
select col_is_pk('public', 'schema_dependencies', array['schema_id', 'depends_on_id'], 'one dependency between two');
select col_is_pk('public', 'subjects', 'name', 'the name is the key');
select col_is_pk('public', 'validation_history', array['validated_at', 'id'], 'a hypertable''s key contains the time');
select col_is_pk('public', 'compatibility_checks', array['checked_at', 'id'], 'a hypertable''s key contains the time');
select col_is_pk('public', 'schema_access_log', array['accessed_at', 'id'], 'a hypertable''s key contains the time');

select fk_ok('public', 'schema_dependencies', 'schema_id', 'public', 'schemas', 'id');
select fk_ok('public', 'schema_dependencies', 'depends_on_id', 'public', 'schemas', 'id');
select fk_ok('public', 'validation_history', 'schema_id', 'public', 'schemas', 'id');
select fk_ok('public', 'schema_access_log', 'schema_id', 'public', 'schemas', 'id');

select has_materialized_view('public', 'subject_versions', 'subject_versions is a materialized view');
select has_materialized_view('public', 'popular_schemas', 'popular_schemas is a materialized view');
select index_is_unique('public', 'subject_versions', 'subject_versions_subject_key');
select index_is_unique('public', 'popular_schemas', 'popular_schemas_id_key');
select index_is_unique('public', 'schemas', 'schemas_subject_version_key');
select has_trigger('public', 'subjects', 'subjects_set_updated_at', 'updated_at moves by itself');
select hasnt_trigger('public', 'schemas', 'refresh', 'nothing happens on the side when a schema is registered');

select has_extension('uuid-ossp');
select has_extension('pg_trgm');
select has_extension('btree_gin');

select is_empty(
    $$select indexrelid::regclass from pg_index join pg_class on oid = indrelid where relnamespace = 'public'::regnamespace
      and obj_description(indexrelid, 'pg_class') is null$$,
    'every index says what it is for');
select is_empty(
    $$select indexrelid::regclass from pg_index join pg_class on oid = indrelid where relnamespace = 'public'::regnamespace and not indisvalid$$,
    'every index is valid');

select * from finish();
rollback;
