"""Migrations to measure with, and the same work as one psql session does it: the floor under every runner.

The floor keeps the same ledger. It checks nothing, locks nothing and reports nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FIRST = 20240101000000

_LEDGER = """\
create table _sqlx_migrations (
    version bigint primary key, description text not null, installed_on timestamptz not null default now(),
    success boolean not null, checksum bytea not null, execution_time bigint not null
);
"""


def small(number: int) -> tuple[str, str]:
    """A table with a key and an index."""
    up = (
        f"create table item_{number} (\n"
        "    id bigint generated always as identity primary key,\n"
        "    name text not null,\n"
        "    created_at timestamptz not null default now()\n"
        ");\n"
        f"create index item_{number}_name on item_{number} (name);\n"
    )
    return up, f"drop table item_{number};\n"


def trivial(number: int) -> tuple[str, str]:
    """One row."""
    if number == 0:
        return "create table passed (number integer primary key);\n", "drop table passed;\n"
    return f"insert into passed values ({number});\n", f"delete from passed where number = {number};\n"


def grown(number: int) -> tuple[str, str]:
    """2 KB of SQL, as a project gathers them: every tenth makes a table, the others work on one."""
    up, down = small(number) if number % 10 == 0 else (f"insert into item_{number // 10 * 10} (name) values ('{number}');\n", "select;\n")
    return "-- why this is so\n" * ((2048 - len(up)) // 17) + up, down


@dataclass(frozen=True)
class Workload:
    """Migration files, and psql scripts that run them up and down."""

    migrations: Path
    up: Path
    down: Path

    @staticmethod
    def write(directory: Path, count: int, scripts: Callable[[int], tuple[str, str]]) -> Workload:
        """Write so many migrations."""
        workload = Workload(directory / "migrations", directory / "up.sql", directory / "down.sql")
        workload.migrations.mkdir(parents=True)
        for number in range(count):
            for kind, script in zip(("up", "down"), scripts(number)):
                (workload.migrations / f"{FIRST + number}_step_{number}.{kind}.sql").write_text(script, encoding="utf-8")
        workload.up.write_text(_LEDGER + "".join(workload._ups()), encoding="utf-8")
        workload.down.write_text("".join(workload._downs()), encoding="utf-8")
        return workload

    def _ups(self) -> Iterator[str]:
        for path in sorted(self.migrations.glob("*.up.sql")):
            version, description = path.name.removesuffix(".up.sql").split("_", 1)
            digest = hashlib.sha384(path.read_bytes()).hexdigest()
            yield (
                f"begin;\n\\i {path}\n"
                "insert into _sqlx_migrations (version, description, success, checksum, execution_time)"
                f" values ({version}, '{description.replace('_', ' ')}', true, '\\x{digest}', -1);\ncommit;\n"
            )

    def _downs(self) -> Iterator[str]:
        for path in sorted(self.migrations.glob("*.down.sql"), reverse=True):
            version = path.name.split("_", 1)[0]
            yield f"begin;\n\\i {path}\ndelete from _sqlx_migrations where version = {version};\ncommit;\n"
