-- data-loss: table items
drop table public.items;
