alter table public.items drop column price;
