"""Fixtures for every test that needs a real PostgreSQL server.

`server` is one running cluster for the whole session, of each major version that is installed here (PG_MAJORS narrows
it); `database` is an empty database in it for one test. A test that needs a cluster with other settings, or a database
for longer, takes `Server(major, settings)` and `server.database()` from `support.postgres`: both clean up after themselves.
"""

from __future__ import annotations

import signal
from typing import Iterator

import pytest
from support.postgres import Database, Server, installed_majors


def pytest_configure() -> None:
    """Let SIGTERM (from `timeout`, say) end the session like Ctrl-C: with the fixtures' clean-up, and no server left over."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


# Without any server the one parameter is 0, so that the tests fail with a clear word rather than vanish.
@pytest.fixture(scope="session", params=installed_majors() or [0], ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running PostgreSQL cluster, shared by the session: what a test makes outside of its database, it removes."""
    if not request.param:
        pytest.fail("no PostgreSQL server is installed under /usr/lib/postgresql", pytrace=False)
    with Server(request.param) as running:
        yield running


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """An empty database, owned by a fresh role without any privilege beyond it."""
    with server.database() as fresh:
        yield fresh
