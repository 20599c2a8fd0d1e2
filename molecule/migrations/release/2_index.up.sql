-- no-transaction
create index concurrently items_name on public.items (name);
