-- What the registry holds, and this week's load.
select to_regprocedure('public.get_schema_statistics()') is not null as has_statistics \gset
\if :has_statistics
select * from public.get_schema_statistics();
\endif
