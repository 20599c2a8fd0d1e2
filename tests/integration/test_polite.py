"""A migration that wants a table which others read and write: nobody waits for it longer than its lock_timeout, and a little."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Iterator, List

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError
from support.migrations import Release

LOCK_TIMEOUT = 0.4
# What a writer may wait besides: for the deadlock check, its own commit, and a busy machine.
A_LITTLE = 0.6

TABLES = ("orders", "items")


class Writers:
    """Insert into both tables as fast as they can, and remember their longest wait."""

    def __init__(self, release: Release, count: int = 4) -> None:
        self._database = release.database
        self._enough = threading.Event()
        self.stalls: List[float] = [0.0] * count
        self.writes = [0] * count
        self.errors: List[BaseException] = []
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(30)

    def _write(self, number: int) -> None:
        try:
            with closing(self._database.connect(application_name="a writer")) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                while not self._enough.is_set():
                    began = time.monotonic()
                    cursor.execute(f"insert into {TABLES[self.writes[number] % 2]} (id) values (1)")
                    self.stalls[number] = max(self.stalls[number], time.monotonic() - began)
                    self.writes[number] += 1
        except BaseException as error:
            self.errors.append(error)

    def check(self) -> None:
        assert self.errors == []
        assert min(self.writes) > 50
        assert max(self.stalls) <= LOCK_TIMEOUT + A_LITTLE


@contextmanager
def reader(release: Release, seconds: float = 0.0) -> Iterator[Any]:
    """Somebody who reads `items` for very long, or for so many seconds."""
    with ExitStack() as stack:
        connection = stack.enter_context(closing(release.database.connect(application_name="the monthly report")))
        connection.cursor().execute("select count(*) from items")
        if seconds:
            timer = threading.Timer(seconds, connection.rollback)
            timer.start()
            stack.callback(timer.join)
        yield connection


@pytest.fixture
def busy(release: Release) -> Release:
    """Two tables, and a migration that is still to run."""
    release.add("1_tables", "".join(f"create table {table} (id int);" for table in TABLES))
    release.migrate()
    return release


ALTER = {
    "one table": "alter table items add note text;",
    "one table after another": "alter table orders add note text; alter table items add note text;",
    "verified": "alter table orders add note text; alter table items add note text;",
    "outside transactions": "-- no-transaction\nalter table orders add note text;\nalter table items add note text;",
    "outside, and rewritten": "-- no-transaction\nvacuum full items;\nalter table items add note text;",
}


@pytest.mark.parametrize("kind", ALTER)
def test_writers_hardly_notice(busy: Release, kind: str) -> None:
    busy.add("2_alter", ALTER[kind], verify="select note from items;" if kind == "verified" else None)
    retries = 2
    with Writers(busy) as writers:
        # Run after run, as a person would try.
        for _unused in range(2):
            with reader(busy) as blocker:
                pid = blocker.info.backend_pid
                began = time.monotonic()
                with pytest.raises(ExecutionError) as error:
                    busy.migrate(lock_timeout=LOCK_TIMEOUT, lock_retries=retries)
                took = time.monotonic() - began
            # Three tries, and the pauses between them: up to half a second, then one.
            assert LOCK_TIMEOUT * (retries + 1) <= took <= LOCK_TIMEOUT * (retries + 1) + 1.5 + 5 * A_LITTLE
            assert error.value.failed["sqlstate"] == "55P03"
            # A writer may have been in the way for a moment, too.
            named = {holder["pid"]: holder for holder in error.value.failed.get("blocked_by", ())}
            holder = named[pid]
            assert (holder["application"], holder["state"]) == ("the monthly report", "idle in transaction")
            assert "the monthly report" in error.value.message
        # And it succeeds when the reader has ended.
        with reader(busy, seconds=1.0):
            assert [entry["version"] for entry in busy.migrate(lock_timeout=LOCK_TIMEOUT, lock_retries=20)["applied"]] == [2]
    writers.check()


def test_an_index_is_built_beside_reader_and_writers(busy: Release) -> None:
    """The build waits for the reader's transaction, and holds nobody up meanwhile."""
    busy.add("2_index", "-- no-transaction\ncreate index concurrently i on items (id);")
    with Writers(busy) as writers, reader(busy, seconds=LOCK_TIMEOUT * 3):
        assert busy.migrate(lock_timeout=LOCK_TIMEOUT, lock_retries=20)["changed"]
    writers.check()
