-- The regular jobs, by whatever runs them, with their last result.
select to_regclass('public.maintenance_runs') is not null as has_timers, to_regclass('cron.job') is not null as has_pg_cron \gset
\if :has_timers
select job, started_at, finished_at - started_at as took,
    case succeeded when true then 'succeeded' when false then 'failed' else 'runs, or was cut off' end as result, message
from public.maintenance_runs
order by job;
\endif
\if :has_pg_cron
select substr(jobname, 11) as pg_cron_job, schedule, start_time as started_at, end_time - start_time as took,
    coalesce(status, 'has not run yet') as result, return_message as message
from cron.job
left join lateral (
    select * from cron.job_run_details where job_run_details.jobid = job.jobid order by start_time desc nulls first limit 1
) as last on true
where jobname like 'registry: %' and job.database = current_database()
order by jobname;
\endif
