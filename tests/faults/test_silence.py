"""What no fault of the harness can be: a machine or a network that is gone, and says nothing."""

from __future__ import annotations

import socket
from pathlib import Path

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.session import Session
from support.migrations import Release
from support.postgres import Database

SETTINGS = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
OPTIONS = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)


def test_both_ends_ask_whether_the_other_is_there(database: Database, tmp_path: Path) -> None:
    target = Release(tmp_path, database).target(parameters={"host": database.server.host, "password": database.password})
    with Session(target) as session:
        theirs = [int(session.value(f"select setting from pg_settings where name = '{name}'")) for name in SETTINGS]
        with socket.socket(fileno=session.connection.fileno()) as end:
            try:
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                ours = [end.getsockopt(socket.IPPROTO_TCP, option) for option in OPTIONS]
            finally:
                end.detach()
    assert ours == theirs
    idle, interval, count = ours
    assert idle + interval * count <= 60
