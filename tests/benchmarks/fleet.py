"""A rollout over many databases: how its time grows with their number and with forks, and where a failure in the middle stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import Lab
from measure import Row
from rows import Extent
from support.playbooks import CHECKOUT, HERE, PlaybookFailed, Playbooks

DEPLOY = CHECKOUT / "deploy.yml"
FEW_FORKS, MANY_FORKS = 5, 20
FLEET = 200


class Fleet:
    """Databases of one server, each a host of its own: one of staging, the others of production. The server itself is there already."""

    def __init__(self, lab: Lab, size: int) -> None:
        self._lab = lab
        self._directory = lab.directory / f"fleet-{size}"
        self._report = self._directory / "report.json"
        self.migrations = self._directory / "migrations"
        self.migrations.mkdir(parents=True)
        self.names = [f"fleet{size}_{number:03}" for number in range(size)]
        socket = str(lab.server.socket_directory)
        sockets = {f"{role}_login_unix_socket": socket for role in ("database", "extensions", "maintenance", "migrations")}
        variables = {
            **HERE,
            **sockets,
            "server_port": lab.server.port,
            "migrations_source": str(self.migrations),
            "migrations_verify": "",
            "migrations_rules": {"squawk": "ignore"},
            "deploy_report": str(self._report),
        }
        staging, *production = ({name: {"database_name": name}} for name in self.names)
        groups = {"staging": {"hosts": staging}, "production": {"hosts": {name: own for host in production for name, own in host.items()}}}
        inventory = {"all": {"vars": variables, "children": groups}}
        self._playbooks = Playbooks(self._directory / "ansible", inventory=inventory, collections=self._collections())
        self.add(1, "create table t1 (id bigint);")

    def _collections(self) -> Path:
        """The checkout's collections, but for the role server."""
        directory = self._directory / "collections"
        ours = directory / "ansible_collections" / "schema_registry" / "postgresql"
        (ours / "roles" / "server" / "tasks").mkdir(parents=True)
        (ours / "roles" / "server" / "tasks" / "main.yml").write_text("[]", encoding="utf-8")
        for path in (CHECKOUT / ".ansible" / "collections" / "ansible_collections").iterdir():
            if path.name != "schema_registry":
                (directory / "ansible_collections" / path.name).symlink_to(path)
        for path in (*(CHECKOUT / "roles").iterdir(), CHECKOUT / "plugins", CHECKOUT / "sql", CHECKOUT / "meta"):
            if path.name != "server":
                (ours / path.relative_to(CHECKOUT)).symlink_to(path)
        return directory

    def add(self, version: int, up: str) -> None:
        """One migration more."""
        (self.migrations / f"{version}_one.up.sql").write_text(up, encoding="utf-8")
        (self.migrations / f"{version}_one.down.sql").write_text(f"drop table t{version};", encoding="utf-8")

    def deploy(self, forks: int, waves: str = "[1, 100%]") -> float:
        """Seconds of a rollout that must go well."""
        return self._playbooks.play(DEPLOY, "--forks", str(forks), "--extra-vars", json.dumps({"deploy_waves": waves})).seconds

    def fails(self, forks: int, waves: str) -> dict[str, Any]:
        """What became of each host in a rollout that must fail, and what it has applied."""
        try:
            self.deploy(forks, waves)
        except PlaybookFailed:
            return {row["host"]: row for row in json.loads(self._report.read_text(encoding="utf-8"))["hosts"]}
        raise AssertionError("the rollout went well")

    def has(self, name: str, table: str) -> bool:
        """Whether a table is in a database."""
        with self._lab.server.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute("select to_regclass(%s) is not null", [table])
            return bool(cursor.fetchone() == (True,))

    def close(self) -> None:
        """The files are not needed any more."""
        shutil.rmtree(self._directory, ignore_errors=True)


def fleet(lab: Lab, extent: Extent) -> Iterator[Row]:
    """A rollout over 200 databases, with 5 and 20 forks, and one that fails in the middle."""
    for size in sorted({extent.size(count) for count in (FLEET // 10, FLEET // 2, FLEET)}):
        hosts = Fleet(lab, size)
        yield Row(f"rollout over {size} databases, from nothing, {MANY_FORKS} forks", (hosts.deploy(MANY_FORKS),), unit=" s")
        for version, forks in ((2, FEW_FORKS), (3, MANY_FORKS)):
            hosts.add(version, f"create table t{version} (id bigint);")
            yield Row(f"rollout over {size} databases, one migration more, {forks} forks", (hosts.deploy(forks),), unit=" s")
            yield Row(f"rollout over {size} databases, nothing to do, {forks} forks", (hosts.deploy(forks),), unit=" s")
        if size == extent.size(FLEET):
            yield from _stopped(hosts)
        hosts.close()


def _stopped(hosts: Fleet) -> Iterator[Row]:
    """The host in the middle fails: nobody after its wave is touched, and itself is as it was."""
    _staging, *production = hosts.names
    wave = max(1, len(production) // 10)
    failing = len(production) // 2
    first, last = failing // wave * wave, failing // wave * wave + wave
    hosts.add(4, f"do $$ begin assert current_database() <> '{production[failing]}'; end $$; create table t4 (id bigint);")
    rows = hosts.fails(MANY_FORKS, f"[{wave}]")
    done = [name for name in production if hosts.has(name, "t4")]
    # Its own wave is under way when it fails.
    expected = [name for name in production[:last] if name != production[failing]]
    if done != expected or rows[production[failing]]["outcome"] != "failed" or {rows[name]["outcome"] for name in production[last:]} != {"not reached"}:
        raise AssertionError(f"the rollout did not stop where it should: {len(done)} of {len(production)} have the release")
    what = f"a failure on host {failing + 1} of {len(production)}, in waves of {wave}"
    yield Row(f"{what}: hosts before its wave that have the release", (float(first),))
    yield Row(f"{what}: hosts after its wave that were touched", (0.0,), 0)
