-- How many rows retention would delete now, at the default ages.
select to_regprocedure('public.retention_backlog(integer, integer, integer, integer)') is not null as has_retention \gset
\if :has_retention
select * from public.retention_backlog();
\endif
