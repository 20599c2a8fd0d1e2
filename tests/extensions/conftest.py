"""A server with every optional extension that this machine has packages of, for the tests of sql/optional.

`make test` runs these on fresh Debian machines, in containers (tests/machines/extensions.py): Debian 12 has pg_cron, Debian 13 also timescaledb.
"""

from __future__ import annotations

from typing import Iterator

import pytest
from support import extensions, registry
from support.postgres import Database, Server, installed_majors


@pytest.fixture(scope="session", params=installed_majors() or [0], ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that loads what is there, in the order that timescaledb insists on."""
    settings = {
        "shared_preload_libraries": ",".join(extensions.available(request.param)),
        "cron.use_background_workers": "on",
        "max_worker_processes": 24,
        "random_page_cost": 1.1,
        "timescaledb.telemetry_level": "off",
    }
    with Server(request.param, settings) as running:
        yield running


@pytest.fixture
def registered(database: Database) -> Database:
    """A filled registry, with history from today to a hundred days ago."""
    registry.migrate(database)
    registry.fill(database, schemas=2000, subjects=100, validations=20_000)
    database.execute("""
        insert into validation_history (schema_id, data_hash, valid, duration_ms, validated_at)
        select id, repeat('0', 64), true, 1, now() - interval '31 days' - interval '70 days' * random() from schemas, generate_series(1, 5)
    """)
    return database
