"""Fixtures of the tests that migrate."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.migrations import Release
from support.postgres import Database


@pytest.fixture
def release(tmp_path: Path, database: Database) -> Release:
    """No migration yet, and an empty database to run them on."""
    return Release(tmp_path, database)
