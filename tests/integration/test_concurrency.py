"""Many runs at once, applications among them that take sqlx's lock: everything happens once, and everybody gets to an end."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from typing import Any, List

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import fingerprint, lock, look
from support.migrations import LEDGER, Release
from support.postgres import Database
from support.process import Run

RUNS = 50
VERSIONS = list(range(1, 21))
PATIENCE = 120.0


def sessions(database: Database) -> int:
    query = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'schema_registry%'"
    ((count,),) = database.execute(query, user="postgres")
    return int(count)


def add_twenty(release: Release) -> None:
    """Each migration makes something, and adds itself to a log; two index builds go beside transactions."""
    release.add("1_log", "create table log (version int not null); insert into log values (1);")
    for version in VERSIONS[1:]:
        release.add(f"{version}_table", f"create table t{version} (id int); insert into log values ({version});")
    (release.migrations / "10_table.sql").unlink()
    release.add(
        "10_index",
        "-- no-transaction\ninsert into log values (10);\ncreate index concurrently log_version on log (version);\n"
        "create unique index concurrently log_once on log (version);",
    )


class Applications:
    """Sessions that take the lock as sqlx's library does, waiting inside the server, over and over."""

    def __init__(self, database: Database, count: int) -> None:
        self.errors: List[BaseException] = []
        self.turns = [0] * count
        self._database = database
        self._key = lock.key(database.name)
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def __enter__(self) -> Applications:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int) -> None:
        try:
            with closing(self._database.connect(application_name="an application")) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                while not self._enough.is_set():
                    cursor.execute(f"select pg_advisory_lock({self._key})")
                    cursor.execute(f"select to_regclass('{LEDGER}')")
                    if cursor.fetchone() != (None,):
                        cursor.execute(f"select version from {LEDGER} where not success")
                    cursor.execute(f"select pg_advisory_unlock({self._key})")
                    self.turns[number] += 1
                    # Applications do not start over and over; the polling runs get a chance.
                    time.sleep(0.2)
        except BaseException as error:
            self.errors.append(error)


@pytest.mark.parametrize("applications", [0, 5])
def test_fifty_runs_at_once_apply_everything_once(release: Release, applications: int) -> None:
    add_twenty(release)
    database = release.database
    with ExitStack() as stack:
        # Nobody gets the lock before all of them want it.
        holder = stack.enter_context(closing(database.connect()))
        holder.cursor().execute(f"select pg_advisory_lock({lock.key(database.name)})")
        runs = [stack.enter_context(Run(release, advisory_lock_timeout=PATIENCE)) for _unused in range(RUNS)]
        deadline = time.monotonic() + PATIENCE
        while sessions(database) < RUNS:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        others = stack.enter_context(Applications(database, applications))
        holder.close()
        answers = [run.answer(PATIENCE) for run in runs]
    assert [answer["failed"] for answer in answers if "failed" in answer] == []
    assert sorted(version for answer in answers for version in (entry["version"] for entry in answer["applied"])) == VERSIONS
    assert [answer["changed"] for answer in answers].count(True) == 1
    assert len({answer["fingerprint"] for answer in answers}) == 1
    assert release.versions() == VERSIONS
    assert database.execute("select version from log order by version") == [(version,) for version in VERSIONS]
    assert database.execute("select count(*) from pg_index where not indisvalid") == [(0,)]
    assert others.errors == []
    assert all(others.turns)


# Ledgers that are made at the same moment


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("transaction", ["each", "all"])
def test_a_ledger_that_somebody_else_makes_meanwhile_is_used(release: Release, ending: str, transaction: str) -> None:
    """sqlx-cli makes it without any lock, and PostgreSQL lets one of two CREATE TABLE IF NOT EXISTS fail."""
    release.add_tables(1, 2)
    theirs = (
        f"create table if not exists {LEDGER} (version bigint primary key, description text not null,"
        " installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null, execution_time bigint not null)"
    )
    with closing(release.database.connect()) as other, Run(release, lock_timeout=0.5, transaction=transaction) as run:
        other.cursor().execute(theirs)
        waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        deadline = time.monotonic() + PATIENCE
        while release.database.execute(waiting, user="postgres") == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # Longer than one try.
        time.sleep(0.8)
        other.cursor().execute(ending)
        answer = run.answer(PATIENCE)
    assert "failed" not in answer, answer
    assert release.versions() == [1, 2]


# Looks


@pytest.mark.parametrize("before", [0, 2])
def test_a_look_sees_no_ledger_and_schema_that_do_not_belong_together(release: Release, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    release.add_tables(1, 3)
    fingerprints = {tuple(range(1, version + 1)): release.migrate(version)["fingerprint"] for version in (1, 2, 3)}
    release.migrate(before, allow_revert=True)
    if not before:
        release.database.execute(f"drop table {LEDGER}, {LEDGER}_history")
    take = fingerprint.take

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(fingerprint, "take", take)
        release.migrate()
        return take(*arguments)

    # Somebody migrates once the ledger was looked at, and the schema was not.
    monkeypatch.setattr(fingerprint, "take", late)
    seen = look.look_around(release.target(), LEDGER, with_rows=True)
    assert seen["fingerprint"] == fingerprints[tuple(row[0] for row in seen["rows"])]
    assert seen["ledger_exists"]
