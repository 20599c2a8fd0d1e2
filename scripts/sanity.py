"""Run all of ``ansible-test sanity`` on a collection: sanity.py COLLECTION HOME

COLLECTION must really be in a folder ansible_collections/NAMESPACE/NAME: ansible-test follows no links. HOME keeps
ansible-test's virtual environments from one run to the next, out of the user's own home.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.constants import SUPPORTED_PYTHON_VERSIONS
from ansible_test._internal.python_requirements import get_venv_packages

# ansible-test bootstraps pip by a script from a host of its own. This one takes the same pip from where all else comes from.
# (ensurepip runs as a program of its own: as a function it turns pip's configuration off for good.)
BOOTSTRAP_PIP = """\
import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "ensurepip"])
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip=={version}"])
"""


def prepare(home: Path) -> None:
    """Give ansible-test, which drops the environment, what it needs to install packages."""
    settings = home / ".config" / "pip" / "pip.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    with settings.open("w", encoding="utf-8") as file:
        subprocess.run([sys.executable, Path(__file__).with_name("pip_settings.py")], check=True, stdout=file)

    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for python in SUPPORTED_PYTHON_VERSIONS:
        version = get_venv_packages(SimpleNamespace(version=python))["pip"]
        script = cache / f"get_pip_{version.replace('.', '_')}.py"
        script.write_text(BOOTSTRAP_PIP.format(version=version), encoding="utf-8")


def interpreters() -> Iterator[Path]:
    """The Python interpreters of this machine that ansible-test has tests for, pyenv's too."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in SUPPORTED_PYTHON_VERSIONS:
        name = f"python{version}"
        on_path = shutil.which(name)
        for candidate in [*([on_path] if on_path else []), *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/{name}")))]:
            # A shim of pyenv's is there, and does not run, where its version is not the chosen one.
            answer = subprocess.run([candidate, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                yield Path(answer.stdout.strip())
                break


def main(collection: Path, home: Path) -> int:
    """Run every test, on every Python that is here."""
    prepare(home)
    found = list(interpreters())
    print("Python here:", *found, flush=True)
    folders = [Path(sys.executable).parent, *(path.parent for path in found), "/usr/bin", "/bin"]
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": os.pathsep.join(dict.fromkeys(map(str, folders))),
    }
    return subprocess.run(["ansible-test", "sanity", "--color", "no"], cwd=collection, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
