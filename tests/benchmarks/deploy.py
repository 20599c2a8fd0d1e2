"""`make deploy` on a fresh machine; a second one against a second run of the role geerlingguy.postgresql, with the same Ansible."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import Lab
from machine import Machine, MachineError, configure_podman, output
from measure import Row, ratios, rounds
from rows import Extent
from run import clone
from support.playbooks import CHECKOUT

SUITE, MAJOR = "bookworm", "15"
REGISTRY, PEER = "/root/registry", "/root/peer"

# What the role is asked for: as much as its README asks for, in a cluster beside the registry's two.
PLAYBOOK = [
    {
        "hosts": "all",
        "become": True,
        "roles": ["geerlingguy.postgresql"],
        "vars": {"postgresql_databases": [{"name": "example_db"}], "postgresql_users": [{"name": "example_user"}]},
    }
]
# Its module locale_gen, which setup does not bring.
REQUIREMENTS = {"collections": [{"name": "community.general", "version": "11.4.2"}]}

DEPLOY = f"cd {REGISTRY} && make deploy"
# Older releases of the role want facts as variables.
PLAY = (
    f"cd {REGISTRY} && ANSIBLE_INJECT_FACT_VARS=true ANSIBLE_ROLES_PATH={PEER}/roles"
    f" .venv/bin/ansible-playbook --inventory localhost, --connection local {PEER}/playbook.json"
)


def fresh(_lab: Lab, extent: Extent) -> Iterator[Row]:
    """`make deploy` of one fresh host, from the packages to the verified migrations, and once more."""
    deploy = f"{DEPLOY} ARGS='--limit staging'"
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        configure_podman(Path(scratch))
        checkout = clone(Path(scratch))
        for _round in range(extent.rounds(3)):
            with Machine(SUITE) as machine:
                machine.receive(checkout, REGISTRY, "root")
                machine.must(f"cd {REGISTRY} && make setup")
                first = machine.must(deploy)
                measured.append((first.seconds, _tasks(first.text), _nothing_to_do(machine, deploy)))
    yield Row("`make deploy` of a fresh host", tuple(seconds for seconds, _unused, _unused in measured), unit=" s")
    yield Row("`make deploy` of a fresh host, tasks that ran", tuple(tasks for _unused, tasks, _unused in measured))
    yield Row("`make deploy` of that host, again", tuple(again for _unused, _unused, again in measured), unit=" s")


def _tasks(text: str) -> int:
    """How many tasks ran on the one host of a play."""
    (ran,) = re.findall(r"^\S+\s+: ok=(\d+)\s", text, re.MULTILINE)
    return int(ran)


def against_role(role: Path, extent: Extent) -> Iterator[Row]:
    """Runs that have nothing to do: `make deploy` for two databases, and the role for one."""
    with tempfile.TemporaryDirectory() as scratch:
        configure_podman(Path(scratch))
        checkout = clone(Path(scratch))
        with Machine(SUITE) as machine:
            machine.receive(checkout, REGISTRY, "root")
            machine.must(f"cd {REGISTRY} && make setup")
            machine.must(DEPLOY)
            _prepare(machine, role)
            machine.must(PLAY)
            measured = rounds(extent.rounds(7), lambda: _nothing_to_do(machine, DEPLOY), lambda: _nothing_to_do(machine, PLAY))
    yield Row("a second `make deploy`", tuple(ours for ours, _unused in measured), unit=" s")
    yield Row("a second run of the role", tuple(theirs for _unused, theirs in measured), unit=" s")
    yield Row("a second `make deploy`: a second run of the role", ratios(measured), 1)


def _prepare(machine: Machine, role: Path) -> None:
    """What the role takes for granted: its collection, locales, and Debian's own cluster."""
    output("podman", "exec", machine.name, "mkdir", "-p", f"{PEER}/roles")
    machine.receive(role, f"{PEER}/roles/geerlingguy.postgresql", "root")
    machine.write(f"{PEER}/playbook.json", json.dumps(PLAYBOOK))
    machine.write(f"{PEER}/requirements.yml", json.dumps(REQUIREMENTS))
    package = re.search(r"^collections_package=(.+)$", (CHECKOUT / "scripts" / "setup").read_text(encoding="utf-8"), re.MULTILINE)
    assert package
    machine.must(
        f"cd {REGISTRY} && .venv/bin/python scripts/collections_from_pypi.py {package[1]} {PEER}/requirements.yml .ansible/collections"
    )
    machine.must("DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install locales")
    machine.must(f"test -d /etc/postgresql/{MAJOR}/main || pg_createcluster --start {MAJOR} main")


def _nothing_to_do(machine: Machine, command: str) -> float:
    """Seconds of a run that changes nothing."""
    result = machine.must(command)
    if changed := re.findall(r"^\S+\s+: ok=.*\bchanged=[1-9].*$", result.text, re.MULTILINE):
        raise MachineError(f"{command} changed something: {changed}")
    return result.seconds
