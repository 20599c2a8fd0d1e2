-- The registry's regular jobs in pg_cron: maintenance_jobs() says which, and when. Run it as superuser, as often as you like:
--
--   psql --dbname schema_registry --set ON_ERROR_STOP=1 --file sql/optional/pg_cron.sql
--
-- Settings (PGOPTIONS='-c registry.validation_days=30'), each with its default:
--
--   registry.validation_days=90  registry.access_days=90  registry.check_days=365  registry.deleted_schema_days=30
--   registry.schedules={}        other times, by job: {"refresh_subject_versions": "*/5 * * * *"}
--   registry.runner=             the role that runs them: the migrator where there is one, or else the tables' owner
--   registry.jobs=on             off takes them away again
--
-- What changes is told as a notice. Jobs of other people are left alone: ours are called `registry: ...`.

do $$
declare
    runner text := nullif(current_setting('registry.runner', true), '');
    wanted record;
    known record;
begin
    if not exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
        raise exception 'pg_cron is not installed in this database' using hint = 'create extension pg_cron';
    end if;
    if runner is null then
        select coalesce(
            (select rolname from pg_catalog.pg_roles where rolname = current_database() || '_migrator' and rolcanlogin),
            pg_catalog.pg_get_userbyid(relowner)
        )
        into runner
        from pg_catalog.pg_class
        where oid = 'public.schemas'::regclass;
    end if;

    for wanted in
        select
            'registry: ' || job as name,
            coalesce(nullif(current_setting('registry.schedules', true), '')::json ->> job, schedule) as schedule,
            command
        from (
            select *
            from public.maintenance_jobs(
                coalesce(nullif(current_setting('registry.validation_days', true), '')::integer, 90),
                coalesce(nullif(current_setting('registry.access_days', true), '')::integer, 90),
                coalesce(nullif(current_setting('registry.check_days', true), '')::integer, 365),
                coalesce(nullif(current_setting('registry.deleted_schema_days', true), '')::integer, 30)
            )
            union all
            -- pg_cron itself keeps the record of every run for ever. It shows everybody the runs of his own name only, and a migrator's sessions
            -- begin under the owner's.
            select 'purge_job_results', '52 2 * * *',
                'set role none; delete from cron.job_run_details where end_time < now() - interval ''14 days'''
        ) as jobs
        where coalesce(nullif(current_setting('registry.jobs', true), ''), 'on')::boolean
    loop
        if not exists (
            select from cron.job
            where jobname = wanted.name and job.schedule = wanted.schedule and job.command = wanted.command and active
                and username = runner and database = current_database()
        ) then
            perform cron.schedule_in_database(wanted.name, wanted.schedule, wanted.command, current_database()::text, runner, true);
            raise notice 'changed: % at %', wanted.name, wanted.schedule;
        end if;
    end loop;

    -- Those of another runner, those that are no more, and all of them when they are switched off.
    for known in
        select jobid, jobname, username
        from cron.job
        where jobname like 'registry: %' and database = current_database() and (
            username <> runner
            or not coalesce(nullif(current_setting('registry.jobs', true), ''), 'on')::boolean
            or substr(jobname, 11) not in (select job from public.maintenance_jobs() union all values ('purge_job_results'))
        )
    loop
        perform cron.unschedule(known.jobid);
        raise notice 'changed: % of % is no more', known.jobname, known.username;
    end loop;
end
$$;

-- What is theirs to read and to clean up. (A policy of pg_cron's shows everybody but superusers only their own runs.)
do $$
declare
    runner name;
begin
    for runner in select distinct username from cron.job where jobname = 'registry: purge_job_results' and database = current_database() loop
        if not has_table_privilege(runner, 'cron.job_run_details', 'select, delete') or not has_schema_privilege(runner, 'cron', 'usage') then
            execute format('grant usage on schema cron to %I', runner);
            execute format('grant select, delete on cron.job_run_details to %I', runner);
            raise notice 'changed: % may clean up the record of its jobs', runner;
        end if;
    end loop;
end
$$;
