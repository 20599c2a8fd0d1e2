"""Fetch the SQL of PostgreSQL's own tests, from the source package of an installed server, once; prints where it is.

The package comes over this machine's own apt sources, with lists of its own: nothing of the machine's is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.postgres import installed_majors

# What main answers where there is nothing to fetch from.
NOT_HERE = 3
CACHE = Path(os.environ.get("SQLX_CLI_DIR") or Path.home() / ".cache" / "schema_registry")


class CannotFetch(Exception):
    """No source package is in reach; the message says why."""


def output(*command: str, cwd: Path | None = None) -> str:
    """Run a command, which must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotFetch(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def sources() -> list[str]:
    """This machine's sources.list, for source packages."""
    listed = output("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    return sorted({f"deb-src {line}" for line in listed.splitlines()})


def fetch(major: int) -> Path:
    """The directory with the SQL files of a major version."""
    target = CACHE / f"postgresql-{major}-suite"
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        work = Path(scratch)
        for folder in ("lists/partial", "cache/archives/partial", "sql"):
            (work / folder).mkdir(parents=True)
        (work / "sources.list").write_text("\n".join([*sources(), ""]), encoding="utf-8")
        settings = [
            *("-o", f"Dir::Etc::sourcelist={work}/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={work}/lists"),
            *("-o", f"Dir::Cache={work}/cache", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"),
        ]
        output("apt-get", *settings, "--quiet", "update")
        shown = output("apt-cache", *settings, "showsrc", f"postgresql-{major}")
        # A mirror may not have the newest.
        versions = sorted(set(re.findall(r"^Version: (\S+)$", shown, re.MULTILINE)), reverse=True)
        problems = []
        for version in versions:
            try:
                output("apt-get", *settings, "--quiet", "--download-only", "source", f"postgresql-{major}={version}", cwd=work)
                break
            except CannotFetch as problem:
                problems.append(str(problem))
        else:
            raise CannotFetch("; ".join(problems) or f"no source package postgresql-{major} is known here")
        (archive,) = work.glob("*.orig.tar.*")
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if re.search(r"/sql/[^/]+\.sql$", member.name) else None
                if content is not None:
                    path = work / "sql" / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
        (work / "sql").rename(target)
    return target


def main() -> int:
    """Fetch it, for the newest server that is installed."""
    try:
        print(fetch(max(installed_majors())))
    except CannotFetch as problem:
        print(f"the source package of PostgreSQL cannot be had here: {problem}")
        return NOT_HERE
    return 0


if __name__ == "__main__":
    sys.exit(main())
