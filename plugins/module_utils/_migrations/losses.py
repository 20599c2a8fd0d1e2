# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data that a down script takes with it."""

from __future__ import annotations

import re
import typing as t

from . import statements
from .session import Session

# Rows are counted up to here: whoever would lose as many needs no exact number.
COUNTED = 100000

_HARMLESS = re.compile(r"(create\s+(unique\s+)?|drop\s+|alter\s+|re)index\b|reindex\b|vacuum\b|analyze\b|set\b|reset\b", re.IGNORECASE)


class Lost(t.NamedTuple):
    """Something that is there before a script, and not any more after it."""

    what: str
    """``table public.items``, ``column public.items.price``, ``rows of public.items``, or why it cannot be known."""
    rows: t.Optional[int]
    """How many, and :data:`COUNTED` + 1 for more than that; None if it cannot be known."""


class Column(t.NamedTuple):
    table: int
    number: int
    table_name: str
    name: str
    part_of: int
    """The table that it is a partition or a child of; 0 for none."""


class Stock(t.NamedTuple):
    """What there is of users' tables."""

    columns: t.FrozenSet[Column]
    files: t.Dict[int, int]
    deleted: t.Dict[int, int]

    @property
    def tables(self) -> t.Set[int]:
        return {column.table for column in self.columns}


def take(session: Session) -> Stock:
    """Look at what there is."""
    rows = session.rows(
        "select c.oid::bigint, a.attnum::int, quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(a.attname),"
        " coalesce((select min(i.inhparent::bigint) from pg_inherits i where i.inhrelid = c.oid), 0),"
        " coalesce(pg_relation_filenode(c.oid)::bigint, 0), pg_stat_get_xact_tuples_deleted(c.oid)"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid"
        " where c.oid >= 16384 and c.relkind in ('r', 'p') and c.relpersistence <> 't' and a.attnum > 0 and not a.attisdropped"
        " and a.attgenerated = '' and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')"
    )
    return Stock(
        frozenset(Column(*row[:5]) for row in rows),
        {row[0]: row[5] for row in rows},
        {row[0]: row[6] for row in rows},
    )


def deletions(before: Stock, after: Stock) -> t.List[Lost]:
    """Rows that were deleted from tables that are still there."""
    names = {column.table: column.table_name for column in before.columns}
    counts = {table: after.deleted[table] - before.deleted.get(table, 0) for table in before.tables & after.tables}
    return [Lost("rows of " + names[table], count) for table, count in sorted(counts.items()) if count > 0]


def is_smaller(before: Stock, after: Stock) -> bool:
    """Say whether anything may be gone that has to be counted where it still is."""
    return bool(_gone(before, after) or _rewritten(before, after))


def count(session: Session, before: Stock, after: Stock, emptied: t.Container[int]) -> t.List[Lost]:
    """What is gone, where the script has been undone again; only what has rows.

    :param emptied: the tables that the script left without a row.
    """
    gone, lost = _gone(before, after), []
    for column in sorted(gone):
        whole = column.table not in after.tables
        # A table is told once, by its first column, and parts of a table that is gone too are not told.
        if whole and (column.part_of in before.tables - after.tables or column != min(c for c in gone if c.table == column.table)):
            continue
        condition = "" if whole else " where {0} is not null".format(column.name)
        rows = _rows(session, column.table_name + condition)
        if rows:
            lost.append(Lost("table " + column.table_name if whole else "column {0}.{1}".format(column.table_name, column.name), rows))
    names = {column.table: column.table_name for column in before.columns}
    for table in sorted(_rewritten(before, after)):
        rows = _rows(session, names[table]) if table in emptied else 0
        if rows:
            lost.append(Lost("rows of " + names[table], rows))
    return lost


def empty(session: Session, before: Stock, after: Stock) -> t.Set[int]:
    """The tables that got new files, and have no row in them: a TRUNCATE counts no rows."""
    names = {column.table: column.table_name for column in after.columns}
    return {table for table in _rewritten(before, after) if not _rows(session, names[table])}


def unforeseeable(path: str, text: str, why: str) -> t.List[Lost]:
    """What a script that could not be tried may take; nothing if it is all about indexes."""
    if all(_HARMLESS.match(each.summary) for each in statements.split(text)):
        return []
    return [Lost("whatever {0} removes: {1}".format(path, why), None)]


def _gone(before: Stock, after: Stock) -> t.Set[Column]:
    left = {(column.table, column.number) for column in after.columns}
    return {column for column in before.columns if (column.table, column.number) not in left}


def _rewritten(before: Stock, after: Stock) -> t.Set[int]:
    return {table for table in before.tables & after.tables if before.files[table] != after.files[table]}


def _rows(session: Session, where: str) -> int:
    return int(session.value("select count(*) from (select from {0} limit {1}) as counted".format(where, COUNTED + 1)))
