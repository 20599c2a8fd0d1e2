"""Print pip's settings, whether they come from files or from the environment, as one pip.conf.

For places that the environment does not reach: ansible-test's virtual environments, and the tests' machines.
"""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys


def settings() -> configparser.ConfigParser:
    """Everything that ``pip config list`` knows of; the environment comes last there, and wins as it does for pip."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = configparser.ConfigParser(interpolation=None)
    # A line is section.key='value', and :env:.key='value' for the environment.
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _equals, value = line.partition("=")
        section, _dot, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        if not found.has_section(section):
            found.add_section(section)
        found.set(section, key, ast.literal_eval(value))
    return found


if __name__ == "__main__":
    settings().write(sys.stdout)
