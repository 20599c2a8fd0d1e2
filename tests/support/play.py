"""Playbooks, run as a person would run them, and what each task answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from .postgres import Database

CHECKOUT = Path(__file__).parents[2]
COLLECTION = "schema_registry.postgresql"


@dataclass(frozen=True)
class Played:
    """What came of a run."""

    results: List[Dict[str, Any]]
    """Each task's, in order."""
    output: str


def login(database: Database, **more: Any) -> Dict[str, Any]:
    """The connection's arguments: the owner, by TCP and with a password."""
    arguments = {
        "login_db": database.name,
        "login_user": database.owner,
        "login_password": database.password,
        "login_host": database.server.host,
        "login_port": database.server.port,
    }
    return {**arguments, **more}


def task(module: str, arguments: Dict[str, Any], **keywords: Any) -> Dict[str, Any]:
    return {f"{COLLECTION}.{module}": arguments, **keywords}


def ansible_playbook(directory: Path, tasks: List[Dict[str, Any]], *options: str, **environment: str) -> str:
    """Run tasks on this machine, with the Python and the psycopg2 of its distribution, as on a managed host.

    :returns: what is printed.
    """
    book = directory / "play.yml"
    book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    settings = directory / "ansible.cfg"
    settings.touch()
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", str(book), *options],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(settings),
            "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".ansible" / "collections"),
            "ANSIBLE_HOME": str(directory / "home"),
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            **environment,
        },
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def play(directory: Path, tasks: List[Dict[str, Any]], *options: str, **environment: str) -> Played:
    """Run tasks as `ansible_playbook` does, and read what each one answered."""
    output = ansible_playbook(directory, tasks, *options, **{"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", **environment})
    try:
        told = json.loads(output[output.index("{\n") : output.rindex("\n}") + 2])
    except ValueError:
        raise AssertionError(output) from None
    return Played([each["hosts"]["localhost"] for each in told["plays"][0]["tasks"]], output)
