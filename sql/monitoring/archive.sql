-- Whether the log arrives in its archive, and how much of it waits.
select current_setting('archive_mode') as archiving,
    case
        when current_setting('archive_mode') = 'off' then 'off'
        when last_failed_time > coalesce(last_archived_time, '-infinity') then 'FAILS: the server log says why'
        else 'works'
    end as state,
    last_archived_wal, date_trunc('second', last_archived_time) as archived_at, last_failed_wal, date_trunc('second', last_failed_time) as failed_at,
    (select count(*) from pg_ls_archive_statusdir() where name like '%.ready') as segments_waiting
from pg_stat_archiver;
