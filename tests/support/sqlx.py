"""The real sqlx: its command line in several versions, and a program that uses its library."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

import pytest

from .migrations import Release
from .postgres import Database

INTEROP = Path(__file__).parents[1] / "interop"
CACHE = Path(os.environ.get("SQLX_CLI_DIR") or Path.home() / ".cache" / "schema_registry")
APP = CACHE / "app" / "debug" / "app"

# The registry's version and the newest; SQLX_VERSIONS="0.6.3 0.7.4 0.8.6 0.9.0" for more.
VERSIONS = (os.environ.get("SQLX_VERSIONS") or "0.8.6 0.9.0").split()


class SqlxError(Exception):
    """sqlx ended with an error; the message is what it printed."""


def since(version: str) -> List[str]:
    """The versions under test that are not older than one."""
    return [each for each in VERSIONS if Cli(each).number >= Cli(version).number]


def build() -> None:
    """Have the programs built, unless they are there."""
    if shutil.which("cargo"):
        subprocess.run([INTEROP / "build", *VERSIONS], check=True)
    elif missing := [path for path in (APP, *(Cli(version).program for version in VERSIONS)) if not path.exists()]:
        # If all of them were skipped, the check would pass without a test.
        pytest.fail(f"there is no cargo to build {missing[0]} with")


def run(*command: object, **environment: str) -> str:
    ended = subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90,
        check=False,
    )
    if ended.returncode:
        raise SqlxError(ended.stdout)
    return ended.stdout


@dataclass(frozen=True)
class Cli:
    """sqlx-cli of one version."""

    version: str

    @property
    def program(self) -> Path:
        return CACHE / f"sqlx-{self.version}" / "bin" / "sqlx"

    @property
    def number(self) -> List[int]:
        return [int(part) for part in self.version.split(".")]

    def migrate(self, command: str, release: Release, *options: str) -> str:
        return run(self.program, "migrate", command, "--source", release.migrations, *options, DATABASE_URL=release.database.url)

    def states(self, release: Release) -> Dict[int, str]:
        """Each version's state, as `sqlx migrate info` words it."""
        lines = [line for line in self.migrate("info", release).splitlines() if "/" in line.split(" ")[0]]
        words = [line.split("/", 1) for line in lines]
        return {int(version): "different" if "different" in rest else rest.split(" ")[0] for version, rest in words}


def app(command: str, *arguments: object, database: Database) -> str:
    """Run the program against a database."""
    return run(APP, command, *arguments, database.url)
