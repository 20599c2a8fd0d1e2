"""What a run costs in messages and module executions. Both are counted from outside, and neither depends on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import look
from support.migrations import LEDGER, Release
from support.playbooks import HOST, PlaybookFailed, Playbooks
from support.relay import Relay

MIGRATION = "schema_registry.postgresql.migration"
MIGRATION_INFO = "schema_registry.postgresql.migration_info"


@pytest.fixture
def relay(release: Release) -> Iterator[Relay]:
    with Relay(release.database.server) as listening:
        yield listening


def through(relay: Relay) -> Dict[str, Any]:
    """Connection parameters that lead over the relay."""
    return {"parameters": {"host": str(relay.directory)}}


def sent(relay: Relay) -> List[str]:
    """What was sent since the last call."""
    messages = relay.messages
    relay.conversations.clear()
    return messages


def test_two_messages_a_migration(release: Release, relay: Relay) -> None:
    release.add_tables(1, 5)
    answer = release.migrate(**through(relay))
    first = sent(relay)
    assert len(first) == answer["messages"]

    release.migrate(0, allow_revert=True, **through(relay))
    back = len(sent(relay))
    release.migrate(**through(relay))
    five = len(sent(relay))
    release.migrate(0, allow_revert=True)
    release.add_tables(6, 25)
    release.migrate(**through(relay))
    assert len(sent(relay)) == five + 2 * 20
    release.migrate(0, allow_revert=True, **through(relay))
    assert len(sent(relay)) == back + 2 * 20


def test_three_messages_where_nothing_is_pending(release: Release, relay: Relay) -> None:
    release.add_tables(1, 5)
    release.migrate()
    answer = look.look(release.target(**through(relay)), LEDGER)
    assert answer["rows"] is None
    (conversation,) = relay.conversations
    assert len(conversation) == 3


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(MIGRATION, ()), (MIGRATION, ("--check", "--diff")), (MIGRATION_INFO, ())],
    ids=["apply", "check", "info"],
)
def test_a_module_is_executed_once(release: Release, tmp_path: Path, module: str, arguments: List[str]) -> None:
    release.add_tables(1, 5)
    playbooks = Playbooks(tmp_path / "playbooks", witnessed=True)
    assert len(playbooks.run([task(release, module)], *arguments).memory) == 1
    release.migrate()
    assert len(playbooks.run([task(release, module)], *arguments).memory) == 1


def test_twice_where_much_sql_may_have_to_travel(release: Release, tmp_path: Path) -> None:
    """Whatever is pending, and whatever else is in the ledger."""
    release.add("2_large", f"-- {'x' * 300_000}\ncreate table large (id int);", "drop table large;")
    release.add_tables(3, 4)
    playbooks = Playbooks(tmp_path / "playbooks", witnessed=True)

    def executions(**arguments: Any) -> int:
        run = playbooks.run([task(release, MIGRATION, **arguments)])
        assert run.changed == {HOST: int(len(run.memory) == 2)}
        return len(run.memory)

    assert (executions(), executions()) == (2, 1)
    release.add_tables(1, 1)
    assert (executions(), executions(), release.versions()) == (2, 1, [1, 2, 3, 4])
    (release.migrations / "3_table.up.sql").write_text("create table t3 (id int); -- a word more")
    with pytest.raises(PlaybookFailed, match="Changed since they were applied"):
        executions()
    assert (executions(repair=[3]), executions()) == (2, 1)
    (release.migrations / "4_table.up.sql").unlink()
    (release.migrations / "4_table.down.sql").unlink()
    with pytest.raises(PlaybookFailed, match="missing among the migration files: 4"):
        executions()
    assert executions(missing="ignore") == 1
    release.add_tables(5, 5)
    assert (executions(missing="ignore"), release.versions()) == (2, [1, 2, 3, 4, 5])
    release.add_tables(4, 4)
    assert (executions(version="3", allow_revert=True), release.versions()) == (2, [1, 2, 3])


def test_a_converged_database_costs_one_connection_and_three_messages(release: Release, relay: Relay, tmp_path: Path) -> None:
    release.add_tables(1, 5)
    release.migrate()
    Playbooks(tmp_path / "playbooks").run([task(release, MIGRATION, login_unix_socket=str(relay.directory))])
    (conversation,) = relay.conversations
    assert len(conversation) == 3


@pytest.mark.parametrize("module", [MIGRATION, MIGRATION_INFO])
def test_the_host_needs_no_files(release: Release, tmp_path: Path, module: str) -> None:
    release.add_tables(1, 5)
    playbooks = Playbooks(tmp_path / "playbooks")
    (tmp_path / "playbooks" / "files").mkdir()
    (tmp_path / "playbooks" / "files" / "only_the_controller_has_it").symlink_to(release.migrations)
    for _pending in (True, False):
        playbooks.run([task(release, module, source="only_the_controller_has_it")])
        release.migrate()


def task(release: Release, module: str, **arguments: Any) -> Dict[str, Any]:
    database = release.database
    return {
        module: {
            "source": str(release.migrations),
            "login_db": database.name,
            "login_user": database.owner,
            "login_port": database.server.port,
            "login_unix_socket": str(database.server.socket_directory),
            **arguments,
        }
    }
