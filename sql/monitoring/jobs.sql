-- The regular jobs, by whatever runs them, with their last result. (What pg_cron ran is shown to superusers, and to the role that it ran as.)
select job, scheduler, schedule, started_at, finished_at - started_at as took, result, message
from (
    select
        job, 'timer' as scheduler, null as schedule, started_at, finished_at,
        case succeeded when true then 'succeeded' when false then 'failed' else 'runs, or was cut off' end as result, message
    from public.maintenance_runs
    union all
    -- Where there is no pg_cron, its tables must not be named.
    select
        (xpath('//job/text()', entry))[1]::text, 'pg_cron', (xpath('//schedule/text()', entry))[1]::text,
        (xpath('//start_time/text()', entry))[1]::text::timestamptz, (xpath('//end_time/text()', entry))[1]::text::timestamptz,
        coalesce((xpath('//status/text()', entry))[1]::text, 'has not run yet'), (xpath('//return_message/text()', entry))[1]::text
    from unnest(
        case when to_regclass('cron.job') is not null then
            xpath('//row', query_to_xml(
                'select distinct on (jobid) substr(jobname, 11) as job, schedule, start_time, end_time, status, return_message'
                ' from cron.job left join cron.job_run_details using (jobid)'
                ' where jobname like ''registry: %'' and job.database = current_database() order by jobid, start_time desc',
                false, false, ''))
        end
    ) as entry
) as jobs
order by job, scheduler;
