-- data-loss: table schemas, table schema_dependencies, table subjects, table validation_history, table compatibility_checks, view subject_versions

drop function public.get_schema_statistics();
drop function public.cleanup_old_validation_history(integer);
drop function public.refresh_subject_versions();
drop materialized view public.subject_versions;
drop table public.compatibility_checks;
drop table public.validation_history;
drop table public.subjects;
drop function public.set_updated_at();
drop table public.schema_dependencies;
drop table public.schemas;
drop function public.version_precedence(text, text);

-- Extensions and the role go only if the up script made them (their comments say so), if nobody else has begun to use
-- them, and if they are this role's to drop: otherwise they stay, and a notice says why.
do $$
declare
    extension name;
begin
    for extension in
        select extname
        from pg_catalog.pg_extension
        where pg_catalog.obj_description(oid, 'pg_extension')
            = 'made by migration 20240101000001_initial_schema; its down script drops it'
    loop
        begin
            execute format('drop extension %I', extension);
        exception
            when dependent_objects_still_exist or insufficient_privilege then
                raise notice 'extension % stays: %', extension, sqlerrm;
        end;
    end loop;
end
$$;

do $$
declare
    readonly oid := (select oid from pg_catalog.pg_roles where rolname = 'schema_registry_readonly');
begin
    if readonly is null then
        return;
    end if;
    alter default privileges in schema public revoke select on sequences from schema_registry_readonly;
    alter default privileges in schema public revoke select on tables from schema_registry_readonly;

    if pg_catalog.shobj_description(readonly, 'pg_authid')
        is distinct from 'May read the schema registry; made by migration 20240101000001_initial_schema, whose down script drops it'
    then
        return;
    end if;
    -- Memberships would vanish with the role without a word; its maker's own (since PostgreSQL 16) may.
    if exists (
        select from pg_catalog.pg_auth_members
        where roleid = readonly and member <> quote_ident(current_user)::regrole or member = readonly
    ) then
        raise notice 'role schema_registry_readonly stays: it has members, or is one';
        return;
    end if;
    begin
        drop role schema_registry_readonly;
    exception
        when dependent_objects_still_exist or insufficient_privilege then
            raise notice 'role schema_registry_readonly stays: %', sqlerrm;
    end;
end
$$;
