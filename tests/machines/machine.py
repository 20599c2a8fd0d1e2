"""Fresh Debian machines, for a person's whole story: a minimal installation plus git, make, sudo and python3, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import podman
from podman import CHECKOUT, MachineError, configure_podman, output

__all__ = ["CHECKOUT", "SUITES", "Machine", "MachineError", "Result", "configure_podman", "output"]

SUITES = ("bookworm", "trixie")


@dataclass
class Result:
    """What a command on a machine said, and how long that took."""

    command: str
    status: int
    text: str
    seconds: float


class Machine:
    """A running machine; leaving it takes it away."""

    def __init__(self, suite: str, rebuild: bool = False, keep: bool = False, kind: str = "fresh") -> None:
        self.suite = suite
        self.name = f"schema-registry-{kind}-{suite}-{os.getpid()}"
        self.keep = keep
        self._image = podman.image(suite, kind, rebuild)

    def __enter__(self) -> Machine:
        settings = output(sys.executable, str(CHECKOUT / "scripts" / "pip_settings.py"))
        # Folders of packages that pip knows here, it knows there.
        mounts = [f"--volume={folder}:{folder}:ro" for folder in find_links(settings)]
        podman.start(self.name, self._image, self.suite, *mounts)
        try:
            podman.boot(self.name)
            self.write("/etc/pip.conf", settings)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.keep:
            print(f"kept: podman exec -it {self.name} su - (and podman rm -f {self.name} afterwards)", flush=True)
        else:
            podman.remove(self.name)

    def write(self, path: str, text: str) -> None:
        """Write a file, as root."""
        podman.write(self.name, path, text)

    def run(self, command: str, user: str = "root") -> Result:
        """Run a command as it would run in a user's login shell; what it says is read while it says it."""
        started = time.monotonic()
        done = subprocess.run(
            ["podman", "exec", self.name, "su", "--login", user, "--command", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return Result(command, done.returncode, done.stdout, time.monotonic() - started)

    def must(self, command: str, user: str = "root") -> Result:
        """Run a command, which must succeed."""
        result = self.run(command, user)
        if result.status != 0:
            raise MachineError(f"{command} ended with {result.status} on {self.suite}:\n{result.text}")
        return result

    def add_user(self, name: str) -> None:
        """Make a user who may become root."""
        self.must(f"useradd --create-home --shell /bin/bash --groups sudo {name}")
        self.write(f"/etc/sudoers.d/{name}", f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n")

    def receive(self, folder: Path, target: str, user: str) -> None:
        """Copy a folder onto the machine, as the user's own."""
        output("podman", "cp", f"{folder}/.", f"{self.name}:{target}")
        self.must(f"chown -R {user}: {target}")


def find_links(pip_settings: str) -> list[str]:
    """The folders of this machine that pip looks for packages in."""
    words = re.findall(r"^find-links = (.*(?:\n\s+.+)*)", pip_settings, re.MULTILINE)
    return sorted({word for line in words for word in line.split() if Path(word).is_dir()})
