# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many rows each table has, and which values each column: what is less afterwards was lost.

For a scratch database, where everything may be read whole and scripts may also run outside of transactions. (losses.py tells
the same of a database in use, without counting what stays.)
"""

from __future__ import annotations

import collections
import typing as t

from .losses import Lost
from .session import Session, identifier

# Of a larger table, values are only counted.
COMPARED = 100000


class Column(t.NamedTuple):
    name: str
    values: int
    """How many are not null."""
    contents: t.Optional[t.Mapping[int, int]] = None
    """Digests of them, and how often each is there; None where they are only counted."""

    def fewer(self, now: t.Optional["Column"]) -> int:
        """How many values are not there any more."""
        if now is None or self.contents is None or now.contents is None:
            return self.values - (now.values if now else 0)
        left = now.contents
        return sum(max(0, number - left.get(digest, 0)) for digest, number in self.contents.items())


class Table(t.NamedTuple):
    name: str
    part_of: int
    """The table that it is a partition or a child of; 0 for none."""
    rows: int
    columns: t.Mapping[int, Column]
    """By their numbers, which a renaming leaves."""


Census = t.Mapping[int, Table]
"""Users' tables, by their OIDs, which a renaming leaves as well."""

_TABLES = """
select c.oid::bigint, n.nspname, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname),
  coalesce((select min(i.inhparent::bigint) from pg_inherits i where i.inhrelid = c.oid), 0),
  coalesce((select array_agg(a.attnum::int order by a.attnum) from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), '{}'),
  coalesce((select array_agg(a.attname::text order by a.attnum) from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), '{}'),
  coalesce((select array_agg(quote_ident(a.attname) order by a.attnum) from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), '{}')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid >= 16384 and c.relkind in ('r', 'p') and c.relpersistence <> 't'
  and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
"""


def take(session: Session, apart_from: t.Collection[t.Tuple[t.Optional[str], str]] = (), contents: bool = False) -> Census:
    """Count everything.

    :param apart_from: schema and name of tables that are no data of users.
    :param contents: whether to look at the values too, so that another value is not the same. That makes sense between two
        censuses of one schema.
    """
    tables = [row for row in session.rows(_TABLES) if (row[1], row[2]) not in apart_from]
    counting = [
        "select {0}, count(*), array[{1}]::bigint[] from {2}".format(
            oid, ", ".join("count({0})".format(identifier(column)) for column in columns), _sql(schema, relation)
        )
        for oid, schema, relation, _name, _part_of, _numbers, columns, _labels in tables
    ]
    counts = {oid: (rows, values) for oid, rows, values in session.rows(" union all ".join(counting))} if counting else {}
    found: t.Dict[int, Table] = {}
    for oid, schema, relation, name, part_of, numbers, columns, labels in tables:
        rows, values = counts[oid]
        digests: t.List[t.Optional[t.Mapping[int, int]]] = [None] * len(columns)
        if contents and columns and 0 < rows <= COMPARED:
            lists = ["array_agg(hashtextextended({0}::text, 0)) filter (where {0} is not null)".format(identifier(each)) for each in columns]
            listed = session.rows("select {0} from {1}".format(", ".join(lists), _sql(schema, relation)))[0]
            digests = [collections.Counter(each or ()) for each in listed]
        found[oid] = Table(
            name, part_of, rows, {number: Column(*column) for number, *column in zip(numbers, labels, values, digests)}
        )
    return found


def _sql(schema: str, relation: str) -> str:
    return identifier(schema) + "." + identifier(relation)


def lost(before: Census, after: Census) -> t.List[Lost]:
    """What is less: a table with its rows, a column with its values, rows of a table, values of a column that stays.

    A table or column that is gone and has come back under its name is the same.
    """
    by_name = {table.name: oid for oid, table in after.items()}
    here = {oid: oid if oid in after else by_name.get(table.name) for oid, table in before.items()}
    parts: t.Dict[int, int] = {}
    for oid, table in before.items():
        if here[oid] is None:
            parts[table.part_of] = parts.get(table.part_of, 0) + table.rows
    told: t.List[Lost] = []
    for oid, table in sorted(before.items(), key=lambda item: item[1].name):
        successor = here[oid]
        if successor is None:
            # The rows of a part are those of the whole.
            if table.rows and not (table.part_of in before and here[table.part_of] is None):
                told.append(Lost("table " + table.name, table.rows))
            continue
        if table.part_of in before and here[table.part_of] is not None and after[successor].part_of == here[table.part_of]:
            continue
        told += _lost_of(table, after[successor], same=successor == oid, with_parts=parts.get(oid, 0))
    return told


def _lost_of(table: Table, now: Table, same: bool, with_parts: int) -> t.Iterator[Lost]:
    gone = table.rows - now.rows
    if gone > with_parts:
        yield Lost("rows of " + table.name, gone - with_parts)
    by_name = {column.name: column for column in now.columns.values()}
    for number, column in sorted(table.columns.items()):
        successor = (now.columns.get(number) if same else None) or by_name.get(column.name)
        values = column.fewer(successor)
        # Values that went with their rows are told with these.
        if values > 0 and (successor is None or values > max(gone, 0)):
            yield Lost("column {0}.{1}".format(table.name, column.name), values)
