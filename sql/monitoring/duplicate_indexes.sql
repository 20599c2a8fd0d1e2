-- Indexes that another one makes superfluous: the same columns in the same order, or their beginning, with the same condition. A beginning that is
-- less than half as large may be there for being small, and of one below a megabyte that cannot be told: those are left out.
select
    narrow.indexrelid::regclass as index, pg_size_pretty(pg_relation_size(narrow.indexrelid)) as size,
    wide.indexrelid::regclass as covered_by, pg_size_pretty(pg_relation_size(wide.indexrelid)) as size_of_that,
    narrow.indrelid::regclass as "table"
from pg_index as narrow
join pg_class as narrow_class on narrow_class.oid = narrow.indexrelid
join pg_index as wide on wide.indrelid = narrow.indrelid and wide.indexrelid <> narrow.indexrelid
join pg_class as wide_class on wide_class.oid = wide.indexrelid and wide_class.relam = narrow_class.relam
where narrow_class.relnamespace = 'public'::regnamespace
    and not narrow.indisunique
    and pg_get_expr(narrow.indpred, narrow.indrelid) is not distinct from pg_get_expr(wide.indpred, wide.indrelid)
    and (
        select array_agg(
            concat_ws(' ', pg_get_indexdef(narrow.indexrelid, place, false), narrow.indclass[place - 1], narrow.indcollation[place - 1], narrow.indoption[place - 1])
            order by place
        )
        from generate_series(1, narrow.indnkeyatts) as place
    ) = (
        select array_agg(
            concat_ws(' ', pg_get_indexdef(wide.indexrelid, place, false), wide.indclass[place - 1], wide.indcollation[place - 1], wide.indoption[place - 1])
            order by place
        )
        from generate_series(1, least(narrow.indnkeyatts, wide.indnkeyatts)) as place
    )
    and (narrow_class.relam <> (select oid from pg_am where amname = 'gin') or narrow.indnkeyatts = wide.indnkeyatts)
    -- Of two that are alike, the one that was made later.
    and (narrow.indnkeyatts < wide.indnkeyatts or narrow.indnatts < wide.indnatts or wide.indisunique or narrow.indexrelid > wide.indexrelid)
    and not exists (
        select from generate_series(narrow.indnkeyatts, narrow.indnatts - 1) as place
        where narrow.indkey[place] <> all (wide.indkey::smallint[])
    )
    and (
        narrow.indnatts >= wide.indnatts
        or pg_relation_size(narrow.indexrelid) >= greatest(1024 * 1024, pg_relation_size(wide.indexrelid) / 2)
    )
order by pg_relation_size(narrow.indexrelid) desc, 1;
