alter table public.items add column price numeric default 1;
