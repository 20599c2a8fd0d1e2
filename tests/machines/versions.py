"""The collection with the oldest and the newest ansible-core that it is promised for, on one Debian 13 machine: both run on its Python.

    versions.py [VERSION ...]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import CHECKOUT, Machine, MachineError, configure_podman
from run import clone

# Everything else is tested with the one of requirements.txt, which is between them.
VERSIONS = ("2.18", "2.21")
HOME = "/root/registry"
FIRST = "20240101000001"


class Versions:
    """The machine, with the checkout on it, and one virtual environment for each version."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def prepare(self) -> None:
        """Bring the checkout, and the collections that the set-up made."""
        with tempfile.TemporaryDirectory() as scratch:
            self.machine.receive(clone(Path(scratch)), HOME, "root")
        collections = ".ansible/collections"
        self.machine.must(f"mkdir -p {HOME}/{collections}")
        self.machine.receive(CHECKOUT / collections, f"{HOME}/{collections}", "root")
        self.machine.must("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install python3-venv")

    def install(self, version: str) -> str:
        """Make the environment; the exact version that came."""
        self.machine.must(f"python3 -m venv /opt/{version} && /opt/{version}/bin/pip install --quiet 'ansible-core=={version}.*'")
        return self.machine.must(f"/opt/{version}/bin/ansible-playbook --version | head -1").text.strip()

    def play(self, version: str, arguments: str, changes: bool | None = None) -> None:
        """Run a playbook; nothing may fail or be deprecated, and something, nothing, or anything may change."""
        done = self.machine.must(f"cd {HOME} && PATH=/opt/{version}/bin:$PATH ANSIBLE_HOME=/tmp/ansible ansible-playbook {arguments}")
        if "DEPRECATION" in done.text:
            raise MachineError(f"{version}: {arguments}: something is deprecated:\n{done.text}")
        changed = {host: int(number) for host, number in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.text, re.MULTILINE)}
        if changes is not None and ({*changed} != {"staging", "production"} or {number > 0 for number in changed.values()} != {changes}):
            raise MachineError(f"{version}: {arguments}: it changed {changed}:\n{done.text}")

    def tell(self, version: str, is_first: bool) -> None:
        """What every version must be able to do."""
        playbooks = " ".join(sorted(f"playbooks/{path.name}" for path in (CHECKOUT / "playbooks").glob("*.yml")))
        self.play(version, f"--syntax-check deploy.yml {playbooks}")
        self.play(version, "deploy.yml --check --diff", changes=is_first)
        self.play(version, "deploy.yml", changes=is_first)
        self.play(version, f"playbooks/rollback.yml -e migrations_version={FIRST} -e migrations_lose_data=true", changes=True)
        self.play(version, "deploy.yml --diff", changes=True)
        self.play(version, "playbooks/status.yml", changes=False)


def main() -> int:
    """Run what the command line asks for."""
    chosen = sys.argv[1:] or list(VERSIONS)
    with tempfile.TemporaryDirectory() as scratch:
        configure_podman(Path(scratch))
        with Machine("trixie", kind="postgresql") as machine:
            versions = Versions(machine)
            versions.prepare()
            for version in chosen:
                exact = versions.install(version)
                versions.tell(version, is_first=version == chosen[0])
                print(f"{exact}: deploys, or finds it done, and goes back and forth", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (MachineError, subprocess.SubprocessError) as error:
        sys.exit(f"versions: {error}")
