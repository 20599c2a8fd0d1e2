-- Who waits for whom. A prepared transaction that is in the way has no session.
select
    blocked.pid, blocked.usename as role, clock_timestamp() - blocked.query_start as waits, left(regexp_replace(blocked.query, '\s+', ' ', 'g'), 60) as query,
    nullif(blocking.pid, 0) as blocker, blocker.usename as blocker_role, blocker.application_name as blocker_application,
    case when blocking.pid = 0 then 'prepared transaction' else blocker.state end as blocker_state,
    left(regexp_replace(blocker.query, '\s+', ' ', 'g'), 60) as blocker_query
from pg_stat_activity as blocked
cross join unnest(pg_blocking_pids(blocked.pid)) as blocking (pid)
left join pg_stat_activity as blocker on blocker.pid = blocking.pid
order by waits desc;
