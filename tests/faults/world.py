"""Migrations whose every statement says what it makes, and so what the database must look like at any point of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Sequence, Tuple
from typing import Counter as Bag

from support.migrations import Release
from support.postgres import Database

Objects = Bag[str]
"""Relations by their names, and rows of the log as `row 3`: made by version 3 (`row -3`: by its way back)."""


@dataclass(frozen=True)
class Statement:
    sql: str
    makes: Tuple[str, ...] = ()
    drops: Tuple[str, ...] = ()

    def change(self, objects: Objects) -> Objects:
        """The objects after this statement."""
        after = objects + Counter(self.makes)
        after.subtract(self.drops)
        assert min(after.values(), default=0) >= 0, (self.sql, objects)
        return +after


@dataclass(frozen=True)
class Migration:
    version: int
    up: Sequence[Statement]
    down: Sequence[Statement]
    verify: str
    outside: bool = False

    @staticmethod
    def _text(statements: Sequence[Statement], outside: bool) -> str:
        return ("-- no-transaction\n" if outside else "") + "".join(f"{statement.sql};\n" for statement in statements)

    def write(self, release: Release, verified: bool) -> None:
        up, down = (self._text(statements, self.outside) for statements in (self.up, self.down))
        release.add(f"{self.version}_step", up, down if self.down else None, self.verify if verified else None)


def _log(number: int) -> Statement:
    return Statement(f"insert into log (version) values ({number})", makes=(f"row {number}",))


def _table(name: str) -> Statement:
    return Statement(f"create table {name} (id int primary key, filler text)", makes=(name, f"{name}_pkey"))


def _drop(name: str, *indexes: str) -> Statement:
    return Statement(f"drop table {name}", drops=(name, f"{name}_pkey", *indexes))


_FILL = Statement("insert into t2 select g, repeat('x', 100) from generate_series(1, 2000) g")
_SLEEP = Statement("select pg_sleep(0.15)")
# At the end of its transaction, which gives the fault time to come in between.
_SLOW = Statement("create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.15); return null; end $$")
_SLOW_COMMIT = Statement(
    "create constraint trigger slow after insert on t5 deferrable initially deferred for each row when (new.id = 1) execute function slow()"
)

MIGRATIONS = (
    Migration(
        1,
        [Statement("create table log (version int not null, at timestamptz not null default now())", makes=("log",)), _log(1)],
        [],
        "select version, at from log",
    ),
    Migration(
        2,
        [_table("t2"), _FILL, _log(2), Statement("create index t2_filler on t2 (filler)", makes=("t2_filler",))],
        [_log(-2), _drop("t2", "t2_filler")],
        "do $$ begin assert (select count(*) from t2) = 2000; end $$",
    ),
    Migration(
        3,
        [_table("t3"), _SLEEP, _log(3), Statement("create view v3 as select id from t3", makes=("v3",))],
        [Statement("drop view v3", drops=("v3",)), _SLEEP, _drop("t3"), _log(-3)],
        "select id from v3",
    ),
    Migration(
        4,
        [
            _log(4),
            Statement("create index concurrently t2_id_filler on t2 (id, filler)", makes=("t2_id_filler",)),
            _table("t4"),
            _SLEEP,
            Statement("create unique index concurrently if not exists t2_unique on t2 (id)", makes=("t2_unique",)),
            Statement("vacuum analyze t2"),
        ],
        [
            Statement("drop index concurrently t2_unique", drops=("t2_unique",)),
            _log(-4),
            Statement("drop index concurrently if exists t2_id_filler", drops=("t2_id_filler",)),
            _SLEEP,
            _drop("t4"),
        ],
        "select pg_sleep(0.05)",
        outside=True,
    ),
    Migration(
        5,
        [
            Statement("create table t5 (id int primary key, t2 int references t2 (id) deferrable initially deferred)", makes=("t5", "t5_pkey")),
            _SLOW,
            _SLOW_COMMIT,
            Statement("insert into t5 select id, id from t2 where id <= 500"),
            _log(5),
        ],
        [_log(-5), _drop("t5"), Statement("drop function slow()")],
        "insert into t5 values (-1, 1)",
    ),
    Migration(
        6,
        [
            Statement("reindex index concurrently t2_unique"),
            _log(6),
            Statement("reindex table concurrently t5"),
            Statement("create index concurrently t5_t2 on t5 (t2)", makes=("t5_t2",)),
        ],
        [_log(-6), Statement("drop index concurrently t5_t2", drops=("t5_t2",)), Statement("vacuum t5")],
        "select count(*) from t5",
        outside=True,
    ),
    Migration(7, [Statement("alter table t3 add note text"), _log(7)], [_log(-7), Statement("alter table t3 drop note")], "select note from t3"),
)

INSIDE = tuple(migration for migration in MIGRATIONS if not migration.outside)


def write(release: Release, migrations: Sequence[Migration], verified: bool) -> None:
    for migration in migrations:
        migration.write(release, verified)


@dataclass(frozen=True)
class State:
    """What a database says of itself, all of one moment."""

    ledger: Dict[int, bool]
    """Version to success."""
    doing: Dict[int, str]
    """Of each version, the action that was begun last outside a transaction."""
    statements: Dict[int, int]
    """Of each version, how many statements are remembered since."""
    done: Bag[Tuple[int, str]]
    """How often the side table says that a version was applied or reverted."""
    objects: Objects
    invalid: List[str]
    """Indexes that are not usable."""


def observe(database: Database) -> State:
    """Look at a database, in one snapshot, from beside whatever runs there still."""
    connection = database.connect(user="postgres")
    try:
        connection.set_session(isolation_level="repeatable read", readonly=True)
        with connection, connection.cursor() as cursor:
            cursor.execute("set search_path = public")
            cursor.execute(
                "select relname, coalesce(indisvalid and indisready, true) from pg_class c left join pg_index i on i.indexrelid = c.oid"
                " where relnamespace = 'public'::regnamespace"
            )
            relations: Dict[str, bool] = dict(cursor.fetchall())

            def rows(table: str, query: str) -> List[Tuple[Any, ...]]:
                if table not in relations:
                    return []
                cursor.execute(query)
                return list(cursor.fetchall())

            ledger: Dict[int, bool] = dict(rows("_sqlx_migrations", "select version, success from _sqlx_migrations"))
            history = rows("_sqlx_migrations_history", "select version, action, outcome from _sqlx_migrations_history order by at")
            log = rows("log", "select version from log")
    finally:
        connection.close()
    doing: Dict[int, str] = {}
    statements: Dict[int, int] = {}
    done: Bag[Tuple[int, str]] = Counter()
    for version, action, outcome in history:
        if outcome == "begun":
            doing[version], statements[version] = action, 0
        elif outcome == "done" and action == "statement":
            statements[version] += 1
        elif outcome == "done":
            done[version, action] += 1
    objects = Counter([name for name in relations if not name.startswith("_sqlx")] + [f"row {version}" for (version,) in log])
    return State(ledger, doing, statements, done, objects, [name for name, valid in relations.items() if not valid])


def expectations(state: State, migrations: Sequence[Migration], reverted: Sequence[int]) -> Iterator[Objects]:
    """Which objects there may be, going by the ledger: one answer, and a second one where a statement may be under way.

    :param reverted: versions that were applied in full before and are taken back in this run.
    """
    objects: Objects = Counter()
    under_way: List[Statement] = []
    for migration in migrations:
        version = migration.version
        success = state.ledger.get(version)
        if success or version in reverted:
            for statement in migration.up:
                objects = statement.change(objects)
        elif success is False:
            finished = state.statements[version]
            for statement in migration.up[:finished]:
                objects = statement.change(objects)
            under_way += migration.up[finished : finished + 1]
    for migration in reversed(migrations):
        version = migration.version
        if version not in reverted:
            continue
        if version not in state.ledger:
            for statement in migration.down:
                objects = statement.change(objects)
        elif state.ledger[version] is False:
            finished = state.statements[version]
            for statement in migration.down[:finished]:
                objects = statement.change(objects)
            under_way += migration.down[finished : finished + 1]
    yield objects
    # Only what PostgreSQL runs outside of transactions can be done without being remembered.
    for statement in under_way:
        if "concurrently" in statement.sql:
            yield statement.change(objects)
