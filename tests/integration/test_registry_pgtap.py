"""The pgTAP tests of tests/pgtap, on a migrated registry: structure, constraints, functions and permissions, said in SQL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

import pytest
from support import registry
from support.postgres import Database, Server

TESTS = sorted((Path(__file__).parents[1] / "pgtap").glob("*.sql"))
READONLY = "schema_registry_readonly"


@pytest.fixture(scope="module")
def tapped(server: Server) -> Iterator[Database]:
    server.execute(f"create role {READONLY}")
    try:
        with server.database() as database:
            registry.migrate(database)
            database.execute("create schema tap; create extension pgtap schema tap", user="postgres")
            database.execute("grant usage on schema tap to public", user="postgres")
            yield database
    finally:
        server.execute(f"drop role {READONLY}")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_tap(tapped: Database, path: Path) -> None:
    said = tapped.psql(f"set search_path = public, tap;\n\\pset tuples_only\n\\pset format unaligned\n{path.read_text()}", single_transaction=False)
    planned = re.search(r"^1\.\.(\d+)$", said, re.MULTILINE)
    assert planned, said
    assert not re.findall(r"^(?:not ok|# Looks like).*", said, re.MULTILINE), said
    assert len(re.findall(r"^ok \d+", said, re.MULTILINE)) == int(planned[1])
