"""The registry's migrations make the same, whoever runs them."""

from __future__ import annotations

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import engine, release, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.records import Target
from support import registry
from support.migrations import HISTORY, LEDGER
from support.postgres import Database, Server


def test_the_engine_leaves_what_psql_leaves_but_for_the_ledger(server: Server, database: Database) -> None:
    files = source.read([str(registry.MIGRATIONS)], str(registry.VERIFY))
    address = {"host": str(server.socket_directory), "port": server.port, "user": database.owner}
    assert engine.migrate(Target(database.name, address), release.of(files), None)["applied"]
    with server.database() as other:
        for migration in files.migrations:
            other.psql(migration.up.text)
        database.execute(f"drop table {LEDGER}, {HISTORY}")
        assert database.dump().replace(database.owner, "owner") == other.dump().replace(other.owner, "owner")
