"""What a role says about its variables twice, in meta/argument_specs.yml and in defaults/main.yml, it says alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).parents[2] / "roles").iterdir() if path.is_dir())
EXPECTED = {"server", "extensions", "database", "migrations", "maintenance", "backup"}

TYPES = {"str": str, "path": str, "bool": bool, "int": int, "float": (int, float), "list": list, "dict": dict}


def is_template(value: object) -> bool:
    """Say whether Ansible still has to work the value out."""
    return isinstance(value, str) and "{{" in value


def read(path: Path) -> Dict[str, Any]:
    """A YAML file that holds a dictionary; an empty one is an empty dictionary."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def entry_points() -> List[Tuple[Path, str]]:
    """Every role with every entry point of its argument specification (the tests below see to it that each has one)."""
    specifications = [(role, role / "meta" / "argument_specs.yml") for role in ROLES]
    return [(role, name) for role, path in specifications if path.exists() for name in read(path)["argument_specs"]]


def options(role: Path, entry_point: str) -> Dict[str, Dict[str, Any]]:
    """The options of one entry point."""
    return read(role / "meta" / "argument_specs.yml")["argument_specs"][entry_point].get("options", {})


def test_the_promised_roles_are_there() -> None:
    """The tests below are about every role there is."""
    assert {role.name for role in ROLES} >= EXPECTED


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_specification_name_the_same_variables(role: Path) -> None:
    """A default that is not specified is never checked; a specified variable without a default is undefined."""
    specified = options(role, "main")
    required = {name for name, option in specified.items() if option.get("required")}
    assert set(read(role / "defaults" / "main.yml")) == set(specified) - required


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_variables_carry_the_name_of_their_role(role: Path) -> None:
    """Roles share one namespace."""
    prefixes = (f"{role.name}_", f"__{role.name}_")
    variables = set(read(role / "defaults" / "main.yml"))
    for path in (role / "vars").glob("*.yml"):
        variables |= set(read(path))
    assert [name for name in variables if not name.startswith(prefixes)] == []


@pytest.mark.parametrize(("role", "entry_point"), entry_points(), ids=lambda part: getattr(part, "name", part))
def test_specified_defaults_are_the_defaults_by_value(role: Path, entry_point: str) -> None:
    """The specification's defaults are documentation, and documentation is true.

    It may be silent only about a default that is still a template and becomes anything but a string.
    """
    defaults = read(role / "defaults" / "main.yml")
    for name, option in options(role, entry_point).items():
        if name not in defaults:
            assert option.get("required"), f"{name} has no default"
            continue
        if is_template(defaults[name]) and option["type"] not in ("str", "path"):
            assert option.get("default", defaults[name]) == defaults[name], name
        else:
            assert "default" in option, f"{name} has a default that the specification does not state"
            assert option["default"] == defaults[name], name


@pytest.mark.parametrize(("role", "entry_point"), entry_points(), ids=lambda part: getattr(part, "name", part))
def test_defaults_are_of_the_type_that_is_specified(role: Path, entry_point: str) -> None:
    """Ansible checks a role's arguments and converts none of them: a quoted number stays a string."""
    for name, option in options(role, entry_point).items():
        if "default" in option and not is_template(option["default"]):
            assert isinstance(option["default"], TYPES[option["type"]]), name
            assert option["type"] != "int" or not isinstance(option["default"], bool), name
        assert option["type"] != "list" or "elements" in option, f"{name} does not say what it is a list of"
        assert option.get("description"), f"{name} is not described"


@pytest.mark.parametrize(("role", "entry_point"), entry_points(), ids=lambda part: getattr(part, "name", part))
def test_entry_points_exist(role: Path, entry_point: str) -> None:
    """Each entry point has its tasks."""
    assert (role / "tasks" / f"{entry_point}.yml").is_file()
