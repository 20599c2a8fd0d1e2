-- B-tree indexes of at least 1 MB that are larger than they need be, by an estimate from the statistics.
select to_regprocedure('public.index_bloat()') is not null as has_bloat \gset
\if :has_bloat
select index, pg_size_pretty(size) as size, pg_size_pretty(needed) as needed, percent_bloat
from public.index_bloat()
where size >= 1024 * 1024 and percent_bloat >= 20
order by size - needed desc;
\endif
