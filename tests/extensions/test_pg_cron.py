"""sql/optional/pg_cron.sql and pg_stat_statements.sql: switched on, again, over, off, in any order; and the jobs do run."""

from __future__ import annotations

import subprocess
import time
from typing import Iterator, List

import pytest
from support import registry
from support.postgres import Database, PsqlError, Server

OPTIONAL = registry.SQL / "optional"
JOBS = {
    "refresh_subject_versions",
    "refresh_popular_schemas",
    "analyze",
    "purge_validations",
    "purge_accesses",
    "purge_checks",
    "purge_schemas",
    "vacuum",
    "purge_job_results",
}


def apply(database: Database, extension: str, **settings: object) -> List[str]:
    """Run the script as superuser; what it says it has changed."""
    options = " ".join(f"-c registry.{name}={str(value).replace(' ', chr(92) + ' ')}" for name, value in settings.items())
    done = subprocess.run(
        [
            *(str(database.server.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"),
            *("-d", database.server.dsn(database.name), "-f", str(OPTIONAL / f"{extension}.sql")),
        ],
        env={"PGOPTIONS": options, "PATH": "/usr/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PsqlError(done.stdout)
    return [line for line in done.stdout.splitlines() if "changed: " in line]


@pytest.fixture
def scheduled(server: Server, registered: Database) -> Iterator[Database]:
    """A registry in the one database of the server that pg_cron works in."""
    server.execute(f"alter system set cron.database_name = '{registered.name}'")
    server.stop()
    server.start()
    registered.execute("create extension pg_cron", user="postgres")
    yield registered
    registered.execute("drop extension pg_cron", user="postgres")
    server.execute("alter system reset cron.database_name")
    server.stop()
    server.start()


@pytest.fixture
def migrator(scheduled: Database) -> Iterator[str]:
    """As the role database makes it: the login role whose sessions begin as the owner."""
    name = f"{scheduled.name}_migrator"
    scheduled.server.execute(f"create role {name} login in role {scheduled.owner}")
    scheduled.server.execute(f"alter role {name} in database {scheduled.name} set role = {scheduled.owner}")
    yield name
    apply(scheduled, "pg_cron", jobs="off")
    scheduled.execute(f"drop owned by {name}", user="postgres")
    scheduled.server.execute(f"drop role {name}")


def jobs(database: Database) -> dict[str, tuple[str, str, str]]:
    found = database.execute("select jobname, schedule, command, username from cron.job where jobname like 'registry: %'", user="postgres")
    return {name.removeprefix("registry: "): (schedule, command, runner) for name, schedule, command, runner in found}


def test_on_again_over_and_off(scheduled: Database) -> None:
    scheduled.execute("select cron.schedule('somebody else''s', '0 0 * * *', 'select 1')", user="postgres")
    assert apply(scheduled, "pg_cron")
    assert set(jobs(scheduled)) == JOBS
    assert {runner for _unused, _unused, runner in jobs(scheduled).values()} == {scheduled.owner}
    assert apply(scheduled, "pg_cron") == []

    assert len(apply(scheduled, "pg_cron", validation_days=30, schedules='{"vacuum":"1 4 * * *"}')) == 2
    assert jobs(scheduled)["purge_validations"][1] == "call public.purge_history('validation_history', 30)"
    assert jobs(scheduled)["vacuum"][0] == "1 4 * * *"
    assert len(apply(scheduled, "pg_cron")) == 2

    assert len(apply(scheduled, "pg_cron", runner="postgres")) >= 2 * len(JOBS)
    assert {runner for _unused, _unused, runner in jobs(scheduled).values()} == {"postgres"}

    assert len(apply(scheduled, "pg_cron", jobs="off")) == len(JOBS)
    assert apply(scheduled, "pg_cron", jobs="off") == []
    assert scheduled.execute("select jobname from cron.job", user="postgres") == [("somebody else's",)]


def test_the_jobs_do_their_work(scheduled: Database, migrator: str) -> None:
    [(backlog,)] = scheduled.execute("select sum(total) from retention_backlog()")
    assert backlog > 0
    every_minute = "{" + ",".join(f'"{job}":"* * * * *"' for job in JOBS) + "}"
    apply(scheduled, "pg_cron", schedules=every_minute)
    assert {runner for _unused, _unused, runner in jobs(scheduled).values()} == {migrator}
    # Two runs long ago, of which one was somebody else's.
    scheduled.execute(
        f"""
            insert into cron.job_run_details (jobid, runid, database, username, command, status, end_time)
            select 0, -n, '{scheduled.name}', (array['{migrator}', 'postgres'])[n], 'select 1', 'succeeded', now() - interval '15 days'
            from generate_series(1, 2) as n
        """,
        user="postgres",
    )
    outcomes: dict[str, tuple[str, str]] = {}
    for _second in range(130):
        time.sleep(1)
        outcomes = {
            name.removeprefix("registry: "): (status, message)
            for name, status, message in scheduled.execute(
                "select jobname, status, return_message from cron.job join cron.job_run_details using (jobid) where end_time is not null", user="postgres"
            )
        }
        if set(outcomes) == JOBS:
            break
    assert set(outcomes) == JOBS
    assert [message for status, message in outcomes.values() if status != "succeeded"] == []
    assert scheduled.execute("select sum(total) from retention_backlog()") == [(0,)]
    assert scheduled.execute("select username::text from cron.job_run_details where runid < 0", user="postgres") == [("postgres",)]
    shown = scheduled.psql(registry.SQL / "monitoring" / "jobs.sql", user="postgres")
    assert all(job in shown for job in JOBS)


def test_without_the_extension_it_says_so(registered: Database) -> None:
    for extension in ("pg_cron", "pg_stat_statements"):
        with pytest.raises(PsqlError, match=f"{extension} is not installed"):
            apply(registered, extension)


def test_slow_statements_are_listed_and_forgotten(registered: Database) -> None:
    schema = registered.dump()
    registered.execute("create extension pg_stat_statements", user="postgres")
    assert len(apply(registered, "pg_stat_statements")) == 3
    assert apply(registered, "pg_stat_statements") == []
    registered.execute("select count(*) from schemas, generate_series(1, 100)")
    listed = "select query from slow_statements where query like 'select count(*) from schemas, generate_series%'"
    assert len(registered.execute(listed, user="postgres")) == 1
    registered.execute("select reset_statements()", user="postgres")
    assert registered.execute(listed, user="postgres") == []
    with pytest.raises(Exception, match="permission denied"):
        registered.execute("select reset_statements()")
    registered.execute("drop extension pg_stat_statements", user="postgres")
    assert registered.dump() == schema


def test_pg_stat_statements_can_be_updated(registered: Database) -> None:
    """Its updates drop its own view, which nothing of ours may depend on."""
    registered.execute("create extension pg_stat_statements version '1.9'", user="postgres")
    apply(registered, "pg_stat_statements")
    registered.execute("alter extension pg_stat_statements update", user="postgres")
    assert registered.execute("select installed_version = default_version from pg_available_extensions where name = 'pg_stat_statements'") == [(True,)]
    assert apply(registered, "pg_stat_statements") == []
    assert registered.execute("select count(*) > 0 from slow_statements", user="postgres") == [(True,)]
    registered.execute("select reset_statements()", user="postgres")


def test_slow_statements_are_for_those_who_may_see_them(registered: Database) -> None:
    auditor = f"auditor_of_{registered.name}"
    registered.execute("create extension pg_stat_statements", user="postgres")
    apply(registered, "pg_stat_statements")
    registered.execute("select count(*) from subjects")
    with pytest.raises(Exception, match="permission denied"):
        registered.execute("select * from slow_statements")
    registered.server.execute(f"create role {auditor} login in role pg_monitor")
    try:
        assert registered.execute("select role::text from slow_statements where query = 'select count(*) from subjects'", user=auditor) == [(registered.owner,)]
    finally:
        registered.server.execute(f"drop role {auditor}")
