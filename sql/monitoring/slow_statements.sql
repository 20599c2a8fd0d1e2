-- The statements that took the most time altogether, where pg_stat_statements is on.
select to_regclass('public.slow_statements') is not null as has_statements \gset
\if :has_statements
select calls, total_seconds, mean_ms, max_ms, percent_of_time, percent_cached, role, left(regexp_replace(query, '\s+', ' ', 'g'), 100) as query
from public.slow_statements
limit 20;
\endif
