-- no-transaction
drop index concurrently public.items_name;
