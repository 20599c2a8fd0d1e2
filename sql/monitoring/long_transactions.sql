-- Transactions older than a minute, and prepared ones: VACUUM cannot remove what they might still see.
select
    pid::text, usename as role, application_name as application, client_addr as client, state, clock_timestamp() - xact_start as age,
    left(regexp_replace(query, '\s+', ' ', 'g'), 80) as query
from pg_stat_activity
where xact_start < clock_timestamp() - interval '1 minute' and datname = current_database() and backend_type = 'client backend'
union all
select 'prepared', owner, gid, null, 'prepared', clock_timestamp() - prepared, null
from pg_prepared_xacts
where database = current_database()
order by age desc;
