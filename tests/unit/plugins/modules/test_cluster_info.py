"""What the module cluster_info makes of what it reads."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.modules import cluster_info

POSTMASTER = """{pid}
/var/lib/postgresql/15/main
1700000000
5433
{socket}
{address}
  1234 5678
ready
"""


class FakeModule:
    """Answers commands from a table, by the program's name."""

    def __init__(self, answers: Dict[str, str], params: Dict[str, Any]) -> None:
        self.answers = answers
        self.params = params

    def get_bin_path(self, name: str) -> str:
        """Programs that have an answer are installed."""
        return name if name in self.answers else ""

    def run_command(self, command: List[str], **_options: Any) -> Tuple[int, str, str]:
        """The answer."""
        return 0, self.answers[command[0]], ""


@pytest.mark.parametrize(
    ("line", "value"),
    [("ID=debian", "debian"), ('ID="debian"', "debian"), ("ID='debian'", "debian"), ('ID="a b"', "a b")],
)
def test_os_release_comes_with_and_without_quotes(line: str, value: str) -> None:
    """Distributions differ in that."""
    assert cluster_info.os_release("X_ID=no\n%s\nID_LIKE=other\n" % line)["ID"] == value


def test_the_port_is_the_running_servers_not_the_configured_one(tmp_path: Path) -> None:
    """Between a change of the port and the restart they differ."""
    (tmp_path / "postmaster.pid").write_text(POSTMASTER.format(pid=os.getpid(), socket="/var/run/postgresql", address="*"))
    assert cluster_info.get_postmaster(str(tmp_path)) == ("/var/run/postgresql", "5433")


def test_a_server_without_a_socket_is_reached_by_its_address(tmp_path: Path) -> None:
    """unix_socket_directories may be empty."""
    (tmp_path / "postmaster.pid").write_text(POSTMASTER.format(pid=os.getpid(), socket="", address="*"))
    assert cluster_info.get_postmaster(str(tmp_path)) == ("localhost", "5433")


@pytest.mark.parametrize("text", ["", "123\n", POSTMASTER.format(pid=2**22 + 1, socket="/tmp", address="")])
def test_a_file_that_a_crash_left_is_no_server(tmp_path: Path, text: str) -> None:
    """postmaster.pid outlives the server that is killed."""
    (tmp_path / "postmaster.pid").write_text(text)
    assert cluster_info.get_postmaster(str(tmp_path)) is None


def test_only_installed_packages_have_a_version() -> None:
    """dpkg-query also knows what was removed, and says nothing of what it never heard of."""
    module = FakeModule({"dpkg-query": "installed acl 2.3\nconfig-files openssl 3.0\n"}, {})
    assert cluster_info.get_packages(module, ["acl", "openssl", "logrotate"]) == {"acl": "2.3", "openssl": "", "logrotate": ""}


@pytest.mark.parametrize(
    ("name", "text", "missing"),
    [
        ("pgdg.sources", "Types: deb\nURIs: https://mirror/pg\nSuites: trixie-pgdg\nComponents: main\n", False),
        ("pgdg.sources", "Types: deb deb-src\nURIs: https://other https://mirror/pg/\nSuites: trixie trixie-pgdg\n", False),
        ("pgdg.sources", "Types: deb\nURIs: https://mirror/pg\nSuites: bookworm-pgdg\n\nTypes: deb\nURIs: https://other\nSuites: trixie-pgdg\n", True),
        ("pgdg.sources", "Enabled: no\nTypes: deb\nURIs: https://mirror/pg\nSuites: trixie-pgdg\n", True),
        ("pgdg.sources", "Types: deb\n# URIs: https://mirror/pg\nURIs: https://other\nSuites: trixie-pgdg\n", True),
        ("pgdg.list", "deb [signed-by=/key] https://mirror/pg trixie-pgdg main\n", False),
        ("pgdg.list", "#deb https://mirror/pg trixie-pgdg main\ndeb-src https://mirror/pg trixie-pgdg main\n", True),
        ("pgdg.list.save", "deb https://mirror/pg trixie-pgdg main\n", True),
    ],
)
def test_a_repository_is_known_by_address_and_suite(tmp_path: Path, name: str, text: str, missing: bool) -> None:
    """However it came there."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(text)
    assert cluster_info.get_repository_missing("https://mirror/pg trixie-pgdg", str(tmp_path)) is missing
    assert not cluster_info.get_repository_missing("", str(tmp_path))


def test_a_host_without_postgresql_has_no_clusters() -> None:
    """Nothing is installed there, and nothing fails."""
    assert cluster_info.get_clusters(FakeModule({}, {})) == []


def test_clusters_are_told_as_pg_lsclusters_tells_them() -> None:
    """Numbers come as text or numbers, depending on its version."""
    module = FakeModule({"pg_lsclusters": '[{"version": 15, "cluster": "a b", "port": "5433", "running": 1, "pgdata": "/d"}]'}, {})
    expected = {"version": "15", "cluster": "a b", "port": 5433, "data_directory": "/d", "running": True}
    assert cluster_info.get_clusters(module) == [expected]


def test_the_memory_of_a_container_is_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server must not plan with what it will be killed for."""
    texts = {"/proc/meminfo": "MemFree: 1 kB\nMemTotal:    8388608 kB\n"}
    monkeypatch.setattr(cluster_info, "read", lambda path: texts.get(path, ""))
    assert cluster_info.get_memory_mb() == 8192
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert cluster_info.get_memory_mb() == 8192
    texts["/sys/fs/cgroup/memory.max"] = str(512 * 1024**2)
    assert cluster_info.get_memory_mb() == 512


def test_a_port_is_taken_by_whoever_answers() -> None:
    """Only the cluster itself may answer there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert cluster_info.get_port_taken(port, {"running": False, "port": port})
        assert cluster_info.get_port_taken(port, {"running": True, "port": port + 1})
        assert not cluster_info.get_port_taken(port, {"running": True, "port": port})
    assert not cluster_info.get_port_taken(port, {"running": False, "port": port})


@pytest.mark.parametrize(("text", "starts"), [("auto\n", True), ("", True), ("# a word\nmanual # auto\n", False), ("disabled", False)])
def test_start_conf_says_what_starts(tmp_path: Path, text: str, starts: bool) -> None:
    """As pg_ctlcluster(1) reads it."""
    (tmp_path / "start.conf").write_text(text)
    assert cluster_info.get_starts_at_boot(FakeModule({}, {}), str(tmp_path), "15", "main", False) is starts


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates with their keys."""
    directory = tmp_path_factory.mktemp("tls")
    for name in ("a", "b"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-subj", "/CN=" + name]
        subprocess.run([*command, "-keyout", directory / (name + ".key"), "-out", directory / (name + ".crt")], check=True, capture_output=True)
    return directory


@pytest.fixture
def no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which PostgreSQL is not installed yet, so that any user can run the test."""
    monkeypatch.setattr(cluster_info._cluster, "OWNER", "nobody-has-this-name")
    for name in ("seteuid", "setgroups"):
        monkeypatch.setattr(os, name, lambda _value: None)
    stat = os.stat
    monkeypatch.setattr(cluster_info.os, "stat", lambda path: os.stat_result((stat(path).st_mode, 0, 0, 1, 0, 0, 0, 0, 0, 0)))


@pytest.mark.usefixtures("no_owner")
def test_a_key_must_fit_its_certificate(pairs: Path) -> None:
    """The server would go on with the old pair, and fail at its next start."""
    files = [str(pairs / "a.crt"), str(pairs / "a.key")]
    assert cluster_info.get_tls_problem(files) == ""
    assert cluster_info.get_tls_problem([*files, str(pairs / "b.crt")]) == ""
    assert "mismatch" in cluster_info.get_tls_problem([files[0], str(pairs / "b.key")])
    assert "cannot be used" in cluster_info.get_tls_problem([*files, str(pairs / "a.key")])


@pytest.mark.usefixtures("no_owner")
def test_a_key_must_not_be_open(pairs: Path) -> None:
    """The server refuses one that others can read."""
    key = pairs / "a.key"
    key.chmod(0o644)
    try:
        assert "0640" in cluster_info.get_tls_problem([str(pairs / "a.crt"), str(key)])
    finally:
        key.chmod(0o600)
