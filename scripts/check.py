"""Run the project's checks, all of them or the named ones, and say at the end how each one went.

    make test, or .venv/bin/python scripts/check.py [NAME ...]        NAME is a check or a group of checks; --list names them

Every check runs, whatever became of the ones before it. One that cannot run here counts as failed, unless the environment
allows it by name: ALLOW_MISSING="machines,shellcheck". What a check printed is in tests/output/NAME.log.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.prefix, "bin")
WORK = CHECKOUT / ".ansible"
OUTPUT = CHECKOUT / "tests" / "output"
# What makes containers, for whoever is not root.
SUDO = WORK / "sudo"

NAMESPACE, NAME = "schema_registry", "postgresql"
COLLECTION = f"{NAMESPACE}.{NAME}"
SQLX = Path(os.environ.get("SQLX_CLI_DIR") or Path.home() / ".cache" / NAMESPACE)
ENGINE = "plugins/module_utils/_migrations"
# It keeps every core busy by itself. All others run two at a time, since most of them leave one idle, or wait for machines.
ALONE = ("integration",)
# What takes longest begins first, so that nobody waits for it at the end: checks, and Molecule's scenarios.
LONG_CHECKS = ("molecule", "machines", "versions", "extensions", "sanity", "ansible-lint")
LONG_SCENARIOS = ("recovery", "rollout", "rollout_failures")
PLAYBOOKS = (
    "playbooks/backup.yml",
    "playbooks/deploy.yml",
    "playbooks/maintenance.yml",
    "playbooks/rehearse.yml",
    "playbooks/report.yml",
    "playbooks/restore.yml",
    "playbooks/rollback.yml",
    "playbooks/stairway.yml",
    "playbooks/status.yml",
    "playbooks/update.yml",
)
# How the programs that checks run mark a failure, and how many lines of each kind are repeated at the end.
FAILURE = re.compile(r"\bFAILED\b(?! - RETRYING)|^\s*fatal: |^E  |^ERROR")
SHOWN = 20
SKIPPED = re.compile(r"^=+ .*\b(\d+ skipped)\b.* =+$", re.MULTILINE)
# How tests/suite/fetch.py ends then.
NO_SOURCE_PACKAGE = 3
# How long others may hold apt's locks; on a fresh cloud machine its own updates do, for minutes.
LOCK_SECONDS = 600


class Failed(Exception):
    """A check found something, or a command of its did, which ended with `status`."""

    def __init__(self, why: str, status: int = 1) -> None:
        super().__init__(why)
        self.status = status


class CouldNotRun(Exception):
    """A check lacks something on this machine."""


@dataclass(frozen=True)
class Need:
    """Something of the distribution's: there if the path (or command) is, and otherwise installed by packages."""

    what: str
    packages: tuple[str, ...]

    def is_met(self) -> bool:
        """Say whether it is on this machine."""
        if self.what.startswith("/"):
            return any(Path("/").glob(self.what[1:]))
        return shutil.which(self.what) is not None


POSTGRESQL = Need("/usr/lib/postgresql/*/bin/initdb", ("postgresql",))
PGTAP = Need("/usr/share/postgresql/*/extension/pgtap.control", ("pgtap",))
PSYCOPG = Need("/usr/lib/python3/dist-packages/psycopg2", ("python3-psycopg2",))
SHELLCHECK = Need("shellcheck", ("shellcheck",))
CONTAINERS = (
    # Named one by one, since recommended packages are not installed; runc is for machines where crun gives up.
    Need("podman", ("podman", "runc", "netavark", "aardvark-dns")),
    Need("/usr/sbin/iptables", ("iptables",)),
    Need("mmdebstrap", ("mmdebstrap",)),
    # Ubuntu does not have the keys of Debian.
    Need("/usr/share/keyrings/debian-archive-keyring.gpg", ("debian-archive-keyring",)),
    Need("gpg", ("gpg",)),
)


@dataclass(frozen=True)
class Check:
    """One check: a function that raises Failed or CouldNotRun, or is content."""

    name: str
    group: str
    needs: tuple[Need, ...]
    shown: bool
    run: Callable[[Shell], None]


CHECKS: list[Check] = []


def check(name: str, group: str, *needs: Need, shown: bool = False) -> Callable[[Callable[[Shell], None]], None]:
    """Enter a function into the list of checks; what a `shown` one prints is worth reading even when it passes."""

    def enter(run: Callable[[Shell], None]) -> None:
        CHECKS.append(Check(name, group, needs, shown, run))

    return enter


class Shell:
    """Runs a check's commands in the checkout, and keeps what they print."""

    def __init__(self, log: Path, aloud: bool) -> None:
        self.log_path = log
        self.log = log.open("w", encoding="utf-8")
        self.aloud = aloud
        self.environment = {
            # What somebody has told Molecule in this terminal is about something else.
            **{name: value for name, value in os.environ.items() if not name.startswith("MOLECULE_")},
            "PATH": f"{TOOLS}:{SUDO}:{os.environ.get('PATH', os.defpath)}",
            # Nothing of the checks' goes to the home directory.
            "ANSIBLE_HOME": str(WORK / "home"),
            # Ansible insists on UTF-8, and a fresh machine may lack the language that whoever logs in brings along.
            "LC_ALL": "C.UTF-8",
        }

    def say(self, text: str) -> None:
        """Write into the log, and to the terminal where somebody wants to see it."""
        self.log.write(text)
        self.log.flush()
        if self.aloud:
            sys.stdout.write(text)
            sys.stdout.flush()

    def __call__(self, *command: str | Path, cwd: Path = CHECKOUT, **environment: str) -> None:
        """Run a command; it must succeed."""
        words = [str(word) for word in command]
        self.say(f"$ {' '.join(words)}\n")
        process = self._start(words, cwd, environment)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                self.say(line)
        except KeyboardInterrupt:
            process.wait()
            raise
        if status := process.wait():
            raise Failed(f"{Path(words[0]).name} ended with {status}", status)

    def side_by_side(self, lanes: int, *commands: Sequence[str], **environment: str) -> None:
        """Run commands, so many at a time; all of them run, and all must succeed. Those that did not are told of last."""

        def ended(command: Sequence[str]) -> tuple[str, int, str]:
            started = time.monotonic()
            process = self._start(command, CHECKOUT, environment)
            printed, _nothing = process.communicate()
            line = " ".join(command)
            return line, process.returncode, f"{printed}--- {line}: {time.monotonic() - started:.0f} s\n"

        failed = []
        with ThreadPoolExecutor(lanes) as pool:
            for done in as_completed([pool.submit(ended, command) for command in commands]):
                line, status, printed = done.result()
                if status:
                    failed.append((line, status, printed))
                else:
                    self.say(f"$ {line}\n{printed}")
        for line, _status, printed in failed:
            self.say(f"$ {line}\n{printed}")
        if failed:
            raise Failed("; ".join(f"{line} ended with {status}" for line, status, _printed in failed))

    def _start(self, words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )


def sources(*patterns: str) -> list[str]:
    """The checkout's files, as git knows them: also those not yet committed, and none that it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise CouldNotRun(f"this is no git checkout: {listed.stderr.strip()}")
    return sorted(path for path in listed.stdout.split("\0") if path and (CHECKOUT / path).is_file())


# --- style, types, and what belongs together ---


@check("yamllint", "lint")
def _yamllint(sh: Shell) -> None:
    sh("yamllint", "--strict", *sources("*.yml", "*.yaml", ".yamllint", ".ansible-lint"))


@check("ansible-lint", "lint")
def _ansible_lint(sh: Shell) -> None:
    sh("ansible-lint", "--profile", "production", "--offline", "--nocolor")


@check("ruff", "lint")
def _ruff(sh: Shell) -> None:
    sh("ruff", "check", "--no-cache", "plugins", "scripts", "tests")


@check("mypy", "lint")
def _mypy(sh: Shell) -> None:
    sh("mypy", "--strict", "--cache-dir", WORK / "mypy", ENGINE, "scripts", "tests/machines", "tests/suite")


@check("shellcheck", "lint", SHELLCHECK)
def _shellcheck(sh: Shell) -> None:
    sh("shellcheck", *programs("sh", "bash"))


@check("migrations", "lint")
def _migrations(sh: Shell) -> None:
    """The registry's release, by the rules that a deploy begins with, and by Squawk."""
    role = f"name={COLLECTION}.migrations tasks_from=check"
    sh("ansible", "localhost", "--module-name", "ansible.builtin.include_role", "--args", role)


@check("schema-docs", "lint", POSTGRESQL)
def _schema_docs(sh: Shell) -> None:
    """The page about the schema says what is in the catalogue."""
    sh(sys.executable, "scripts/schema_docs.py", "--check")


@check("syntax", "lint")
def _syntax(sh: Shell) -> None:
    playbooks = ["deploy.yml", *(path for path in sources("playbooks/*.yml") if path.count("/") == 1)]
    if missing := {*PLAYBOOKS} - {*playbooks}:
        raise Failed(f"missing: {', '.join(sorted(missing))}")
    sh("ansible-playbook", "--syntax-check", *playbooks)


@check("tarball", "lint")
def _tarball(sh: Shell) -> None:
    """What is built installs elsewhere, and runs from there by its name."""
    with tempfile.TemporaryDirectory() as scratch:
        elsewhere = Path(scratch)
        collections = elsewhere / "collections"
        # What it depends on, as set up. The checkout itself must stay out of sight.
        (collections / "ansible_collections").mkdir(parents=True)
        for path in (WORK / "collections" / "ansible_collections").iterdir():
            if path.name != NAMESPACE:
                (collections / "ansible_collections" / path.name).symlink_to(path)
        (elsewhere / "ansible.cfg").touch()
        sh("ansible-galaxy", "collection", "build", "--output-path", elsewhere, copy_sources(elsewhere / "sources"))
        (tarball,) = elsewhere.glob("*.tar.gz")
        installed = {"ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_CONFIG": str(elsewhere / "ansible.cfg")}
        sh("ansible-galaxy", "collection", "install", "--offline", "-p", collections, tarball, cwd=elsewhere, **installed)
        for playbook in PLAYBOOKS:
            name = f"{COLLECTION}.{Path(playbook).stem}"
            sh("ansible-playbook", "--syntax-check", "-i", CHECKOUT / "inventories" / "local", name, cwd=elsewhere, **installed)


def programs(*interpreters: str) -> list[str]:
    """The files whose first line names one of these interpreters."""
    found = []
    for path in sources():
        with (CHECKOUT / path).open("rb") as file:
            first = file.readline().decode(errors="replace").split()
        if first and first[0].startswith("#!") and Path(first[-1].lstrip("#!")).name in interpreters:
            found.append(path)
    return found


def copy_sources(target: Path) -> Path:
    """A copy of the checkout's files, without its history and its set-up."""
    for path in sources():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / path, target / path, follow_symlinks=False)
    return target


# --- documentation ---


@check("docs", "docs-lint")
def _docs(sh: Shell) -> None:
    # It leaves a log in the home directory.
    (WORK / "home").mkdir(exist_ok=True)
    sh("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "all", ".", HOME=str(WORK / "home"))


@check("changelog", "docs-lint")
def _changelog(sh: Shell) -> None:
    if not sources("changelogs/fragments/*.yml") and not sources("changelogs/changelog.yaml"):
        raise Failed("neither a fragment nor a release")
    sh("antsibull-changelog", "lint")


# --- ansible-test ---


@check("sanity", "sanity")
def _sanity(sh: Shell) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        collection = copy_sources(Path(scratch, "ansible_collections", NAMESPACE, NAME))
        sh(sys.executable, "scripts/sanity.py", collection, WORK / "sanity-home")


# --- tests ---


@check("unit", "unit", POSTGRESQL, shown=True)
def _unit(sh: Shell) -> None:
    sh("pytest", "tests/unit")


@check("integration", "integration", POSTGRESQL, PSYCOPG, PGTAP, shown=True)
def _integration(sh: Shell) -> None:
    sh("pytest", "--numprocesses=auto", "--dist=loadfile", "--durations=20", "tests/integration")


@check("interop", "interop", POSTGRESQL, shown=True)
def _interop(sh: Shell) -> None:
    if shutil.which("cargo") is None and not [*SQLX.glob("sqlx-*")]:
        raise CouldNotRun("there is no cargo to build sqlx with, and no sqlx built before")
    sh("pytest", "tests/interop")


@check("suite", "unit", POSTGRESQL)
def _suite(sh: Shell) -> None:
    """The splitter against PostgreSQL's parser, on the SQL of PostgreSQL's own tests."""
    try:
        sh(sys.executable, "tests/suite/fetch.py")
    except Failed as failure:
        if failure.status != NO_SOURCE_PACKAGE:
            raise
        raise CouldNotRun("the source package of PostgreSQL cannot be had here") from failure
    sh("pytest", "tests/suite")


@check("faults", "faults", POSTGRESQL, PSYCOPG, shown=True)
def _faults(sh: Shell) -> None:
    sh("pytest", "tests/faults")


@check("machines", "machines", *CONTAINERS, shown=True)
def _machines(sh: Shell) -> None:
    sh(sys.executable, "tests/machines/run.py")


@check("versions", "machines", *CONTAINERS, shown=True)
def _versions(sh: Shell) -> None:
    sh(sys.executable, "tests/machines/versions.py")


@check("molecule", "molecule", *CONTAINERS, Need("ssh-keygen", ("openssh-client",)), shown=True)
def _molecule(sh: Shell) -> None:
    """Every scenario, or those that SCENARIOS names."""
    scenarios = os.environ.get("SCENARIOS", "").replace(",", " ").split() or sorted(
        path.parent.name for path in CHECKOUT.glob("molecule/*/molecule.yml")
    )
    scenarios.sort(key=lambda name: name not in LONG_SCENARIOS)
    commands = [("molecule", "test", "--scenario-name", name) for name in scenarios]
    # Molecule tells collections to keep scenarios elsewhere, unless it is told where they are.
    sh.side_by_side(min(os.cpu_count() or 1, 4), *commands, MOLECULE_GLOB="molecule/*/molecule.yml", NO_COLOR="1", COLUMNS="160")
    if "DEPRECATION WARNING" in sh.log_path.read_text(encoding="utf-8"):
        raise Failed("something is deprecated; the log says what")


@check("extensions", "machines", *CONTAINERS, shown=True)
def _extensions(sh: Shell) -> None:
    sh(sys.executable, "tests/machines/extensions.py")


# --- the run ---


@dataclass(frozen=True)
class Outcome:
    """How a check went."""

    check: Check
    verdict: str  # ok, failed, could not run, or allowed: could not run, and nobody minds
    why: str = ""
    seconds: float = 0.0

    @property
    def is_bad(self) -> bool:
        """Say whether it must be seen to."""
        return self.verdict in ("failed", "could not run")


def as_root(*command: str) -> str | None:
    """Run a command as root, without a question; what went wrong is the answer, if anything did."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    # In the words that update_lists looks for, also through a sudo that keeps nothing of the environment.
    plainly = ["env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]
    try:
        ended = subprocess.run([*sudo, *plainly, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return None if ended.returncode == 0 else ended.stderr.strip() or f"ended with {ended.returncode}"


def make_containers_as_root() -> None:
    """Have Podman be root's for everybody: only root's containers have addresses that others reach."""
    if os.geteuid() == 0:
        return
    SUDO.mkdir(parents=True, exist_ok=True)
    for name in ("podman", "mmdebstrap"):
        program = SUDO / name
        settings = '${CONTAINERS_CONF:+"CONTAINERS_CONF=$CONTAINERS_CONF"}'
        program.write_text(f'#!/bin/sh\nexec sudo -n env {settings} {name} "$@"\n', encoding="utf-8")
        program.chmod(0o755)


def update_lists() -> str | None:
    """Have apt know what there is; what went wrong is the answer. For the lock on the lists apt itself does not wait."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        problem = as_root("apt-get", "-qq", "update")
        if "Could not get lock" not in (problem or "") or time.monotonic() > deadline:
            return problem
        time.sleep(5)


def clusters() -> set[tuple[str, str]]:
    """The PostgreSQL clusters of this machine that Debian's tools know: major version and name."""
    if shutil.which("pg_lsclusters") is None:
        return set()
    listed = subprocess.run(["pg_lsclusters", "--no-header"], check=True, capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {(row[0], row[1]) for row in rows}


def install(needs: Iterable[Need]) -> None:
    """Install what is missing; what still is afterwards, each check finds for itself."""
    packages = sorted({package for need in needs if not need.is_met() for package in need.packages})
    if not packages:
        return
    print(f"installing {' '.join(packages)}", flush=True)
    before = clusters()
    patience = ("-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}")
    problem = update_lists() or as_root("apt-get", *patience, "-qq", "-y", "install", "--no-install-recommends", *packages)
    if problem:
        print(f"  {problem.splitlines()[-1]}", flush=True)
    # Debian makes a cluster with the first server package. Nobody asked for it.
    for major, name in clusters() - before:
        as_root("pg_dropcluster", "--stop", major, name)


def run(each: Check, aloud: bool, allowed: set[str]) -> Outcome:
    """Run one check to its end, whatever that is. What is not said aloud is told afterwards, where it is worth reading."""
    print(f"--- {each.name}", flush=True)
    started = time.monotonic()
    sh = Shell(OUTPUT / f"{each.name}.log", aloud)
    verdict, why = "ok", ""
    try:
        if missing := [need.what for need in each.needs if not need.is_met()]:
            raise CouldNotRun(f"there is no {', no '.join(missing)}")
        if {*CONTAINERS} & {*each.needs} and (problem := as_root("true")):
            raise CouldNotRun(f"its hosts are containers that root makes: {problem}")
        each.run(sh)
    except Failed as failure:
        verdict, why = "failed", str(failure)
    except CouldNotRun as lack:
        verdict, why = ("allowed" if each.name in allowed else "could not run"), str(lack)
    except Exception as error:
        # A bug in a check is a failure of that check, and of no other.
        verdict, why = "failed", f"{type(error).__name__}: {error}"
    said = (OUTPUT / f"{each.name}.log").read_text(encoding="utf-8")
    if verdict == "ok":
        # Pytest counts what a test itself found it could not do here.
        why = ", ".join(SKIPPED.findall(said))
    outcome = Outcome(each, verdict, why, time.monotonic() - started)
    told = said if not aloud and (each.shown or verdict == "failed") else ""
    print(f"{told}--- {each.name}: {verdict}{why and f' ({why})'}, {outcome.seconds:.1f} s", flush=True)
    return outcome


def run_all(chosen: Sequence[Check], allowed: set[str]) -> list[Outcome]:
    """Run checks, two at a time where they may, the longest first."""
    ranks = {name: rank for rank, name in enumerate(LONG_CHECKS)}
    beside = sorted((each for each in chosen if each.name not in ALONE), key=lambda each: ranks.get(each.name, len(ranks)))
    outcomes = [run(each, True, allowed) for each in chosen if each.name in ALONE]
    with ThreadPoolExecutor(2) as pool:
        # Somebody who asks for one thing wants to watch it.
        outcomes += pool.map(lambda each: run(each, len(chosen) == 1, allowed), beside)
    return outcomes


def report(outcomes: list[Outcome]) -> str:
    """Print a table of how the checks went. The closing line is the answer too."""
    # Whoever keeps only the end of a long output finds in it what went wrong.
    for outcome in outcomes:
        if outcome.verdict == "failed" and len(outcomes) > 1:
            lines = (OUTPUT / f"{outcome.check.name}.log").read_text(encoding="utf-8").splitlines()
            told = [each for number, line in enumerate(lines) if FAILURE.search(line) for each in lines[number : number + 3]]
            print(f"\n--- {outcome.check.name} again: what tells of failures, and the last lines")
            print(*told[-SHOWN:], "[...]", *lines[-SHOWN:], sep="\n")
    width = max(len(outcome.check.name) for outcome in outcomes)
    print()
    for outcome in outcomes:
        print(f"{outcome.check.name:<{width}}  {outcome.seconds:6.1f} s  {outcome.verdict:<13}  {outcome.why}".rstrip())
    failed = sum(outcome.is_bad for outcome in outcomes)
    skipped = sum(outcome.verdict == "allowed" for outcome in outcomes)
    closing = f"{len(outcomes) - failed - skipped} passed, {failed} failed"
    if skipped:
        closing += f", {skipped} skipped"
    print(f"\n{closing}", flush=True)
    return closing


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a check, or a group of them; all, if none is named")
    parser.add_argument("--list", action="store_true", help="name the checks, and run none")
    parser.add_argument("--install", action="store_true", help="install what the checks need, and run none")
    arguments = parser.parse_args()
    if arguments.list:
        for each in CHECKS:
            print(f"{each.group:<12} {each.name}")
        return 0
    if unknown := {*arguments.names} - {each.name for each in CHECKS} - {each.group for each in CHECKS}:
        parser.error(f"no such check: {', '.join(sorted(unknown))} (--list names them)")

    chosen = [each for each in CHECKS if not arguments.names or {each.name, each.group} & {*arguments.names}]
    allowed = {*os.environ.get("ALLOW_MISSING", "").replace(",", " ").split()}
    if unknown := allowed - {each.name for each in CHECKS}:
        parser.error(f"ALLOW_MISSING names no check: {', '.join(sorted(unknown))}")

    # Where the programs of administrators are, for those whose login does not say so.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    OUTPUT.mkdir(parents=True, exist_ok=True)
    install(need for each in chosen for need in each.needs if each.name not in allowed)
    if arguments.install:
        return 0
    make_containers_as_root()
    outcomes = run_all(chosen, allowed)
    closing = report(outcomes)
    (OUTPUT / "closing").write_text(f"{closing}\n", encoding="utf-8")
    return int(any(outcome.is_bad for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
