-- What cannot be, is refused; what the application writes, is not.
begin;
select plan(20);

insert into schemas (id, subject, version_major, version_minor, version_patch, schema_type, content, compatibility_level)
values ('00000000-0000-0000-0000-000000000001', 'orders', 1, 0, 0, 'JSON', '{}', 'BACKWARD');
prepare register (text, integer, text, text, jsonb) as
    insert into schemas (subject, version_major, version_minor, version_patch, version_prerelease, schema_type, content, metadata, compatibility_level)
    values ($1, $2, 0, 0, $3, $4, '{}', $5, 'FULL');

select lives_ok($$execute register('orders', 2, null, 'AVRO', '{"state": "ACTIVE", "tags": ["a"], "owner": "me", "custom": {"x": 1}}')$$);
select lives_ok($$execute register('orders', 2, 'rc.1', 'THRIFT', '{}')$$);
select throws_ok($$execute register('orders', 2, '', 'AVRO', '{}')$$, '23505', null, 'no pre-release and an empty one are the same version');
select throws_ok($$execute register('', 1, null, 'JSON', '{}')$$, '23514', null, 'a subject has a name');
select throws_ok($$execute register('orders', -1, null, 'JSON', '{}')$$, '23514', null, 'no version is negative');
select throws_ok($$execute register('orders', 3, 'a..b', 'JSON', '{}')$$, '23514', null, 'a pre-release is one by semver.org');
select throws_ok($$execute register('orders', 3, null, 'XML', '{}')$$, '23514', null, 'an unknown type');
select throws_ok($$execute register('orders', 3, null, 'JSON', '{"state": "GONE"}')$$, '23514', null, 'an unknown state');
select throws_ok($$execute register('orders', 3, null, 'JSON', '[]')$$, '23514', null, 'metadata is an object');
select throws_ok($$execute register('orders', 3, null, 'JSON', '{"tags": {"a": 1}}')$$, '23514', null, 'tags are an array');

prepare validated (text, integer, double precision) as
    insert into validation_history (schema_id, data_hash, valid, error_count, duration_ms) values ('00000000-0000-0000-0000-000000000001', $1, false, $2, $3);
select lives_ok($$execute validated(repeat('aF', 32), 0, 0)$$);
select throws_ok($$execute validated(repeat('a', 63), 0, 1)$$, '23514', null, 'a hash that is too short');
select throws_ok($$execute validated(repeat('x', 64), 0, 1)$$, '23514', null, 'a hash that is no number');
select throws_ok($$execute validated(repeat('a', 64), -1, 1)$$, '23514', null, 'less than no errors');
select throws_ok($$execute validated(repeat('a', 64), 0, -1)$$, '23514', null, 'less than no time');
select throws_ok($$execute validated(repeat('a', 64), 0, 'nan')$$, '23514', null, 'no number of milliseconds');

select throws_ok($$insert into schema_dependencies (schema_id, depends_on_id, dependency_type)
    values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 'import')$$, '23514', null, 'nothing depends on itself');
select throws_ok($$insert into schema_access_log (schema_id) values ('00000000-0000-0000-0000-00000000000f')$$, '23503', null, 'an access to what is not there');
select throws_ok($$insert into schema_access_log (schema_id, access_count) values ('00000000-0000-0000-0000-000000000001', 0)$$, '23514', null, 'no access at all');

delete from schemas where subject = 'orders';
select is((select count(*) from validation_history), 0::bigint, 'a schema takes its history along');

select * from finish();
rollback;
