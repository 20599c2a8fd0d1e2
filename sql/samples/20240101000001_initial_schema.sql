-- A few rows in every table of this version: what a way back loses can only be seen where there is something.

insert into public.subjects (name, default_compatibility_level, description, tags)
values ('orders', 'BACKWARD', 'What was ordered', '{shop}');

insert into public.schemas (
    subject, version_major, version_minor, version_patch, version_prerelease, version_build,
    schema_type, content, metadata, created_by, compatibility_level, deleted_at
)
values
    ('orders', 1, 0, 0, null, null, 'JSON', '{"type": "object"}', '{"state": "ACTIVE", "tags": ["shop"]}', 'anna', 'BACKWARD', null),
    ('orders', 1, 1, 0, 'rc.1', 'build.7', 'JSON', '{"type": "object"}', '{"state": "DRAFT"}', 'anna', 'BACKWARD', now());

insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type)
select one.id, other.id, 'reference'
from public.schemas as one
inner join public.schemas as other on one.id > other.id;

insert into public.validation_history (schema_id, data_hash, valid, error_count, duration_ms)
select id, encode(sha256('data'), 'hex'), false, 2, 1.5 from public.schemas;

insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible, violations)
values ('orders', '1.0.0', '1.1.0', 'BACKWARD', false, '["a field is gone"]');

select public.refresh_subject_versions();
