-- Items of the CIS PostgreSQL benchmark that are about the cluster, and about the database that this is asked in. It only reads.
with setting (item, title, name, good) as (
  values
    ('1.3', 'damaged pages are noticed', 'data_checksums', '^on$'),
    ('3.1.2', 'logs have a destination', 'log_destination', '.'),
    ('3.1.3', 'the collector is on', 'logging_collector', '^on$'),
    ('3.1.4', 'logs have a directory of their own', 'log_directory', '^/'),
    ('3.1.5', 'log files are named by time', 'log_filename', '%'),
    ('3.1.6', 'log files are closed to others', 'log_file_mode', '^0600$'),
    ('3.1.7', 'an old file is begun anew', 'log_truncate_on_rotation', '^on$'),
    ('3.1.8', 'there is a file a day', 'log_rotation_age', '^1440$'),
    ('3.1.9', 'a file is not cut by size', 'log_rotation_size', '^0$'),
    ('3.1.10', 'a syslog facility is chosen', 'syslog_facility', '.'),
    ('3.1.11', 'syslog loses no repeated message', 'syslog_sequence_numbers', '^on$'),
    ('3.1.12', 'syslog loses no long message', 'syslog_split_messages', '^on$'),
    ('3.1.13', 'syslog knows the program', 'syslog_ident', '.'),
    ('3.1.14', 'warnings are logged', 'log_min_messages', '^(warning|notice|info|log|debug.)$'),
    ('3.1.15', 'statements that fail are logged', 'log_min_error_statement', '^(error|warning|notice|info|debug.)$'),
    ('3.1.16', 'parse trees are not logged', 'debug_print_parse', '^off$'),
    ('3.1.17', 'rewritten trees are not logged', 'debug_print_rewritten', '^off$'),
    ('3.1.18', 'plans are not logged', 'debug_print_plan', '^off$'),
    ('3.1.19', 'what is logged of them is readable', 'debug_pretty_print', '^on$'),
    ('3.1.20', 'connections are logged', 'log_connections', '^(on|all|.*authorization.*)$'),
    ('3.1.21', 'their end is logged', 'log_disconnections', '^on$'),
    ('3.1.22', 'errors are logged in full', 'log_error_verbosity', '^verbose$'),
    ('3.1.23', 'names of hosts are not looked up', 'log_hostname', '^off$'),
    ('3.1.24', 'lines tell time, process, user, database, application and client', 'log_line_prefix',
     '^(?=.*%[mtn])(?=.*%p)(?=.*%u)(?=.*%d)(?=.*%a)(?=.*%[hr])'),
    ('3.1.25', 'changes of definitions are logged', 'log_statement', '^(ddl|mod|all)$'),
    ('3.1.26', 'logs are in UTC', 'log_timezone', '^(Etc/)?(UTC|GMT)$'),
    ('5.2', 'passwords are kept as SCRAM verifiers', 'password_encryption', '^scram-sha-256$'),
    ('6.8', 'TLS is on', 'ssl', '^on$'),
    ('6.8', 'TLS is of version 1.2 at least', 'ssl_min_protocol_version', '^TLSv1\.[23]$'),
    ('8.1', 'logs are outside of the data directory', 'log_directory', '^/')
),
-- What is bad; an item without any passes.
bad (item, what) as (
  select '4.2', rolname::text from pg_roles where (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls) and oid <> 10
  union all
  select '4.3', p.oid::regprocedure::text
  from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
  where p.prosecdef and a.grantee = 0 and p.oid >= 16384
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  union all
  select '4.4', c.oid::regclass::text || ' ' || a.privilege_type
  from pg_class c cross join aclexplode(c.relacl) a
  where a.grantee = 0 and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') and c.oid >= 16384
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  union all
  select '4.4', 'database ' || quote_ident(datname) || ' ' || a.privilege_type
  from pg_database cross join aclexplode(coalesce(datacl, acldefault('d', datdba))) a
  where datname = current_database() and datname <> 'postgres' and a.grantee = 0
  union all
  select '4.4', 'schema ' || quote_ident(nspname) || ' CREATE'
  from pg_namespace cross join aclexplode(nspacl) a
  where a.grantee = 0 and a.privilege_type = 'CREATE'
  union all
  select '4.7', m.rolname || ' is in ' || g.rolname
  from pg_auth_members a join pg_roles g on g.oid = a.roleid join pg_roles m on m.oid = a.member
  where m.oid >= 16384
    and g.rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_write_all_data', 'pg_signal_backend')
  union all
  select case type when 'local' then '5.1' else '5.2' end, format('line %s of pg_hba.conf: %s %s', line_number, type, coalesce(auth_method, error))
  from pg_hba_file_rules
  where auth_method in ('trust', 'password', 'md5', 'ident') or error is not null
  union all
  select '5.2', format('line %s of pg_hba.conf lets the superuser in over the network', h.line_number)
  from pg_hba_file_rules h
  where h.type <> 'local' and h.auth_method <> 'reject' and h.user_name && array['all', 'postgres']
    and not exists (
      select from pg_hba_file_rules r
      where r.line_number < h.line_number and r.type = 'host' and r.auth_method = 'reject' and r.database && array['all']
        and r.user_name && array['all', 'postgres'] and r.address = 'all'
    )
  union all
  select '6.2-6', name || ' waits for a restart' from pg_settings where pending_restart
  union all
  select '6.2-6', name || ' comes from ALTER SYSTEM' from pg_settings where sourcefile like '%/postgresql.auto.conf'
),
checked (item, title) as (
  values
    ('4.2', 'nobody but postgres has rights of administration'),
    ('4.3', 'PUBLIC executes no function with the rights of its owner'),
    ('4.4', 'PUBLIC changes nothing'),
    ('4.7', 'nobody has a predefined role that reaches beyond the database'),
    ('5.1', 'local logins are as they should be'),
    ('5.2', 'logins over the network are as they should be'),
    ('6.2-6', 'settings are those of the configuration files')
),
report (item, verdict, found, title) as (
  select s.item, case when g.setting ~ s.good then 'pass' else 'fail' end, s.name || ' is ' || coalesce(nullif(g.setting, ''), 'empty'), s.title
  from setting s join pg_settings g using (name)
  union all
  select c.item, case when count(b.what) = 0 then 'pass' else 'fail' end, string_agg(b.what, ', ' order by b.what), c.title
  from checked c left join bad b using (item)
  group by c.item, c.title
  union all
  select '3.2', case when current_setting('shared_preload_libraries') like '%pgaudit%' then 'pass' else 'manual' end, 'pgAudit is not loaded',
    'there is an audit trail'
  union all
  select '4.5', 'manual', count(*) filter (where relrowsecurity) || ' of ' || count(*) || ' tables have policies', 'rows are secured where they must be'
  from pg_class where relkind in ('r', 'p') and oid >= 16384
  union all
  select '4.6', case when current_setting('shared_preload_libraries') like '%set_user%' then 'pass' else 'manual' end, 'set_user is not loaded',
    'whoever becomes a superuser is logged'
  union all
  select '6.9', case when count(*) > 0 then 'pass' else 'manual' end, 'pgcrypto is not in this database', 'columns can be encrypted'
  from pg_extension where extname = 'pgcrypto'
)
select item, verdict, coalesce(found, '') as found, title from report
