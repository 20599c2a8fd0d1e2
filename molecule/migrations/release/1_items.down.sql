drop table public.items;
