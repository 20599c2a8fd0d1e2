-- Everything that the role wants to know, in one query: also which of its files are on the host, since the server can read them.
select
    pg_is_in_recovery() as standby,
    to_regprocedure('public.maintenance_jobs(integer, integer, integer, integer)') is not null as ready,
    coalesce((select json_agg(extname) from pg_catalog.pg_extension), '[]') as extensions,
    (pg_stat_file('/run/systemd/system', true)).isdir is not null as systemd,
    -- The extension's own views must not be named where it is not: so they are asked in a string.
    coalesce(
        (
            xpath(
                '//total/text()',
                case when to_regclass('timescaledb_information.hypertables') is not null then
                    query_to_xml(
                        'select count(*) as total from timescaledb_information.hypertables where hypertable_schema = ''public'''
                        ' and hypertable_name in (''validation_history'', ''schema_access_log'', ''compatibility_checks'')',
                        false, false, ''
                    )
                end
            )
        )[1]::text::integer,
        0
    ) as hypertables,
    to_regclass('public.slow_statements') is not null and to_regprocedure('public.reset_statements()') is not null as statements_ready,
    (
        -- The jobs are, too.
        select coalesce(json_agg(json_build_object('job', job, 'schedule', coalesce(%(schedules)s::json ->> job, schedule)) order by job), '[]')
        from unnest(
            case when to_regprocedure('public.maintenance_jobs(integer, integer, integer, integer)') is not null then
                xpath('//row', query_to_xml('select job, schedule from public.maintenance_jobs()', false, false, ''))
            end
        ) as entry
        cross join lateral (values ((xpath('//job/text()', entry))[1]::text, (xpath('//schedule/text()', entry))[1]::text)) as words (job, schedule)
    ) as jobs,
    (
        select coalesce(json_object_agg(path, encode(sha256(pg_read_binary_file(path)), 'hex')), '{}')
        from (
            select directory || '/' || name as path
            from (values ('/etc/systemd/system'), ('/etc/systemd/system/timers.target.wants'), ('/etc/cron.d')) as directories (directory)
            cross join lateral pg_ls_dir(directory, true, false) as name
            -- The rest of a name tells these from the files of a database whose name only begins alike.
            where starts_with(name, %(prefix)s) and substr(name, length(%(prefix)s) + 1) ~ '^(@[.]service|-[a-z_]+[.]timer)?$'
            union all
            select %(script)s where (pg_stat_file(%(script)s, true)).isdir is not null
        ) as files
    ) as files
