create table public.items as select n as id from generate_series(1, 1000) as n;
alter table public.schema_access_log alter column access_count type bigint;
