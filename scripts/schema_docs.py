"""Write docs/schema.md, the schema's diagram and what each of its parts is for, from the catalogue of a database that was just migrated.

    make schema-docs, or .venv/bin/python scripts/schema_docs.py [--check]        --check only says whether the page is current
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "schema.md"
sys.path.insert(0, str(CHECKOUT / "tests"))

from support import registry  # noqa: E402
from support.postgres import Database, Server, installed_majors  # noqa: E402

INTRODUCTION = """\
# The registry's schema

Made by `make schema-docs` from the catalogue of a migrated database, so it says what is there: edit the comments in `sql/migrations`, not this page.
[How fast it is](schema-performance.md) is measured by `make bench-schema`.
"""

TABLES = """
select oid, relname, relkind::text, coalesce(obj_description(oid, 'pg_class'), '') from pg_class
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'm', 'v') order by relkind = 'm', relname
"""

COLUMNS = """
select attname, format_type(atttypid, atttypmod),
    concat_ws(', ',
        case when exists (select from pg_constraint where conrelid = attrelid and contype = 'p' and attnum = any (conkey)) then 'PK' end,
        case when exists (select from pg_constraint where conrelid = attrelid and contype = 'f' and attnum = any (conkey)) then 'FK' end),
    attnotnull, coalesce(col_description(attrelid, attnum), '')
from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped order by attnum
"""

REFERENCES = """
select confrelid::regclass::text, conrelid::regclass::text, attname from pg_constraint
join pg_attribute on attrelid = conrelid and attnum = conkey[1]
where contype = 'f' and connamespace = 'public'::regnamespace order by 2, 3
"""

INDEXES = """
select indexrelid::regclass::text, indrelid::regclass::text, pg_get_indexdef(indexrelid), coalesce(obj_description(indexrelid, 'pg_class'), '')
from pg_index join pg_class on pg_class.oid = indrelid
where relnamespace = 'public'::regnamespace order by relkind = 'm', relname, not indisprimary, not indisunique, indexrelid::regclass::text
"""

CHECKS = """
select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
where contype = 'c' and connamespace = 'public'::regnamespace order by 1, 2
"""

ROUTINES = """
select oid::regprocedure::text, case prokind when 'p' then 'procedure' else 'function' end, coalesce(obj_description(oid, 'pg_proc'), '')
from pg_proc
where pronamespace = 'public'::regnamespace and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = pg_proc.oid and deptype = 'e')
order by 1
"""


def cell(text: str) -> str:
    """Text as Markdown takes it in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(*rows: tuple[str, ...]) -> Iterator[str]:
    """Rows as Markdown; the first one is the heading."""
    heading, *rest = rows
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rest:
        yield f"| {' | '.join(map(cell, row))} |"
    yield ""


def page(database: Database) -> Iterator[str]:
    """The lines of the page."""
    yield INTRODUCTION
    tables = database.execute(TABLES)
    columns = {oid: database.execute(COLUMNS, [oid]) for oid, _name, _kind, _comment in tables}

    yield "## Entities\n\n```mermaid\nerDiagram"
    for target, source, column in database.execute(REFERENCES):
        yield f'    {target} ||--o{{ {source} : "{column}"'
    for oid, name, kind, _comment in tables:
        if kind in "rp":
            yield f"    {name} {{"
            for column, kind_of, keys, _needed, _comment in columns[oid]:
                yield f"        {re.sub(r'[^A-Za-z0-9_]+', '_', kind_of).strip('_')} {column}{f' {keys}' if keys else ''}"
            yield "    }"
    yield "```\n"

    yield "## Tables and views\n"
    for oid, name, kind, comment in tables:
        yield f"### {name}\n\n{comment}{'' if kind in 'rp' else ' (materialized view)'}.\n"
        described = ((f"`{column}`", kind_of, "" if needed or kind == "m" else "may be null", text) for column, kind_of, _keys, needed, text in columns[oid])
        yield from table(("column", "type", "", ""), *described)

    yield "## Why each index exists\n"
    rows = []
    for index, owner, definition, comment in database.execute(INDEXES):
        what = definition.partition(" USING ")[2]
        rows.append((f"`{index}`", owner, f"{'unique ' if ' UNIQUE ' in definition else ''}`{what}`", comment))
    yield from table(("index", "of", "definition", "serves"), *rows)

    yield "## What is refused\n"
    yield from table(("table", "constraint", ""), *((owner, f"`{name}`", f"`{definition}`") for owner, name, definition in database.execute(CHECKS)))

    yield "## Functions and procedures\n"
    yield from table(("", "", ""), *((f"`{name}`", kind, comment) for name, kind, comment in database.execute(ROUTINES)))


def main() -> int:
    """Write the page, or compare it with what it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the page is not current")
    arguments = parser.parse_args()
    with Server(max(installed_majors())) as server, server.database() as database:
        registry.migrate(database)
        # Deparsed without the schema's name, which is the same everywhere.
        wanted = "\n".join(page(database)).replace("public.", "").rstrip() + "\n"
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if not arguments.check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != written:
        sys.stdout.writelines(difflib.unified_diff(written.splitlines(True), wanted.splitlines(True), "docs/schema.md", "the catalogue"))
        print("docs/schema.md is not current: make schema-docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
