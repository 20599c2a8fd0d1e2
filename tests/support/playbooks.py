"""Playbooks, run as a person would run them: by the checkout's Ansible, with the checkout's ansible.cfg."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

CHECKOUT = Path(__file__).parents[2]
HOST = "database"
PYTHON = "/usr/bin/python3"  # of the managed host, as in ansible.cfg

# Stands for the host's Python, and writes down one line a run: the most memory that it took, in KiB.
_WITNESS = """\
#!{python} -IS
import os, resource, sys

status = os.spawnv(os.P_WAIT, {python!r}, [{python!r}, *sys.argv[1:]])
with open({log!r}, "a") as log:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=log)
sys.exit(status)
"""

# A host that is this very machine. Who is not root here has a server of the same user's, and nobody to become.
HERE: Dict[str, Any] = {"ansible_connection": "local", **({} if os.geteuid() == 0 else {"ansible_become": False})}

Task = Mapping[str, Any]


class PlaybookFailed(RuntimeError):
    """ansible-playbook ended with an error; the message is what it printed."""


@dataclass(frozen=True)
class Run:
    """How a playbook went."""

    seconds: float
    output: str
    memory: List[int]
    """Of each module execution, in KiB; empty unless they are witnessed."""

    @property
    def changed(self) -> Dict[str, int]:
        """How many tasks changed something, by host: what the recap says."""
        recap = self.output.rpartition("PLAY RECAP")[2]
        return {host: int(changed) for host, changed in re.findall(r"^(\S+) .*\bchanged=(\d+)", recap, re.MULTILINE)}


class Playbooks:
    """Runs tasks on one host, this very machine, and playbooks on an inventory.

    :param directory: a place for what Ansible needs.
    :param witnessed: whether every Python that Ansible starts on the host is noted, which costs it some milliseconds.
    :param inventory: another inventory than that one host.
    :param collections: where the collections are, if not where the checkout has them.
    """

    def __init__(
        self,
        directory: Path,
        witnessed: bool = False,
        inventory: Optional[Mapping[str, Any]] = None,
        collections: Optional[Path] = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._log = directory / "executions"
        variables = dict(HERE)
        if witnessed:
            witness = directory / "python"
            witness.write_text(_WITNESS.format(python=PYTHON, log=str(self._log)))
            witness.chmod(0o755)
            variables["ansible_python_interpreter"] = str(witness)
        self._inventory = self._write("hosts.json", inventory or {"all": {"hosts": {HOST: variables}}})
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(directory / "home"),
            "LC_ALL": "C.UTF-8",
            # For programs that go by the name of who runs them, where nobody becomes postgres.
            "PGUSER": "postgres",
            **({"ANSIBLE_COLLECTIONS_PATH": str(collections)} if collections else {}),
        }

    def _write(self, name: str, content: object) -> Path:
        path = self._directory / name
        path.write_text(json.dumps(content))
        return path

    def run(self, tasks: Sequence[Task], *arguments: str) -> Run:
        """Play the tasks.

        :raises PlaybookFailed: if one of them fails.
        """
        return self.play(self._write("playbook.json", [{"hosts": HOST, "gather_facts": False, "tasks": tasks}]), *arguments)

    def play(self, playbook: Path, *arguments: str) -> Run:
        """Play a playbook.

        :raises PlaybookFailed: if one of its tasks fails.
        """
        self._log.unlink(missing_ok=True)
        program = Path(sys.executable).with_name("ansible-playbook")
        began = time.perf_counter()
        done = subprocess.run(
            [program, "--inventory", self._inventory, playbook, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise PlaybookFailed(done.stdout)
        memory = [int(line) for line in self._log.read_text().split()] if self._log.exists() else []
        return Run(seconds, done.stdout, memory)
