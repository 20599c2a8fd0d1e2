insert into public.items (id, name) values (1, 'one'), (2, 'two');
