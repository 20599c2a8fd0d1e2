"""The examples in the modules' documentation, run one after the other as they stand; only the address is the test's."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from support.playbooks import CHECKOUT, Playbooks
from support.postgres import Database

COLLECTION = "schema_registry.postgresql"
HERE = ("become", "become_user", "delegate_to")


def examples(module: str) -> List[Dict[str, Any]]:
    """The tasks of a module's EXAMPLES."""
    documented = importlib.import_module(f"ansible_collections.{COLLECTION}.plugins.modules.{module}")
    tasks: List[Dict[str, Any]] = yaml.safe_load(documented.EXAMPLES)
    return tasks


def at(database: Database, task: Dict[str, Any]) -> Dict[str, Any]:
    """A task of the examples, for the test's database and the checkout's files."""
    task = {key: value for key, value in task.items() if key not in HERE}
    for action, arguments in task.items():
        if not action.startswith(COLLECTION):
            continue
        here = {key: value for key, value in arguments.items() if not key.startswith(("login_", "ssl_", "session_role"))}
        for key in ("source", "verify"):
            if key in here:
                here[key] = str(CHECKOUT / here[key])
        if action != f"{COLLECTION}.migration_lint":
            here.update(
                login_db=database.name,
                login_user=database.owner,
                login_unix_socket=str(database.server.socket_directory),
                login_port=database.server.port,
            )
        task[action] = here
    return task


def test_the_examples_run(database: Database, tmp_path: Path) -> None:
    tasks = [at(database, task) for module in ("migration_lint", "migration") for task in examples(module)]
    # Back to the newest version: the examples of migration_info find nothing pending.
    tasks += [tasks[1], *(at(database, task) for task in examples("migration_info"))]
    output = Playbooks(tmp_path).run(tasks).output
    assert "failed=0" in output, output


@pytest.mark.parametrize("module", ["migration", "migration_info", "migration_lint"])
def test_every_module_has_examples(module: str) -> None:
    assert all("name" in task for task in examples(module)), "a task without a name"
    assert examples(module)
