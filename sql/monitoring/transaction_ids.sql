-- The age of the oldest transaction ids: autovacuum freezes at autovacuum_freeze_max_age, and the server stops writing at two thousand million.
select
    coalesce(c.oid::regclass::text, '(database)') as "table", ages.xid_age, round(100.0 * ages.xid_age / 2000000000, 2) as percent_of_the_end,
    round(100.0 * ages.xid_age / current_setting('autovacuum_freeze_max_age')::bigint, 1) as percent_of_freezing
from (
    (select oid, age(relfrozenxid) as xid_age from pg_class where relkind in ('r', 'm', 't') order by 2 desc limit 3)
    union all
    select null, age(datfrozenxid) from pg_database where datname = current_database()
) as ages
left join pg_class as c using (oid)
order by ages.xid_age desc;
