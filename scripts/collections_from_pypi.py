"""Install the collections of a requirements.yml from PyPI's package ``ansible``, which carries copies of them.

For machines that reach a Python package index, but no Galaxy server.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import yaml


class Unfit(Exception):
    """The package does not carry what the requirements ask for."""


def download(requirement: str, directory: Path) -> Path:
    """Fetch the wheel of a requirement such as ``ansible==12.3.0``, without what it depends on."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(directory), requirement],
        check=True,
    )
    return next(directory.glob("*.whl"))


def install(wheel: zipfile.ZipFile, name: str, version: str, collections: Path) -> None:
    """Unpack one collection, whole or not at all, if the wheel has exactly this version of it."""
    namespace, _dot, collection = name.partition(".")
    prefix = PurePosixPath("ansible_collections", namespace, collection)
    try:
        manifest = json.loads(wheel.read(f"{prefix}/MANIFEST.json"))
    except KeyError:
        raise Unfit(f"{name} is not in {wheel.filename}") from None
    carried = manifest["collection_info"]["version"]
    if carried != version:
        raise Unfit(f"{name} {version} is wanted, and {wheel.filename} carries {carried}")

    members = [member for member in wheel.namelist() if member.startswith(f"{prefix}/")]
    final = collections / prefix
    with tempfile.TemporaryDirectory(dir=collections) as unpacked:
        wheel.extractall(unpacked, members)
        # Mostly there is none to remove; what cannot be removed, the move below reports.
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        (Path(unpacked) / prefix).rename(final)


def main(requirement: str, requirements: Path, collections: Path) -> int:
    """Install every collection that the requirements name."""
    wanted = yaml.safe_load(requirements.read_text(encoding="utf-8"))["collections"]
    collections.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        try:
            with zipfile.ZipFile(download(requirement, Path(downloads))) as wheel:
                for collection in wanted:
                    install(wheel, collection["name"], collection["version"], collections)
        except subprocess.CalledProcessError as error:
            print(f"pip could not download {requirement}: it ended with {error.returncode}", file=sys.stderr)
            return 1
        except Unfit as error:
            print(f"{requirements}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
