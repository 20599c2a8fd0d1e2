select
    current_setting('server_version_num')::int / 10000 as version,
    split_part(current_setting('config_file'), '/', -2) as cluster,
    pg_is_in_recovery() as standby,
    current_setting('shared_preload_libraries') as preloaded,
    current_setting('cron.database_name', true) as cron_database,
    (
        -- What the configuration files say, in the order in which they are read: the last one wins.
        select coalesce(
            json_agg(
                json_build_object(
                    'name', name, 'setting', setting, 'file', sourcefile,
                    'own', sourcefile like '%%/' || %(dropin)s,
                    'late', sourcefile like '%%/postgresql.auto.conf'
                        or sourcefile like '%%/conf.d/%%' and split_part(sourcefile, '/', -1) collate "C" > %(file)s
                )
                order by seqno
            ),
            '[]'
        )
        from pg_catalog.pg_file_settings
        where name = any (string_to_array(%(settings)s, ' '))
    ) as settings,
    (
        select coalesce(json_object_agg(name, json_build_object('installed', installed_version is not null, 'outdated', installed_version <> default_version)), '{}')
        from pg_catalog.pg_available_extensions
        where name = any (string_to_array(%(extensions)s, ' '))
    ) as extensions,
    (
        -- Those of the owner and the migrator that lack the right to use pg_cron, where it and they are there.
        select coalesce(json_agg(r.rolname order by r.rolname), '[]')
        from pg_catalog.pg_roles as r, pg_catalog.pg_namespace as n
        where r.rolname in (%(owner)s, %(migrator)s) and n.nspname = 'cron' and not has_schema_privilege(r.oid, n.oid, 'usage')
    ) as cron_lacking
