# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the migrations made of a database, as a text that two databases can be compared by, and its digest.

One line an object: kind, name, definition. Left out is what two good copies of one schema may differ in: OIDs, sizes,
statistics, data, members of extensions, the ledger and its side table. Names of roles are said relative to the
database (``{owner}``, ``{database}_app``), so that databases of different names compare.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import typing as t

from .history import table_for
from .ledger import TableName
from .session import Session, literal

# What names and literals are written like. `regclass` and the deparsers add the schema where search_path is empty. A SET
# LOCAL holds for the one message.
_FORMAT = "".join(
    "set local {0} to {1};".format(*setting)
    for setting in (
        ("search_path", "''"),
        ("quote_all_identifiers", "off"),
        ("timezone", "'UTC'"),
        ("datestyle", "'ISO, MDY'"),
        ("intervalstyle", "'postgres'"),
        ("bytea_output", "'hex'"),
        ("extra_float_digits", "3"),
        # It takes longer to compile the query than to run it.
        ("jit", "off"),
    )
)

_USER_SCHEMA = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"

# Privileges of one object, grantee by grantee: the default ones count where none were ever granted, as after a restore.
# All seven rights on a table are ALL, with or without MAINTAIN, which came with 17.
_ACL = """(select string_agg(grantee || '=' || rights, ' ' order by grantee) from (
  select case when x.grantee = 0 then 'public' else role_name(x.grantee) end as grantee,
    case when count(*) filter (where x.privilege_type in
        ('SELECT','INSERT','UPDATE','DELETE','TRUNCATE','REFERENCES','TRIGGER')) = 7 and bool_and(not x.is_grantable)
      then 'ALL' else string_agg(x.privilege_type || case when x.is_grantable then '*' else '' end, ','
        order by x.privilege_type) end as rights
  from aclexplode(coalesce({acl}, acldefault({kind}, {owner}))) x group by x.grantee) g)"""


def _acl(acl: str, kind: str, owner: str) -> str:
    return _ACL.format(acl=acl, kind=kind, owner=owner)


def _not_member(catalog: str, oid: str) -> str:
    return (
        "not exists (select from pg_depend d where d.classid = 'pg_catalog.{0}'::regclass and d.objid = {1}"
        " and d.deptype = 'e')".format(catalog, oid)
    )


_RELATION_KIND = "case c.relkind when 'S' then 's' else 'r' end::\"char\""

_PARTS = (
    # schemas
    "select 'schema', quote_ident(n.nspname), concat_ws(' ', 'owner', role_name(n.nspowner), "
    + _acl("n.nspacl", "'n'", "n.nspowner")
    + ", quote_literal(comment_on(pg_namespace, n.oid, 0))) from pg_namespace n where "
    + _USER_SCHEMA
    + " and "
    + _not_member("pg_namespace", "n.oid"),
    # extensions, whatever their version
    "select 'extension', quote_ident(e.extname), 'schema ' || quote_ident(n.nspname) from pg_extension e"
    " join pg_namespace n on n.oid = e.extnamespace where e.extname <> 'plpgsql'",
    # tables, views, sequences, composite types
    "select case c.relkind when 'r' then 'table' when 'p' then 'table' when 'v' then 'view' when 'm' then 'materialized view'"
    " when 'f' then 'foreign table' when 'S' then 'sequence' else 'type' end, c.oid::regclass::text,"
    " concat_ws(' ', 'owner', role_name(c.relowner), 'persistence ' || c.relpersistence::text,"
    " 'row security' || case when c.relforcerowsecurity then ' forced' when not c.relrowsecurity then null else '' end,"
    " 'options ' || (select string_agg(o, ',' order by o) from unnest(c.reloptions) o),"
    " 'replica identity ' || nullif(c.relreplident::text, 'd'), 'partition by ' || case when c.relkind = 'p' then"
    " pg_get_partkeydef(c.oid) end, 'inherits ' || (select string_agg(i.inhparent::regclass::text, ',' order by i.inhseqno)"
    " from pg_inherits i where i.inhrelid = c.oid), pg_get_expr(c.relpartbound, c.oid),"
    " 'access ' || nullif((select amname from pg_am where oid = c.relam), 'heap'), "
    " case when c.relacl is null then (select u.rights from untouched u where u.kind = "
    + _RELATION_KIND
    + " and u.owner = c.relowner) else "
    + _acl("c.relacl", _RELATION_KIND, "c.relowner")
    + " end, quote_literal(comment_on(pg_class, c.oid, 0)), (select concat_ws(' ', format_type(s.seqtypid, null), s.seqstart,"
    " s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle) from pg_sequence s where s.seqrelid = c.oid),"
    " (select 'owned by ' || d.refobjid::regclass || '.' || a.attname from pg_depend d join pg_attribute a"
    " on a.attrelid = d.refobjid and a.attnum = d.refobjsubid where d.classid = 'pg_class'::regclass and d.objid = c.oid"
    " and d.deptype in ('a', 'i') and c.relkind = 'S'), (select concat_ws(' ', 'server', s.srvname, f.ftoptions)"
    " from pg_foreign_table f join pg_foreign_server s on s.oid = f.ftserver where f.ftrelid = c.oid))"
    " from relations c where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')",
    # columns, in their order; numbers are counted anew, since dropped columns leave gaps
    # (the latest minor releases stamp each column with a pg_attver of its own, which nobody set)
    "select 'column', c.oid::regclass || '.' || quote_ident(a.attname), concat_ws(' ', row_number() over (partition by c.oid"
    " order by a.attnum), format_type(a.atttypid, a.atttypmod), case when a.attcollation <> y.typcollation then 'collate '"
    " || (select quote_ident(collname) from pg_collation where oid = a.attcollation) end,"
    " case when a.attnotnull then 'not null' end, case when v.oid is not null then 'not valid' end,"
    " case a.attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end,"
    " case a.attgenerated when '' then 'default ' when 'v' then 'generated virtual ' else 'generated ' end"
    " || pg_get_expr(f.adbin, f.adrelid), 'storage ' || nullif(a.attstorage::text, y.typstorage::text),"
    " 'compression ' || nullif(a.attcompression::text, ''), 'statistics ' || nullif(a.attstattarget, -1),"
    " 'options ' || (select string_agg(o, ',' order by o) from unnest(a.attoptions) o where o not like 'pg\\_attver=%'),"
    " a.attfdwoptions, case when a.attacl is not null then "
    + _acl("a.attacl", "'c'", "c.relowner")
    + " end, quote_literal(comment_on(pg_class, c.oid, a.attnum)))"
    " from relations c join pg_attribute a on a.attrelid = c.oid join pg_type y on y.oid = a.atttypid"
    " left join pg_attrdef f on f.adrelid = c.oid and f.adnum = a.attnum"
    # (since 18 NOT NULL may hold for new rows only)
    " left join pg_constraint v on v.conrelid = c.oid and v.contype = 'n' and not v.convalidated and v.conkey[1] = a.attnum"
    " where c.relkind in ('r', 'p', 'v', 'm', 'f', 'c') and a.attnum > 0 and not a.attisdropped",
    # constraints; NOT NULL stands with its column, triggers below
    # (a foreign key has triggers of its own on both tables, and holds no more where DISABLE TRIGGER ALL switched them off)
    "select 'constraint', coalesce(c.oid::regclass::text || '.', '') || quote_ident(k.conname), concat_ws(' ',"
    " pg_get_constraintdef(k.oid), 'triggers ' || g.switched, quote_literal(comment_on(pg_constraint, k.oid, 0)))"
    " from relations c join pg_constraint k on k.conrelid = c.oid left join (select tgconstraint, string_agg(distinct"
    " case tgenabled when 'D' then 'disabled' when 'R' then 'for replicas' else 'always' end || ' on ' || tgrelid::regclass, ', ')"
    " as switched from pg_trigger where tgisinternal and tgenabled <> 'O' group by tgconstraint) g on g.tgconstraint = k.oid"
    " where k.contype not in ('t', 'n')",
    # indexes
    "select 'index', i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid),"
    " case when not i.indisvalid then 'invalid' end, case when i.indisclustered then 'clustered' end,"
    " case when i.indisreplident then 'replica identity' end, 'statistics ' || (select string_agg(a.attnum || ' '"
    " || a.attstattarget, ',' order by a.attnum) from pg_attribute a where a.attrelid = i.indexrelid and a.attstattarget >= 0),"
    " quote_literal(comment_on(pg_class, i.indexrelid, 0)))"
    " from relations c join pg_index i on i.indrelid = c.oid where c.relkind in ('r', 'p', 'm')",
    # what views select, and from what; the qualifiers of columns are taken out later, since 16 writes fewer of them
    "select 'select', c.oid::regclass::text, concat_ws(' ', chr(1) || pg_get_viewdef(c.oid) || chr(2), (select 'of ' ||"
    " string_agg(distinct coalesce(p.refobjid::regclass || '.' || a.attname, p.refobjid::regclass::text), ',')"
    " from pg_rewrite w join pg_depend p on p.classid = 'pg_rewrite'::regclass and p.objid = w.oid"
    " and p.refclassid = 'pg_class'::regclass and p.refobjid <> c.oid left join pg_attribute a on a.attrelid = p.refobjid"
    " and a.attnum = p.refobjsubid and a.attnum > 0 where w.ev_class = c.oid))"
    " from relations c where c.relkind in ('v', 'm')",
    # rules other than those of views
    "select 'rule', c.oid::regclass || '.' || quote_ident(w.rulename), concat_ws(' ', chr(1) || pg_get_ruledef(w.oid) || chr(2),"
    " 'enabled ' || w.ev_enabled::text) from relations c join pg_rewrite w on w.ev_class = c.oid where w.rulename <> '_RETURN'",
    # triggers
    "select 'trigger', c.oid::regclass || '.' || quote_ident(g.tgname), concat_ws(' ', pg_get_triggerdef(g.oid),"
    " 'enabled ' || nullif(g.tgenabled::text, 'O'), quote_literal(comment_on(pg_trigger, g.oid, 0)))"
    # (a hypertable has one more than the table had)
    " from relations c join pg_trigger g on g.tgrelid = c.oid where not g.tgisinternal and g.tgname <> 'ts_insert_blocker'",
    # row security policies
    "select 'policy', c.oid::regclass || '.' || quote_ident(p.polname), concat_ws(' ', p.polcmd, case when p.polpermissive"
    " then 'permissive' else 'restrictive' end, 'to ' || (select string_agg(g.name, ',' order by g.name)"
    " from (select case when r = 0 then 'public' else role_name(r) end as name from unnest(p.polroles) r) g),"
    " 'using ' || pg_get_expr(p.polqual, p.polrelid), 'with check ' || pg_get_expr(p.polwithcheck, p.polrelid), quote_literal(comment_on(pg_policy, p.oid, 0)))"
    " from relations c join pg_policy p on p.polrelid = c.oid",
    # functions, procedures, aggregates
    "select 'function', p.oid::regprocedure::text, concat_ws(' ', 'owner', role_name(p.proowner),"
    " case when p.prokind = 'a' then (select concat_ws(' ', g.aggkind, g.aggnumdirectargs, g.aggtransfn, g.aggfinalfn,"
    " g.aggcombinefn, g.aggserialfn, g.aggdeserialfn, g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn, g.aggfinalextra,"
    " g.aggfinalmodify, g.aggsortop::regoperator, format_type(g.aggtranstype, null), g.agginitval, g.aggminitval)"
    " from pg_aggregate g where g.aggfnoid = p.oid) else pg_get_functiondef(p.oid) end, "
    + _acl("p.proacl", "'f'", "p.proowner")
    + ", quote_literal(comment_on(pg_proc, p.oid, 0))) from pg_proc p join pg_namespace n on n.oid = p.pronamespace where "
    + _USER_SCHEMA
    + " and "
    + _not_member("pg_proc", "p.oid"),
    # enums, domains, ranges
    "select 'type', y.oid::regtype::text, concat_ws(' ', y.typtype, 'owner', role_name(y.typowner),"
    " (select string_agg(quote_literal(l.enumlabel), ',' order by l.enumsortorder) from pg_enum l where l.enumtypid = y.oid),"
    " case when y.typtype = 'd' then concat_ws(' ', format_type(y.typbasetype, y.typtypmod), case when y.typnotnull then"
    " 'not null' end, 'default ' || y.typdefault, 'collate ' || (select quote_ident(collname) from pg_collation where oid ="
    " y.typcollation), (select string_agg(quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid), ' ' order by k.conname)"
    " from pg_constraint k where k.contypid = y.oid and k.contype <> 'n')) end,"
    " (select concat_ws(' ', 'of', format_type(r.rngsubtype, null), nullif(r.rngcanonical::oid, 0)::regproc,"
    " nullif(r.rngsubdiff::oid, 0)::regproc) from pg_range r where r.rngtypid = y.oid), "
    + _acl("y.typacl", "'T'", "y.typowner")
    + ", quote_literal(comment_on(pg_type, y.oid, 0))) from pg_type y join pg_namespace n on n.oid = y.typnamespace where "
    + _USER_SCHEMA
    + " and y.typtype in ('e', 'd', 'r') and "
    + _not_member("pg_type", "y.oid"),
    # extended statistics
    "select 'statistics', quote_ident(n.nspname) || '.' || quote_ident(s.stxname), concat_ws(' ', 'owner', role_name(s.stxowner),"
    " pg_get_statisticsobjdef(s.oid), 'target ' || nullif(s.stxstattarget, -1), quote_literal(comment_on("
    "pg_statistic_ext, s.oid, 0))) from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace",
    # default privileges
    "select 'default privileges', concat_ws(' ', role_name(f.defaclrole), quote_ident(n.nspname), f.defaclobjtype), "
    + _acl("f.defaclacl", "f.defaclobjtype", "f.defaclrole")
    + " from pg_default_acl f left join pg_namespace n on n.oid = f.defaclnamespace",
)

# Whatever else PostgreSQL knows and a migration may make: catalogue, its owner column, columns that define the object.
_OTHERS = (
    (
        "pg_collation",
        "collowner",
        "collprovider, collencoding, collisdeterministic, coalesce(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale',"
        " collcollate), nullif(collctype, collcollate), to_jsonb(o) ->> 'collicurules'",
    ),
    ("pg_conversion", "conowner", "conforencoding, contoencoding, conproc, condefault"),
    ("pg_operator", "oprowner", "oprcode, oprcom::regoperator, oprnegate::regoperator, oprrest, oprjoin, oprcanmerge, oprcanhash"),
    ("pg_opfamily", "opfowner", "opfmethod"),
    ("pg_opclass", "opcowner", "opcmethod, opcdefault, opcintype::regtype, opckeytype::regtype"),
    ("pg_cast", "null::oid", "castfunc::regprocedure, castcontext, castmethod"),
    ("pg_amproc", "null::oid", "amproc"),
    ("pg_amop", "null::oid", "amopopr::regoperator"),
    ("pg_transform", "null::oid", "trffromsql, trftosql"),
    ("pg_language", "lanowner", "lanpltrusted, lanplcallfoid::regproc"),
    ("pg_event_trigger", "evtowner", "evtevent, evtfoid::regproc, evtenabled, evttags"),
    ("pg_foreign_data_wrapper", "fdwowner", "fdwhandler::regproc, fdwvalidator::regproc, fdwoptions"),
    ("pg_foreign_server", "srvowner", "srvtype, srvversion, srvoptions"),
    (
        "pg_ts_config",
        "cfgowner",
        "(select prsname from pg_ts_parser p where p.oid = o.cfgparser),"
        " (select string_agg(concat_ws(' ', m.maptokentype, m.mapseqno, m.mapdict::regdictionary), ','"
        " order by m.maptokentype, m.mapseqno) from pg_ts_config_map m where m.mapcfg = o.oid)",
    ),
    ("pg_ts_dict", "dictowner", "dictinitoption"),
    ("pg_ts_parser", "null::oid", "prsstart, prstoken"),
    ("pg_ts_template", "null::oid", "tmpllexize"),
    (
        "pg_publication",
        "pubowner",
        "puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,"
        # The catalogue of published schemas came with 15, the dependencies on it can be asked for everywhere.
        " (select 'schemas ' || string_agg(quote_ident(n.nspname), ',' order by n.nspname) from pg_depend p join pg_depend s"
        " using (classid, objid) join pg_namespace n on n.oid = s.refobjid where p.classid = to_regclass("
        "'pg_catalog.pg_publication_namespace') and p.refclassid = 'pg_publication'::regclass and p.refobjid = o.oid"
        " and s.refclassid = 'pg_namespace'::regclass)",
    ),
    (
        "pg_publication_rel",
        "null::oid",
        # So did lists of columns, and filters.
        "(select string_agg(quote_ident(a.attname), ',' order by a.attname) from pg_attribute a where a.attrelid = o.prrelid"
        " and to_jsonb(o) -> 'prattrs' @> to_jsonb(a.attnum)),"
        " (select to_jsonb(t) ->> 'rowfilter' from pg_publication_tables t join pg_publication p using (pubname) join pg_namespace n"
        " on n.nspname = t.schemaname join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename"
        " where p.oid = o.prpubid and c.oid = o.prrelid)",
    ),
)

# What can be granted on some of them: the column, and what acldefault() calls such an object.
_GRANTS = {"pg_foreign_data_wrapper": ("fdwacl", "'F'"), "pg_foreign_server": ("srvacl", "'S'")}

# The first OID of what was not there when the cluster was made (FirstNormalObjectId).
_FIRST_OID = 16384


def _others() -> str:
    """All of them in one part: what is common to them is planned once, which matters where none of them is there."""
    found = " union all ".join(
        "select 'pg_catalog.{0}'::regclass, o.oid, {1}, nullif(concat_ws(' ', {2}), ''), {3}::aclitem[], {4}::\"char\""
        " from pg_catalog.{0} o where o.oid >= {5}".format(*other, *_GRANTS.get(other[0], ("null", "null")), _FIRST_OID)
        for other in _OTHERS
    )
    return (
        "select i.type, i.identity, concat_ws(' ', 'owner ' || role_name(o.owner), o.definition,"
        # One that was granted and taken back is as good as one that was never granted, as after a restore.
        " case when o.acl <> acldefault(o.kind, o.owner) then coalesce(" + _acl("o.acl", "o.kind", "o.owner") + ", 'nobody') end,"
        " (select quote_literal(description) from pg_description where classoid = o.catalog and objoid = o.oid and objsubid = 0))"
        " from (" + found + ") o (catalog, oid, owner, definition, acl, kind) cross join pg_identify_object(o.catalog, o.oid, 0) i"
        " where not exists (select from pg_depend d where d.classid = o.catalog and d.objid = o.oid and d.deptype = 'e')"
    )


class Fingerprint(t.NamedTuple):
    """The canonical text of a schema."""

    text: str

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def difference(self, other: str, name: str = "expected", mine: str = "found") -> str:
        """What differs from another text, as a unified diff without context: an empty string if nothing does."""
        return "\n".join(difflib.unified_diff(other.splitlines(), self.text.splitlines(), name, mine, lineterm="", n=0))


# Members of extensions, what extensions keep in schemas of their own (a hypertable's chunks), and what belongs to the migrations
# themselves are nobody's schema. Most relations have the rights that they were made with, so these are written down once for each owner.
_SHARED = """with roles as (
  select oid, case when oid = (select datdba from pg_database where datname = current_database()) then '{{owner}}'
    when starts_with(rolname, current_database() || '_') then '{{database}}' || substr(rolname, length(current_database()) + 1)
    else quote_ident(rolname) end as shown from pg_roles),
relations as (
  select c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where {user_schema} and c.relpersistence <> 't' and {not_member} and {own_schema} and not {bookkeeping}),
untouched as materialized (
  select c.kind, c.owner, {default_rights} as rights from (select distinct {relation_kind} as kind, c.relowner as owner from relations c) c) """

# Said like functions, and written out: a function of SQL is started anew for every object, a subquery is not.
_PSEUDO_FUNCTIONS = (
    (re.compile(r"role_name\(([^()]*)\)"), r"(select shown from roles where roles.oid = \1)"),
    (
        re.compile(r"comment_on\((\w+), ([^(),]*), ([^(),]*)\)"),
        r"(select description from pg_description where classoid = 'pg_catalog.\1'::regclass and objoid = \2 and objsubid = \3)",
    ),
)

# A string, or the qualifier of a column or table.
_QUALIFIER = re.compile(r"""('(?:[^']|'')*')|(?:\w+|"(?:[^"]|"")*")\.(?=[\w"*])""")
# `varchar in (...)`: deparsed from the original as one cast of the array, and once restored from a dump as a cast of each element.
_ARRAY_CAST = re.compile(r"\(\(ARRAY\[((?:'(?:[^']|'')*'::character varying(?:, )?)+)\]\)::text\[\]\)")
_ELEMENT = re.compile(r"'(?:[^']|'')*'::character varying")
_DEPARSED = re.compile("\x01(.*?)\x02", re.DOTALL)


def take(session: Session, ledger: t.Optional[TableName]) -> Fingerprint:
    """Read the schema of the session's database; nothing is written, and a standby will do.

    :param ledger: the ledger's table, where there is one; it and its side table do not count.
    """
    lines = ("{0} {1}: {2}\n".format(kind, name, _canonical(definition)) for kind, name, definition in session.rows(_query(ledger)))
    return Fingerprint("".join(sorted(lines)))


def _query(ledger: t.Optional[TableName]) -> str:
    bookkeeping = "false"
    if ledger:
        bookkeeping = "(n.nspname = {0} and c.relname in ({1}, {2}))".format(
            literal(ledger.schema or ""), literal(ledger.table), literal(table_for(ledger).table)
        )
    shared = _SHARED.format(
        user_schema=_USER_SCHEMA,
        not_member=_not_member("pg_class", "c.oid"),
        own_schema=_not_member("pg_namespace", "n.oid"),
        bookkeeping=bookkeeping,
        default_rights=_acl("null", "c.kind", "c.owner"),
        relation_kind=_RELATION_KIND,
    )
    query = shared + " union all ".join((*_PARTS, _others()))
    for pseudo_function, written_out in _PSEUDO_FUNCTIONS:
        query = pseudo_function.sub(written_out, query)
    return _FORMAT + query


def _canonical(definition: str) -> str:
    """A definition on one line, with what deparsers of different versions write differently taken out."""
    definition = _ARRAY_CAST.sub(lambda found: "(ARRAY[" + _ELEMENT.sub(r"(\g<0>)::text", found.group(1)) + "])", definition)
    definition = _DEPARSED.sub(lambda found: _QUALIFIER.sub(r"\1", found.group(1)), definition)
    return definition.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")
