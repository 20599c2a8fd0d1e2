"""Fixtures of the tests against real sqlx."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.migrations import Release
from support.postgres import Database
from support.sqlx import VERSIONS, Cli, build


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """The programs are there."""
    build()


@pytest.fixture(params=VERSIONS)
def cli(request: pytest.FixtureRequest) -> Cli:
    return Cli(request.param)


@pytest.fixture
def release(tmp_path: Path, database: Database) -> Release:
    """No migration yet, and an empty database to run them on."""
    return Release(tmp_path, database)
