insert into public.items (name) values ('probe');
