-- Tries what the migration promises, and raises an exception at the first promise that is not kept.
-- What it writes is rolled back by whoever runs it.

-- What an application may leave out has its default; an empty pre-release or build is as good as none.
do $$
declare
    verification constant text := 'verification ' || uuid_generate_v4();
    row public.schemas;
    first_update timestamptz;
    second_update timestamptz;
begin
    insert into public.schemas (subject, version_major, version_minor, version_patch, version_prerelease, version_build,
                                schema_type, content, compatibility_level)
    values (verification, 1, 0, 0, '', '', 'JSON', '{}', 'BACKWARD')
    returning * into row;
    if row.id is null or row.metadata <> '{}' or row.created_at <> now() or row.deleted_at is not null then
        raise exception 'defaults of schemas: id %, metadata %, created_at %, deleted_at %',
            row.id, row.metadata, row.created_at, row.deleted_at;
    end if;

    insert into public.subjects (name, default_compatibility_level) values (verification, 'BACKWARD');
    update public.subjects set description = 'one' where name = verification returning updated_at into first_update;
    update public.subjects set description = 'two' where name = verification returning updated_at into second_update;
    if first_update <= now() or second_update <= first_update then
        raise exception 'subjects.updated_at does not move on every update: %, then %, then %', now(), first_update, second_update;
    end if;
    if (select tags from public.subjects where name = verification) <> '{}' then
        raise exception 'subjects.tags is not empty by default';
    end if;
end
$$;

-- Impossible data is refused, and by the constraint that is there for it.
do $$
declare
    verification constant text := 'verification ' || uuid_generate_v4();
    one uuid;
    other uuid;
    refusal record;
    refused_by text;
begin
    insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level)
    values (verification, 1, 0, 0, 'JSON', '{}', 'BACKWARD')
    returning id into one;
    insert into public.schemas (subject, version_major, version_minor, version_patch, version_prerelease, version_build,
                                schema_type, content, compatibility_level, deleted_at)
    values (verification, 1, 0, 0, 'rc.1', 'b-7', 'AVRO', '{}', 'BACKWARD', now())
    returning id into other;

    for refusal in
        select expected, statement
        from (values
            ('schemas_subject_version_key', format($s$update public.schemas set version_prerelease = null, version_build = null where id = %L$s$, other)),
            ('schemas_subject_version_key', format($s$update public.schemas set version_prerelease = '', version_build = '' where id = %L$s$, other)),
            ('schemas_subject_version_key', format($s$update public.schemas set version_prerelease = 'rc.1', version_build = 'b-7' where id = %L$s$, one)),
            ('schemas_subject_check', $s$update public.schemas set subject = '' where id = %L$s$),
            ('schemas_version_check', $s$update public.schemas set version_major = -1 where id = %L$s$),
            ('schemas_version_check', $s$update public.schemas set version_minor = -1 where id = %L$s$),
            ('schemas_version_check', $s$update public.schemas set version_patch = -1 where id = %L$s$),
            ('schemas_version_prerelease_check', $s$update public.schemas set version_prerelease = 'rc..1' where id = %L$s$),
            ('schemas_version_prerelease_check', $s$update public.schemas set version_prerelease = 'rc.01' where id = %L$s$),
            ('schemas_version_prerelease_check', $s$update public.schemas set version_prerelease = 'rc 1' where id = %L$s$),
            ('schemas_version_build_check', $s$update public.schemas set version_build = 'a+b' where id = %L$s$),
            ('schemas_schema_type_check', $s$update public.schemas set schema_type = 'XML' where id = %L$s$),
            ('schemas_compatibility_level_check', $s$update public.schemas set compatibility_level = '' where id = %L$s$),
            ('schemas_metadata_check', $s$update public.schemas set metadata = '[]' where id = %L$s$),
            ('schemas_metadata_state_check', $s$update public.schemas set metadata = '{"state": "GONE"}' where id = %L$s$),
            ('schemas_metadata_tags_check', $s$update public.schemas set metadata = '{"tags": "one"}' where id = %L$s$),
            ('schema_dependencies_self_check',
                $s$insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type) values (%1$L, %1$L, 'import')$s$),
            ('schema_dependencies_dependency_type_check',
                $s$insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type) values (%1$L, %2$L, 'friend')$s$),
            ('schema_dependencies_schema_id_fkey',
                $s$insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type) values (uuid_generate_v4(), %1$L, 'import')$s$),
            ('schema_dependencies_depends_on_id_fkey',
                $s$insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type) values (%1$L, uuid_generate_v4(), 'import')$s$),
            ('subjects_name_check', $s$insert into public.subjects (name, default_compatibility_level) values ('', 'NONE')$s$),
            ('subjects_default_compatibility_level_check',
                format($s$insert into public.subjects (name, default_compatibility_level) values (%L, '')$s$, verification)),
            ('validation_history_data_hash_check',
                $s$insert into public.validation_history (schema_id, data_hash, valid, duration_ms) values (%L, repeat('g', 64), true, 1)$s$),
            ('validation_history_data_hash_check',
                $s$insert into public.validation_history (schema_id, data_hash, valid, duration_ms) values (%L, repeat('0', 63), true, 1)$s$),
            ('validation_history_error_count_check',
                $s$insert into public.validation_history (schema_id, data_hash, valid, error_count, duration_ms) values (%L, repeat('0', 64), false, -1, 1)$s$),
            ('validation_history_duration_ms_check',
                $s$insert into public.validation_history (schema_id, data_hash, valid, duration_ms) values (%L, repeat('0', 64), true, -1)$s$),
            ('validation_history_duration_ms_check',
                $s$insert into public.validation_history (schema_id, data_hash, valid, duration_ms) values (%L, repeat('0', 64), true, 'nan')$s$),
            ('validation_history_schema_id_fkey',
                $s$insert into public.validation_history (schema_id, data_hash, valid, duration_ms) values (uuid_generate_v4(), repeat('0', 64), true, 1)$s$),
            ('compatibility_checks_subject_check',
                $s$insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible)
                   values ('', '1.0.0', '1.1.0', 'FULL', true)$s$),
            ('compatibility_checks_version_check',
                $s$insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible)
                   values ('s', '1.0.0', '', 'FULL', true)$s$),
            ('compatibility_checks_compatibility_level_check',
                $s$insert into public.compatibility_checks (subject, old_version, new_version, compatibility_level, compatible)
                   values ('s', '1.0.0', '1.1.0', '', true)$s$)
        ) as refusals (expected, statement)
    loop
        refused_by := null;
        begin
            execute format(refusal.statement, one, other);
        exception
            when integrity_constraint_violation or check_violation or unique_violation or foreign_key_violation then
                get stacked diagnostics refused_by = constraint_name;
        end;
        if refused_by is distinct from refusal.expected then
            raise exception '% should have refused, but % did: %',
                refusal.expected, coalesce(refused_by, 'nobody'), format(refusal.statement, one, other);
        end if;
    end loop;
end
$$;

-- Versions sort as semver.org says, numbers as numbers; what is soft-deleted is not listed.
do $$
declare
    verification constant text := 'verification ' || uuid_generate_v4();
    expected constant text[] := array[
        '2.0.0', '1.1000.0', '1.10.0', '1.9.0', '1.0.0+build.2', '1.0.0+build.1', '1.0.0', '1.0.0-rc.1', '1.0.0-beta.11', '1.0.0-beta.2',
        '1.0.0-beta', '1.0.0-alpha.beta', '1.0.0-alpha.1', '1.0.0-alpha'
    ];
    version text[];
    found public.subject_versions;
begin
    -- Not in their order, and with a later creation for lower versions.
    for version in
        select regexp_match(entry, '^(\d+)\.(\d+)\.(\d+)(?:-([^+]+))?(?:\+(.+))?$')
        from unnest(expected) as entry
        order by md5(entry)
    loop
        insert into public.schemas (subject, version_major, version_minor, version_patch, version_prerelease, version_build,
                                    schema_type, content, compatibility_level, created_at)
        values (verification, version[1]::integer, version[2]::integer, version[3]::integer, version[4], version[5],
                'AVRO', '"string"', 'FULL', now() - version[1]::integer * interval '1 day');
    end loop;
    insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level, deleted_at)
    values (verification, 3, 0, 0, 'AVRO', '"string"', 'FULL', now());

    perform public.refresh_subject_versions();
    select * into found from public.subject_versions where subject = verification;
    if found.versions is distinct from expected then
        raise exception 'versions of a subject are listed as %, not as %', found.versions, expected;
    end if;
    if (found.version_count, found.latest_major, found.latest_minor, found.latest_patch, found.latest_version_at)
        is distinct from (array_length(expected, 1)::bigint, 2, 0, 0, now() - interval '2 days')
    then
        raise exception 'subject_versions misses the highest version: %', found;
    end if;
end
$$;

-- Statistics count; history is cleaned up by age; a schema takes what refers to it along.
do $$
declare
    verification constant text := 'verification ' || uuid_generate_v4();
    before record;
    after record;
    one uuid;
    other uuid;
    deleted integer;
begin
    select * into strict before from public.get_schema_statistics();
    insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, metadata, compatibility_level)
    values (verification, 1, 0, 0, 'THRIFT', '{}', '{"state": "ACTIVE"}', 'NONE')
    returning id into one;
    insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, metadata, compatibility_level)
    values (verification, 1, 0, 1, 'THRIFT', '{}', '{"state": "DEPRECATED"}', 'NONE')
    returning id into other;
    insert into public.schemas (subject, version_major, version_minor, version_patch, schema_type, content, metadata, compatibility_level, deleted_at)
    values (verification, 1, 0, 2, 'THRIFT', '{}', '{"state": "DELETED"}', 'NONE', null),
           (verification, 1, 0, 3, 'THRIFT', '{}', '{"state": "ACTIVE"}', 'NONE', now()),
           (verification, 1, 0, 4, 'THRIFT', '{}', '{"state": "DEPRECATED"}', 'NONE', now());
    insert into public.schema_dependencies (schema_id, depends_on_id, dependency_type) values (one, other, 'extends'), (other, one, 'reference');
    insert into public.validation_history (schema_id, data_hash, valid, validated_at, duration_ms)
    values (one, repeat('aF', 32), true, now(), 1.5),
           (one, repeat('00', 32), true, now() - interval '89 days', 1),
           (one, repeat('11', 32), false, 'epoch', 1);

    select * into strict after from public.get_schema_statistics();
    if (after.total_schemas - before.total_schemas, after.total_subjects - before.total_subjects, after.active_schemas - before.active_schemas,
        after.deprecated_schemas - before.deprecated_schemas, after.deleted_schemas - before.deleted_schemas)
        <> (5::bigint, 1::bigint, 1::bigint, 1::bigint, 3::bigint)
    then
        raise exception 'get_schema_statistics() counts wrongly: % before, % after', before, after;
    end if;
    if after.avg_validations_per_day is null or after.avg_validations_per_day <= 0 or after.avg_validation_duration_ms is null then
        raise exception 'get_schema_statistics() does not see the validations: %', after;
    end if;

    deleted := public.cleanup_old_validation_history();
    if deleted < 1 or (select count(*) from public.validation_history where schema_id = one) <> 2 then
        raise exception 'cleanup_old_validation_history() does not keep 90 days: deleted %', deleted;
    end if;
    begin
        perform public.cleanup_old_validation_history(-1);
        raise exception 'cleanup_old_validation_history(-1) was not refused';
    exception
        when invalid_parameter_value then
            null;
    end;

    delete from public.schemas where id = one;
    if exists (select from public.schema_dependencies where one in (schema_id, depends_on_id))
        or exists (select from public.validation_history where schema_id = one)
    then
        raise exception 'a deleted schema leaves dependencies or validations behind';
    end if;
end
$$;

-- The read-only role reads everything and changes nothing; nobody refreshes or cleans up whom the owner did not let.
do $$
declare
    relation text;
    function text;
begin
    foreach function in array array['refresh_subject_versions()', 'cleanup_old_validation_history(integer)'] loop
        if has_function_privilege('public', 'public.' || function, 'execute') then
            raise exception 'everybody may call %', function;
        end if;
    end loop;
    foreach function in array array['get_schema_statistics()', 'version_precedence(text, text)'] loop
        if not has_function_privilege('public', 'public.' || function, 'execute') then
            raise exception 'not everybody may call %', function;
        end if;
    end loop;

    if exists (select from pg_catalog.pg_roles where rolname = 'schema_registry_readonly' and not rolsuper) then
        foreach relation in array array[
            'schemas', 'schema_dependencies', 'subjects', 'validation_history', 'compatibility_checks', 'subject_versions'
        ] loop
            if not has_table_privilege('schema_registry_readonly', 'public.' || relation, 'select') then
                raise exception 'schema_registry_readonly may not read %', relation;
            end if;
            if has_table_privilege('schema_registry_readonly', 'public.' || relation, 'insert, update, delete, truncate') then
                raise exception 'schema_registry_readonly may write %', relation;
            end if;
        end loop;
        create table public.verification_of_a_later_table (id integer);
        if not has_table_privilege('schema_registry_readonly', 'public.verification_of_a_later_table', 'select') then
            raise exception 'schema_registry_readonly may not read tables that come later';
        end if;
    end if;
end
$$;
