-- What differs between this database and the declared one: one row, one JSON document. It only reads.
--
-- PostgreSQL itself quotes every name in the statements that this proposes, so any name works. They run in one transaction, in their order, and a
-- database that is as declared gets none. Percent signs are doubled since psycopg2 fills in the one parameter.
with
wanted as materialized (
  select *
  from json_to_record(%(wanted)s) as w (
    owner text, migrator text, app text, readonly text, schemas text[], search_path text[], locale text, ledger text, adopt boolean,
    app_may_migrate boolean, migrator_connection_limit integer, readonly_statement_timeout text, roles_with_password text[]
  )
),
current as materialized (
  select d.oid, d.datname as name, o.rolname as owner, o.rolsuper as owner_is_superuser, coalesce(d.datacl, acldefault('d', d.datdba)) as acl,
    pg_encoding_to_char(d.encoding) as encoding,
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate) as locale
  from pg_database d join pg_authid o on o.oid = d.datdba
  where d.datname = current_database()
),

-- Roles -------------------------------------------------------------------------------------------------------------------------------------------
role as materialized (
  select r.kind, r.name, a.oid, a.rolpassword, a.rolsuper,
    case r.kind
      when 'owner' then 'nologin'
      when 'migrator' then format('login noinherit connection limit %%s', w.migrator_connection_limit)
      else 'login'
    end as attributes,
    a.rolcanlogin = (r.kind <> 'owner')
      and (r.kind <> 'migrator' or (not a.rolinherit and a.rolconnlimit = w.migrator_connection_limit))
      and not (a.rolsuper or a.rolcreatedb or a.rolcreaterole or a.rolreplication or a.rolbypassrls) as fits
  from wanted w
    cross join lateral (values ('owner', w.owner), ('migrator', w.migrator), ('app', w.app), ('readonly', w.readonly)) as r (kind, name)
    left join pg_authid a on a.rolname = r.name
),
-- Acting as the owner takes SET ROLE; nobody inherits its rights (inherit and set are options of a membership since PostgreSQL 16).
membership as materialized (
  select g.name as granted, m.name as member, grantor.rolname as grantor,
    g.kind = 'owner' and (m.kind = 'migrator' or (m.kind = 'app' and w.app_may_migrate)) as wanted,
    a.roleid is not null as held,
    not a.admin_option
      and coalesce(not (to_jsonb(a) ->> 'inherit_option')::boolean, true)
      and coalesce((to_jsonb(a) ->> 'set_option')::boolean, true) as fits
  from wanted w
    cross join role g
    join role m on m.kind <> g.kind
    left join pg_auth_members a on a.roleid = g.oid and a.member = m.oid
    left join pg_authid grantor on grantor.oid = a.grantor
),

-- Rights on the database and its schemas: exactly these, as far as PUBLIC and our own roles are concerned ---------------------------------------------
object (sort, name, acl, owner) as materialized (
  select 1, 'database ' || quote_ident(c.name), c.acl, c.owner from current c
  union all
  select 2, 'schema ' || quote_ident(s.name), coalesce(n.nspacl, acldefault('n', n.nspowner)), o.rolname
  from wanted w
    cross join unnest(w.schemas) as s (name)
    left join pg_namespace n on n.nspname = s.name
    left join pg_authid o on o.oid = n.nspowner
  union all
  -- Where it is not one of them: the place of the extensions, which is looked into and belongs to whom it belongs.
  select 3, 'schema public', coalesce(n.nspacl, acldefault('n', n.nspowner)), o.rolname
  from wanted w
    join pg_namespace n on n.nspname = 'public' and n.nspname <> all (w.schemas)
    join pg_authid o on o.oid = n.nspowner
),
object_right (name, grantee, privilege, wanted) as (
  select o.name, quote_ident(r.name), p.privilege, true
  from object o
    join (values
      (1, 'owner', 'CONNECT'), (1, 'owner', 'CREATE'), (1, 'owner', 'TEMPORARY'), (1, 'migrator', 'CONNECT'), (1, 'app', 'CONNECT'),
      (1, 'readonly', 'CONNECT'), (2, 'owner', 'CREATE'), (2, 'owner', 'USAGE'), (2, 'app', 'USAGE'), (2, 'readonly', 'USAGE'),
      (3, 'owner', 'CREATE'), (3, 'owner', 'USAGE'), (3, 'app', 'USAGE'), (3, 'readonly', 'USAGE')
    ) as p (sort, kind, privilege) on p.sort = o.sort
    join role r on r.kind = p.kind
  where r.kind <> 'owner' or o.sort = 3 or r.name = o.owner  -- whoever becomes the owner gets the rights of one with it
  union all
  select o.name, case when a.grantee = 0 then 'public' else quote_ident(r.name) end, a.privilege_type, false
  from object o
    cross join aclexplode(o.acl) as a
    left join role r on r.oid = a.grantee
  -- What another one has as the owner, goes with the ownership.
  where a.grantee = 0 or (r.name = o.owner) = (r.kind = 'owner') or (o.sort = 3 and r.kind = 'owner')
),
object_change as (
  select name, grantee, privilege, bool_or(wanted) as wanted
  from object_right
  group by name, grantee, privilege
  having count(distinct wanted) = 1
),

-- Rights on what the owner will make: default privileges of the whole database, so that those of a single schema stay the migrations' own -------------
default_right (objtype, grantee, privilege, wanted) as materialized (
  select p.objtype, quote_ident(r.name), p.privilege, true
  from role r
    join (values
      ('r', 'app', 'SELECT'), ('r', 'app', 'INSERT'), ('r', 'app', 'UPDATE'), ('r', 'app', 'DELETE'), ('r', 'readonly', 'SELECT'),
      ('S', 'app', 'SELECT'), ('S', 'app', 'USAGE'), ('S', 'readonly', 'SELECT'), ('f', 'app', 'EXECUTE')
    ) as p (objtype, kind, privilege) on p.kind = r.kind
  union all
  select t.objtype, case when a.grantee = 0 then 'public' else quote_ident(r.name) end, a.privilege_type, false
  from role o
    cross join (values ('r', 'r'), ('S', 's'), ('f', 'f')) as t (objtype, builtin)
    left join pg_default_acl d on d.defaclrole = o.oid and d.defaclnamespace = 0 and d.defaclobjtype = t.objtype::"char"
    cross join aclexplode(coalesce(d.defaclacl, acldefault(t.builtin::"char", coalesce(o.oid, 10)))) as a
    left join role r on r.oid = a.grantee
  where o.kind = 'owner' and (a.grantee = 0 or r.kind <> 'owner')
),
default_change as materialized (
  select objtype, grantee, privilege, bool_or(wanted) as missing
  from default_right
  group by objtype, grantee, privilege
  having count(*) = 1
),

-- What already lies in the schemas, but for extensions' own objects ----------------------------------------------------------------------------------
existing (kind, objtype, oid, name, owner, acl, is_ledger) as materialized (
  select 'table', case c.relkind when 'S' then 'S' else 'r' end, c.oid, format('%%I.%%I', n.nspname, c.relname), c.relowner,
    coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)), c.relname in (w.ledger, w.ledger || '_history')
  from wanted w
    join pg_namespace n on n.nspname = any (w.schemas)
    join pg_class c on c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  where not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
  union all
  select 'routine', 'f', p.oid, format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner,
    coalesce(p.proacl, acldefault('f', p.proowner)), false
  from wanted w
    join pg_namespace n on n.nspname = any (w.schemas)
    join pg_proc p on p.pronamespace = n.oid
  where not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')
  union all
  select 'type', 'T', t.oid, format('%%I.%%I', n.nspname, t.typname), t.typowner, null, false
  from wanted w
    join pg_namespace n on n.nspname = any (w.schemas)
    join pg_type t on t.typnamespace = n.oid and t.typtype in ('c', 'd', 'e', 'r') and t.typelem = 0
    left join pg_class c on c.oid = t.typrelid
  where (c.oid is null or c.relkind = 'c')
    and not exists (select from pg_depend e where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype = 'e')
),
-- Migrations decide about their own objects. Only a default privilege that was missing is made up for, on what the owner made meanwhile.
made_up as (
  select e.objtype, e.kind, e.name, d.grantee, d.privilege, d.missing
  from default_change d
    join existing e on e.objtype = d.objtype and not e.is_ledger
    cross join wanted w
    join role o on o.kind = 'owner'
  where (e.owner = o.oid or w.adopt)
    and d.missing <> exists (
      select from aclexplode(e.acl) a left join pg_authid g on g.oid = a.grantee
      where a.privilege_type = d.privilege and coalesce(quote_ident(g.rolname), 'public') = d.grantee
    )
),

-- Settings of the database, and of a role in it; NULL is none ------------------------------------------------------------------------------------------
setting (role, name, value, text) as (
  select null, 'search_path', s.path, s.path
  from wanted w cross join lateral (select string_agg(quote_ident(p.name), ', ' order by p.place) as path
                                    from unnest(w.search_path) with ordinality as p (name, place)) s
  union all
  select r.name, s.name, s.value, quote_literal(s.value)
  from wanted w
    cross join role r
    join lateral (values
      ('migrator', 'role', w.owner),  -- so that what plain sqlx makes belongs to the owner, too
      ('app', 'role', case when w.app_may_migrate then w.owner end),
      ('readonly', 'default_transaction_read_only', 'on'),
      ('readonly', 'statement_timeout', nullif(w.readonly_statement_timeout, ''))
    ) as s (kind, name, value) on s.kind = r.kind
),
setting_change as (
  select format(case when s.role is null then 'alter database %%2$I' else 'alter role %%1$I in database %%2$I' end
           || case when s.value is null then ' reset %%3$I' else ' set %%3$I to %%4$s' end, s.role, c.name, s.name, s.text) as statement
  from current c
    cross join setting s
    left join role r on r.name = s.role
    left join pg_db_role_setting held on held.setdatabase = c.oid and held.setrole = case when s.role is null then 0 else r.oid end
    left join lateral (select substr(h, length(s.name) + 2) as value from unnest(held.setconfig) as h where split_part(h, '=', 1) = s.name) h on true
  where s.value is distinct from h.value
),

plan (step, statement) as (
  select 10, case when r.oid is null then format('create role %%I %%s', r.name, r.attributes)
             else format('alter role %%I %%s nosuperuser nocreatedb nocreaterole noreplication nobypassrls', r.name, r.attributes) end
  from role r
  where r.fits is not true
  union all
  select 20, format('revoke %%I from %%I granted by %%I cascade', m.granted, m.member, m.grantor)
  from membership m
  where m.held and not (m.wanted and m.fits)
  union all
  select 21, format('grant %%I to %%I', m.granted, m.member)
    || case when current_setting('server_version_num')::integer >= 160000 then ' with inherit false, set true' else '' end
  from membership m
  where m.wanted
  group by m.granted, m.member
  having not coalesce(bool_or(m.held and m.fits), false)
  union all
  select 30, format('alter database %%I owner to %%I', c.name, w.owner) from current c cross join wanted w where c.owner <> w.owner
  union all
  select 31, case when o.owner is null then format('create %%s authorization %%I', o.name, w.owner)
             else format('alter %%s owner to %%I', o.name, w.owner) end
  from object o cross join wanted w
  where o.sort = 2 and o.owner is distinct from w.owner
  union all
  select 32, format('alter %%s %%s owner to %%I', e.kind, e.name, o.name)
  from wanted w cross join existing e join role o on o.kind = 'owner'
  where w.adopt and e.owner is distinct from o.oid
    and not exists (select from pg_depend d  -- a column's own sequence follows its table
                    where d.classid = 'pg_class'::regclass and d.objid = e.oid and d.deptype in ('a', 'i') and d.refobjsubid > 0)
  union all
  select 40, format('revoke grant option for %%s on %%s from %%I cascade', lower(string_agg(a.privilege_type, ', ')), o.name, r.name)
  from object o cross join aclexplode(o.acl) as a join role r on r.oid = a.grantee
  where a.is_grantable
  group by o.name, r.name
  union all
  select case when bool_or(wanted) then 42 else 41 end,
    format(case when bool_or(wanted) then 'grant %%s on %%s to %%s' else 'revoke %%s on %%s from %%s cascade' end,
      lower(string_agg(privilege, ', ' order by privilege)), name, grantee)
  from object_change
  group by name, grantee, wanted
  union all
  select case when missing then 51 else 50 end,
    format(case when missing then 'alter default privileges for role %%I grant %%s on %%s to %%s'
           else 'alter default privileges for role %%I revoke %%s on %%s from %%s' end, w.owner, lower(string_agg(d.privilege, ', ' order by d.privilege)),
      case d.objtype when 'r' then 'tables' when 'S' then 'sequences' else 'functions' end, d.grantee)
  from default_change d cross join wanted w
  group by w.owner, d.objtype, d.grantee, d.missing
  union all
  select case when missing then 61 else 60 end,
    format(case when missing then 'grant %%s on %%s %%s to %%s' else 'revoke %%s on %%s %%s from %%s' end, lower(privilege),
      case objtype when 'S' then 'sequence' else kind end, string_agg(name, ', ' order by name), grantee)
  from made_up
  group by objtype, kind, privilege, grantee, missing
  union all
  select 70, statement from setting_change
  union all
  -- Whoever may write to the ledger may lie to the next migration.
  select 90, format('revoke %%s on table %%s from %%s cascade', lower(string_agg(a.privilege_type, ', ' order by a.privilege_type)), e.name,
    coalesce(quote_ident(g.rolname), 'public'))
  from existing e
    cross join aclexplode(e.acl) as a
    left join pg_authid g on g.oid = a.grantee
  where e.is_ledger and a.grantee <> e.owner and a.privilege_type <> 'SELECT' and g.rolname is distinct from (select owner from wanted)
  group by e.name, g.rolname
  union all
  select 91, format('grant select on table %%s to %%I', e.name, r.name)
  from existing e cross join role r
  where e.is_ledger and r.kind in ('app', 'readonly')
    and not exists (select from aclexplode(e.acl) as a where a.grantee = r.oid and a.privilege_type = 'SELECT')
),

refusal (message) as (
  select format('The database %%I is encoded in %%s, and the registry needs UTF8; an encoding cannot be changed. Dump it, drop it, run this again and load the'
                ' dump, or choose another database_name.', c.name, c.encoding)
  from current c
  where c.encoding <> 'UTF8'
  union all
  select format('The database %%I has the locale %%s, and database_locale asks for %%s; a locale cannot be changed. Set database_locale to %%2$s to keep the'
                ' database as it is.', c.name, c.locale, w.locale)
  from current c cross join wanted w
  where w.locale <> '' and lower(replace(w.locale, '-', '')) <> lower(replace(c.locale, '-', ''))
  union all
  -- Somebody else's, unless all that is in it is ours, or there is nothing and the superuser has just made it.
  select format('The database %%I belongs to %%I%%s. Set database_adopt to true to hand it and all that lies in its schemas over to %%I, or choose another'
                ' database_name.', c.name, c.owner, case when c.owner_is_superuser then ' and is not empty' else '' end, w.owner)
  from current c
    cross join wanted w
    cross join (select count(*) as total, count(*) filter (where e.owner = o.oid) as ours
                from existing e join role o on o.kind = 'owner') as inside
  where c.owner <> w.owner and not w.adopt
    and (inside.ours < inside.total or (inside.total = 0 and not c.owner_is_superuser))
  union all
  select format('The role %%I is the superuser that the cluster was made with; choose another database_name.', r.name) from role r where r.oid = 10
)

select json_build_object(
  'in_recovery', pg_is_in_recovery(),
  'refusals', coalesce((select json_agg(r.message) from refusal r), '[]'),
  'statements', coalesce((select json_agg(p.statement order by p.step, p.statement) from plan p), '[]'),
  'roles', (select json_object_agg(r.kind, json_build_object(
              'identifier', quote_ident(r.name),
              'verifier', case when r.kind = any (w.roles_with_password) then r.rolpassword end))
            from role r cross join wanted w)
) as state
