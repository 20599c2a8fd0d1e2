# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger ``_sqlx_migrations``: sqlx's own table, read and written as sqlx does.

The statements are those of ``sqlx-postgres/src/migrate.rs``; the table has not changed since 0.5.
"""

from __future__ import annotations

import re
import string
import typing as t

from .errors import LedgerError
from .records import Row
from .session import Session, identifier, literal

# Letters are what ASCII has, and everything beyond it. Said by what they are not: a range up to the last character takes
# longer to compile than the server takes to answer.
_PART = r'(?:"(?:[^"]|"")+"|(?![0-9$])[^\x00-#%-/:-@\[-^`{-\x7f]+)'
_NAME = re.compile(r"(?:(?P<schema>{0})\.)?(?P<table>{0})\Z".format(_PART))

# In UTF-8, PostgreSQL folds no other letters.
_FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# As `CREATE TABLE` of sqlx makes them.
_COLUMNS = {
    "version": "bigint",
    "description": "text",
    "installed_on": "timestamp with time zone",
    "success": "boolean",
    "checksum": "bytea",
    "execution_time": "bigint",
}

# What sqlx writes while it does not know the duration, and `sqlx migrate override skip` for ever.
UNKNOWN_DURATION = -1


class TableName(t.NamedTuple):
    """A table's name as PostgreSQL keeps it: unquoted parts folded to lower case."""

    schema: t.Optional[str]
    table: str

    @property
    def sql(self) -> str:
        return (identifier(self.schema) + "." if self.schema else "") + identifier(self.table)


def parse_name(name: str) -> TableName:
    """Read a table name as written in SQL, optionally with its schema.

    sqlx puts the text into its statements as it is; here it must be a name and nothing else.

    :raises LedgerError: if it is not.
    """
    match = _NAME.match(name)
    if not match:
        raise LedgerError("ledger_table: {0!r} is not the name of a table.".format(name))

    def fold(part: str) -> str:
        return part[1:-1].replace('""', '"') if part.startswith('"') else part.translate(_FOLDED)

    schema = match.group("schema")
    return TableName(fold(schema) if schema else None, fold(match.group("table")))


def bytea(value: bytes) -> str:
    """Bytes as an SQL literal."""
    return "'\\x" + value.hex() + "'"


class Summary(t.NamedTuple):
    """The ledger in few words, computed by the server: who has the files can tell the rows from it."""

    clean: bool
    """Whether no row is dirty."""
    release: str
    """The digest of checksum.release over the rows."""
    versions: bytes
    """Of every row, in their order: 8 bytes each, big-endian."""


class Ledger:
    """The ledger of one database, resolved to one table once, whatever ``search_path`` becomes later.

    :raises LedgerError: if something that is not a ledger has its name.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._asked = parse_name(name)
        self._name: t.Optional[TableName] = None
        self.resolve()

    @property
    def exists(self) -> bool:
        return self._name is not None

    @property
    def name(self) -> TableName:
        """The table, with its schema; only where it exists."""
        if self._name is None:
            raise LedgerError("There is no ledger yet.")
        return self._name

    def resolve(self) -> None:
        """Find the table, if it is there."""
        pid, schema, kind, columns = self._session.rows(
            "select pg_backend_pid(), n.nspname, c.relkind::text,"
            " (select json_object_agg(attname, format_type(atttypid, atttypmod)) from pg_attribute"
            "  where attrelid = c.oid and attnum > 0 and not attisdropped)"
            " from (select to_regclass({0}) as oid) asked"
            " left join pg_class c on c.oid = asked.oid left join pg_namespace n on n.oid = c.relnamespace".format(
                literal(self._asked.sql)
            )
        )[0]
        self._session.must_be_direct(pid)
        if schema is None:
            self._name = None
            return
        wrong = [
            "{0} should be {1}, is {2}".format(column, kind_of, columns.get(column, "missing"))
            for column, kind_of in _COLUMNS.items()
            if columns.get(column) != kind_of
        ]
        if kind not in ("r", "p"):
            wrong = ["it is not a table"]
        if wrong:
            raise LedgerError(
                "{0}.{1} is not a ledger that sqlx made: {2}.".format(schema, self._asked.table, "; ".join(wrong)),
                recovery="Nothing was changed. Name another table in ledger_table, or find out who made this one.",
            )
        self._name = TableName(schema, self._asked.table)

    def create(self) -> None:
        """Make the table where sqlx would: in the named schema, or in the first of ``search_path``.

        The caller holds the advisory lock. Default privileges of the owner must not let an application write here, so
        whatever they gave away but SELECT is taken back at once.
        """
        schema = self._asked.schema or self._session.value("select current_schema()")
        if schema is None:
            raise LedgerError("There is no schema in search_path in which the ledger could be made.")
        table = TableName(schema, self._asked.table)
        self._session.run(
            "begin; create table if not exists {0} (version bigint primary key, description text not null,"
            " installed_on timestamptz not null default now(), success boolean not null,"
            " checksum bytea not null, execution_time bigint not null); {1} commit".format(
                table.sql, revoke_writes(table)
            )
        )
        self.resolve()

    def summary(self) -> Summary:
        clean, release, versions = self._session.rows(
            "select coalesce(bool_and(success is true), true), encode(sha256(coalesce(string_agg(int8send(version) || checksum, ''"
            " order by version), '')), 'hex'), coalesce(string_agg(int8send(version), '' order by version), '') from " + self.name.sql
        )[0]
        return Summary(clean, release, bytes(versions))

    def rows(self) -> t.List[Row]:
        """Every row, in order of version."""
        return [
            _row(*row)
            for row in self._session.rows("select version, checksum, success, description from {0} order by version".format(self.name.sql))
        ]

    def row(self, version: int) -> t.Optional[Row]:
        found = self._session.rows(
            "select version, checksum, success, description from {0} where version = {1}".format(self.name.sql, version)
        )
        return _row(*found[0]) if found else None

    def insert(self, version: int, description: str, checksum: bytes, success: bool = True) -> str:
        return (
            "insert into {0} (version, description, success, checksum, execution_time) values ({1}, {2}, {3}, {4}, {5});".format(
                self.name.sql, version, literal(description), success, bytea(checksum), UNKNOWN_DURATION
            )
        )

    def finish(self, version: int, nanoseconds: int, checksum: bytes) -> str:
        return "update {0} set success = true, execution_time = {1}, checksum = {2} where version = {3};".format(
            self.name.sql, nanoseconds, bytea(checksum), version
        )

    def write_durations(self, nanoseconds: t.Mapping[int, int]) -> str:
        values = ", ".join("({0}, {1})".format(*item) for item in nanoseconds.items())
        return "update {0} l set execution_time = took from (values {1}) known (version, took) where l.version = known.version".format(
            self.name.sql, values
        )

    def mark_dirty(self, version: int) -> str:
        return "update {0} set success = false where version = {1};".format(self.name.sql, version)

    def replace_checksum(self, version: int, checksum: bytes) -> str:
        return "update {0} set checksum = {1} where version = {2};".format(self.name.sql, bytea(checksum), version)

    def delete(self, version: int) -> str:
        return "delete from {0} where version = {1};".format(self.name.sql, version)


def _row(version: int, checksum: t.Any, success: t.Optional[bool], description: t.Optional[str]) -> Row:
    # sqlx's columns are never null, but somebody may have changed the table.
    return Row(version, bytes(checksum or b""), bool(success), description or "")


def revoke_writes(table: TableName) -> str:
    """Statement that leaves a table's other grantees no more than SELECT."""
    return (
        "do $revoke$ declare grantee text; begin"
        " for grantee in select distinct case when a.grantee = 0 then 'public' else quote_ident(r.rolname) end"
        "  from pg_class c cross join aclexplode(c.relacl) a left join pg_roles r on r.oid = a.grantee"
        "  where c.oid = to_regclass({0}) and a.grantee <> c.relowner and a.privilege_type <> 'SELECT'"
        " loop execute format('revoke insert, update, delete, truncate, references, trigger on %s from %s',"
        "  {0}, grantee); end loop; end $revoke$;".format(literal(table.sql))
    )
