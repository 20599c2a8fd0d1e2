"""The role maintenance on a real server: what its dry run foretells, what it does, and that there is nothing left to do then.

Timers, pg_cron and timescaledb need a whole machine: tests/machines and tests/extensions have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from support import registry
from support.playbooks import PlaybookFailed, Playbooks, Task
from support.postgres import Database, Server

ROLE = "schema_registry.postgresql.maintenance"


@pytest.fixture
def kept(server: Server) -> Iterator[Database]:
    """A registry with rows that are too old, and some that are not."""
    with server.database() as database:
        registry.migrate(database)
        registry.fill(database, schemas=500, subjects=20, validations=1000)
        database.execute("""
            insert into validation_history (schema_id, data_hash, valid, duration_ms, validated_at)
            select id, repeat('0', 64), true, 1, now() - interval '95 days' from schemas
        """)
        yield database


def role(database: Database, entry: str, **variables: Any) -> Task:
    here: Dict[str, Any] = {
        "database": database.name,
        "login_port": database.server.port,
        "login_unix_socket": str(database.server.socket_directory),
        "login_user": database.owner,
        "scheduler": "none",
        **variables,
    }
    return {"ansible.builtin.include_role": {"name": ROLE, "tasks_from": entry}, "vars": {f"maintenance_{key}": value for key, value in here.items()}}


def test_it_does_what_it_foretold_and_then_nothing(kept: Database, tmp_path: Path) -> None:
    playbooks = Playbooks(tmp_path)
    rows = "select count(*) from validation_history"
    [(before,)] = kept.execute(rows)

    foretold = playbooks.run([role(kept, "run")], "--check")
    assert "validation_history: 500" in foretold.output
    assert foretold.changed["database"] > 0
    assert kept.execute(rows) == [(before,)]

    assert playbooks.run([role(kept, "run")]).changed["database"] > 0
    assert kept.execute(rows) == [(before - 500,)]

    assert playbooks.run([role(kept, "main"), role(kept, "run")]).changed["database"] == 0

    # A shorter time means more to do.
    assert playbooks.run([role(kept, "run", validation_days=10)]).changed["database"] > 0
    assert kept.execute(f"{rows} where validated_at < now() - interval '10 days'") == [(0,)]


def test_indexes_are_judged_by_fresh_statistics(kept: Database, tmp_path: Path) -> None:
    """What has grown since it was last counted looks like air."""
    kept.execute("""
        create table grown (id integer) with (autovacuum_enabled = off);
        insert into grown values (1);
        create index grown_idx on grown (id);
        insert into grown select n from generate_series(2, 20000) n
    """)
    [(before,)] = kept.execute("select relfilenode from pg_class where relname = 'grown_idx'")
    done = Playbooks(tmp_path).run([role(kept, "run", reindex_mb=0)]).output
    assert "analyze grown" in done
    assert kept.execute("select relfilenode from pg_class where relname = 'grown_idx'") == [(before,)]

    kept.execute("delete from grown where id % 20 > 0")
    done = Playbooks(tmp_path).run([role(kept, "run", reindex_mb=0)]).output
    assert "vacuum grown" in done
    assert kept.execute("select relfilenode from pg_class where relname = 'grown_idx'") != [(before,)]


def test_the_report_shows_every_part(kept: Database, tmp_path: Path) -> None:
    shown = Playbooks(tmp_path).run([role(kept, "report")]).output
    for path in (registry.SQL / "monitoring").glob("*.sql"):
        assert f"== {path.stem.replace('_', ' ')}" in shown


def test_pg_cron_that_is_not_there_is_refused(kept: Database, tmp_path: Path) -> None:
    with pytest.raises(PlaybookFailed, match="extensions_pg_cron"):
        Playbooks(tmp_path).run([role(kept, "main", scheduler="pg_cron")])


def test_wrong_schedules_are_told_all_at_once(kept: Database, tmp_path: Path) -> None:
    schedules = {"vacuum": "0 25 * * *", "analyze": "*/5 * * * *", "purge_checks": "daily", "vaccum": "0 3 * * *"}
    with pytest.raises(PlaybookFailed) as failed:
        Playbooks(tmp_path).run([role(kept, "main", scheduler="timers", schedules=schedules)])
    output = str(failed.value)
    assert "there is no job vaccum. There are: analyze, " in output
    assert "vacuum: '0 25 * * *' is no schedule, hour is from 0 to 23, not 25" in output
    assert "purge_checks: 'daily' is no schedule, it has 1 of cron's five words" in output
    assert "analyze: " not in output


def test_a_database_without_the_schema_is_left_alone(database: Database, tmp_path: Path) -> None:
    assert Playbooks(tmp_path).run([role(database, "main"), role(database, "run")]).changed["database"] == 0


def test_the_timers_of_a_database_that_is_named_alike_are_left_alone(kept: Database) -> None:
    etc = kept.server.directory / "etc"
    own = [
        "systemd/system/schema-registry-5432-orders_refresh@.service",
        *(f"systemd/system/schema-registry-5432-orders_refresh-{job}.timer" for (job,) in kept.execute("select job from maintenance_jobs()")),
        "systemd/system/timers.target.wants/schema-registry-5432-orders_refresh-vacuum.timer",
        "cron.d/schema-registry-5432-orders_refresh",
    ]
    # `orders_refresh_eu`, and `orders-refresh`, whose files have a digest in their names.
    others = [name.replace("_refresh", other) for name in own for other in ("_refresh_eu", "_refresh-abcdefab", "_refresh-01234567")]
    for name in own + others:
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text("")
    files = registry.maintenance_state(kept, "schema-registry-5432-orders_refresh", etc)["files"]
    assert sorted(files) == sorted(f"{etc}/{name}" for name in own)
