"""Passwords and SQL stay where they belong: they are looked for everywhere else, while playbooks run at -vvv and afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.release import encode, of
from support.migrations import Release
from support.play import ansible_playbook, login, task

# In every migration; the password of the login is the database's own.
SQL = "text_of_a_migration"
SYSTEM_LOG = Path("/dev/log")

SLOW = f"-- {SQL}\ncreate table t1 as select '{SQL}' as x; select pg_sleep(1.5);"
FAILING = f"select '{SQL}'; select pg_sleep(0.5);\nselect 1 / 0;"


class Spy:
    """Collects what other users of the machine and of the server can see, as long as it is entered."""

    def __init__(self, release: Release, temporary: Path) -> None:
        self.commands: Set[str] = set()
        self.activity: Set[str] = set()
        self.files: Dict[Path, int] = {}
        """Files of the runs', and who may get at them."""
        self._release = release
        self._temporary = temporary
        self._role = f"{release.database.owner}_other"
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Spy:
        self._release.database.server.execute(f"create role {self._role} login")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._release.database.server.execute(f"drop role {self._role}")

    def _look(self) -> None:
        with closing(self._release.database.connect(user=self._role)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not self._enough.wait(0.02):
                self.commands.update(_commands())
                cursor.execute("select a::text from pg_stat_activity a where pid <> pg_backend_pid()")
                self.activity.update(row for (row,) in cursor.fetchall())
                for path in self._temporary.rglob("*"):
                    with suppress(OSError):
                        if path.is_file():
                            self.files[path] = stat.S_IMODE(path.parent.stat().st_mode) & stat.S_IMODE(path.stat().st_mode)


def _commands() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def secret_login(release: Release, **more: Any) -> Dict[str, Any]:
    """The password is in no file of ours."""
    return login(release.database, source=str(release.migrations), **{"login_password": "{{ lookup('env', 'SECRET') }}", **more})


def packed(release: Release) -> List[str]:
    """The SQL as it travels to the host: the beginning of what may be in a task's arguments."""
    source = release.read()
    return [encode(of(source, versions))[:200] for versions in (None, [1], [2])]


def files(directory: Path) -> List[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("pipelining", "asynchronous"), [("1", False), ("0", False), ("1", True)], ids=["pipelining", "files", "in the background"]
)
def test_nobody_else_sees_passwords_or_sql(release: Release, tmp_path: Path, pipelining: str, asynchronous: bool) -> None:
    release.add("1_slow", SLOW)
    failing = Release(release.directory / "failing", release.database)
    failing.add("1_slow", SLOW)
    failing.add("2_failing", FAILING)
    remote, temporary, runs = tmp_path / "remote", tmp_path / "temporary", tmp_path / "runs"
    for directory in (temporary, runs):
        directory.mkdir()
    keywords: Dict[str, Any] = {"async": 60, "poll": 1} if asynchronous else {}
    tasks = [
        task("migration", secret_login(release), check_mode=True),
        task("migration", secret_login(release), **keywords),
        task("migration", secret_login(release)),
        task("migration_info", secret_login(release)),
        task("migration", secret_login(failing), ignore_errors=True, **keywords),
        task("migration", secret_login(release, login_password="{{ lookup('env', 'SECRET') }}, which is wrong")),
    ]
    password = release.database.password
    with Spy(release, remote) as spy:
        output = ansible_playbook(
            runs,
            tasks,
            "-vvv",
            SECRET=password,
            ANSIBLE_PIPELINING=pipelining,
            ANSIBLE_REMOTE_TEMP=str(remote),
            ANSIBLE_ASYNC_DIR=str(tmp_path / "async"),
            TMPDIR=str(temporary),
        )
    secrets = [password, SQL, *packed(release), *packed(failing)]
    for what in secrets:
        assert what not in output
        assert [command for command in spy.commands if what in command] == []
        assert [row for row in spy.activity if what in row] == []
    # What was looked at was there.
    assert "ok=5" in output and "failed=1" in output and "ignored=1" in output
    assert all(text in output for text in ("division by zero", "password authentication failed", "changed: [localhost]"))
    assert any("ansible-playbook" in command for command in spy.commands)
    assert any("schema_registry.postgresql from" in row and "insufficient privilege" in row for row in spy.activity)
    if pipelining == "0" or asynchronous:
        assert spy.files
    assert [path for path, mode in spy.files.items() if mode & 0o077] == []

    # And nothing stays.
    # (What ran in the background cleans up after it has told its answer.)
    deadline = time.monotonic() + 30
    while files(remote) + files(temporary) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert files(remote) + files(temporary) == []
    for path in files(tmp_path):
        if path.suffix != ".sql":
            content = path.read_bytes().decode(errors="replace")
            assert [what for what in secrets if what in content] == [], path


def test_sql_is_shown_where_a_difference_is_asked_for(release: Release, tmp_path: Path) -> None:
    release.add("1_slow", SLOW)
    for options in (["--check", "--diff"], ["--diff"]):
        output = ansible_playbook(tmp_path, [task("migration", secret_login(release))], "-vvv", *options, SECRET=release.database.password)
        assert SQL in output
        assert release.database.password not in output


@contextmanager
def system_log() -> Iterator[Callable[[], str]]:
    """What modules write into this machine's log from now on."""
    if os.geteuid():
        pytest.skip("only root can read the system's log")
    if SYSTEM_LOG.exists():
        if not shutil.which("journalctl"):
            pytest.skip(f"somebody else listens at {SYSTEM_LOG}, and there is no journal")
        began = f"--since=@{time.time():.0f}"
        yield lambda: subprocess.run(["journalctl", "--no-pager", "--output=verbose", began], check=True, stdout=subprocess.PIPE, text=True).stdout
        return
    received: List[bytes] = []
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        listener.bind(str(SYSTEM_LOG))
        stack.callback(SYSTEM_LOG.unlink)

        def listen() -> None:
            while message := listener.recv(1 << 20):
                received.append(message)

        thread = threading.Thread(target=listen)
        thread.start()
        stack.callback(thread.join)
        stack.callback(listener.shutdown, socket.SHUT_RDWR)
        yield lambda: b"\n".join(received).decode(errors="replace")


def test_the_system_s_log_gets_neither(release: Release, tmp_path: Path) -> None:
    release.add("1_slow", SLOW)
    failing = Release(release.directory / "failing", release.database)
    failing.add("1_slow", SLOW)
    failing.add("2_failing", FAILING)
    tasks = [
        task("migration", secret_login(release), diff=True),
        task("migration_info", secret_login(release)),
        task("migration", secret_login(failing), ignore_errors=True),
    ]
    with system_log() as read:
        ansible_playbook(tmp_path, tasks, SECRET=release.database.password)
        # It arrives in its own time.
        deadline = time.monotonic() + 30
        while (text := read()).count("schema_registry.postgresql.migration") < len(tasks) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert "schema_registry.postgresql.migration" in text
    assert [what for what in (release.database.password, SQL, *packed(release), *packed(failing)) if what in text] == []
