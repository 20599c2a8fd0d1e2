select json_build_object(
    'major', current_setting('server_version_num')::int / 10000,
    -- Who is no superuser sees no directory; then nobody looks at the disk.
    'directories', (
        select coalesce(json_agg(directory), '[]')
        from (
            select setting as directory from pg_settings where name = 'data_directory'
            union
            select setting || '/pg_wal' from pg_settings where name = 'data_directory'
            union
            select pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) <> ''
        ) directories
    ),
    'lag_mb', (
        select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::bigint / 1048576
        from pg_stat_replication
        where replay_lsn is not null
    ),
    'transactions', (
        select coalesce(
            json_agg(
                format(
                    'process %%s of %%s (%%s) from %%s, %%s, its transaction began at %%s',
                    pid, usename, application_name, coalesce(host(client_addr), 'the local socket'), state, date_trunc('second', xact_start)
                )
                order by xact_start
            ),
            '[]'
        )
        from pg_stat_activity
        where
            datname = current_database()
            and backend_type = 'client backend'
            and pid <> pg_backend_pid()
            and xact_start < now() - make_interval(mins => %(minutes)s)
    ),
    'prepared', (
        select coalesce(json_agg(format('%%s of %%s, since %%s', gid, owner, date_trunc('second', prepared)) order by prepared), '[]')
        from pg_prepared_xacts
        where database = current_database()
    ),
    'now', extract(epoch from now())::bigint,
    -- Where the log goes into an archive of pgBackRest. The command itself says which stanza.
    'archive', (
        select json_build_object(
            'stanza', substring(current_setting('archive_command') from '--stanza=([A-Za-z0-9_.-]+)'),
            'is_failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
            'failed_wal', last_failed_wal,
            'failed_at', date_trunc('second', last_failed_time)
        )
        from pg_stat_archiver
        where
            current_setting('archive_mode') <> 'off'
            and current_setting('archive_command') ~ 'pgbackrest .*--stanza='
    )
) as found
