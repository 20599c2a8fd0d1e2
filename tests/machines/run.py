"""From a bare machine to a migrated registry and back, as a person would type it, on fresh Debian machines.

The default is one machine as root, with the whole story, and one as a user with sudo; --swap makes it the other way round.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from machine import CHECKOUT, SUITES, Machine, MachineError, Result, configure_podman, output

PORTS = {"staging": 5433, "production": 5434}
FIRST, SECOND = "20240101000001", "20240101000002"

ALWAYS = {"btree_gin", "pg_trgm", "uuid-ossp"}
OPTIONAL = {"bookworm": {"pg_cron", "pg_stat_statements"}, "trixie": {"pg_cron", "pg_stat_statements", "timescaledb"}}

# A release with one file more.
PROBE = "29990101000001_acceptance_probe"
PROBE_FILES = {
    f"sql/migrations/{PROBE}.up.sql": "create table public.acceptance_probe (id bigint primary key);\n",
    f"sql/migrations/{PROBE}.down.sql": "drop table public.acceptance_probe;\n",
    f"sql/verify/{PROBE}.sql": "select id from public.acceptance_probe where false;\n",
}

# What a check that changes nothing leaves as it is.
SNAPSHOT = (
    "dpkg-query --show --showformat='${Package} ${Version} ${db:Status-Status}\\n';"
    " find /etc /usr/local /opt /var/lib/postgresql /var/log/postgresql"
    " -printf '%p %y %m %u %g %s %T@ %l\\n' 2>/dev/null | sort"
)


class Unexpected(AssertionError):
    """A machine is not as it should be."""


def expect(truth: bool, otherwise: str) -> None:
    """Insist on something."""
    if not truth:
        raise Unexpected(otherwise)


def recap(result: Result) -> dict[str, dict[str, int]]:
    """The numbers of Ansible's recap, by host; every deployed host must be in it, and none may have failed."""
    hosts = {
        host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", numbers)}
        for host, numbers in re.findall(r"^(\S+)\s+: (ok=.*)$", result.text, re.MULTILINE)
    }
    expect({*PORTS} <= {*hosts}, f"the recap lacks a host: {[*hosts]}\n{result.text}")
    bad = [host for host, numbers in hosts.items() if numbers["failed"] or numbers["unreachable"]]
    expect(not bad and result.status == 0, f"{result.command} ended with {result.status}:\n{result.text}")
    return hosts


@dataclass
class Story:
    """What one person does on one machine, step by step, and how it went."""

    machine: Machine
    user: str
    steps: dict[str, bool] = field(default_factory=dict)
    seen: dict[str, dict[str, str]] = field(default_factory=dict)
    """The fingerprints of both databases, by version."""

    @property
    def checkout(self) -> str:
        """Where the checkout is on the machine."""
        return "/root/registry" if self.user == "root" else f"/home/{self.user}/registry"

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """One step; it may leave remarks. What goes wrong in it is told, and the next step still comes."""
        remarks: list[str] = []
        self.steps[title] = False
        try:
            yield remarks
        except (Unexpected, MachineError) as error:
            self._tell("FAILED", title, remarks)
            print(re.sub("^", "    ", str(error).rstrip(), flags=re.MULTILINE), flush=True)
        else:
            self.steps[title] = True
            self._tell("ok", title, remarks)

    def _tell(self, verdict: str, title: str, remarks: list[str]) -> None:
        remark = f" ({', '.join(remarks)})" if remarks else ""
        print(f"{self.machine.suite} as {self.user}: {title}: {verdict}{remark}", flush=True)

    def types(self, command: str) -> Result:
        """What the person types in the checkout."""
        return self.machine.run(f"cd {self.checkout} && {command}", self.user)

    def plays(self, playbook: str, arguments: str = "") -> Result:
        """The person runs a playbook with the checkout's own Ansible."""
        return self.types(f". .venv/bin/activate && ansible-playbook {playbook} {arguments}")

    def asks(self, query: str) -> dict[str, str]:
        """The answers of both databases to one query."""
        psql = "psql --no-psqlrc --tuples-only --no-align --dbname=schema_registry"
        return {host: self.machine.must(f'{psql} --port={port} --command="{query}"', "postgres").text.strip() for host, port in PORTS.items()}

    def stands_at(self, *versions: str) -> None:
        """Both ledgers hold exactly these versions, each of them a success."""
        wanted = "\n".join(f"{version}|t" for version in versions)
        found = self.asks("select version, success from public._sqlx_migrations order by version")
        expect({*found.values()} == {wanted}, f"the ledgers hold {found}, not {wanted!r}")

    def fingerprints(self) -> dict[str, str]:
        """What status says the databases' fingerprints are."""
        shown = self.plays("playbooks/status.yml")
        recap(shown)
        # A host's answer goes on for as long as its lines are indented.
        answers = re.findall(r"^ok: \[(\w+)\] =>.*\n((?:[ ]+.*\n)+)", shown.text, re.MULTILINE)
        found = {host: words[1] for host, answer in answers if (words := re.search(r"^ *fingerprint +([0-9a-f]{16,})$", answer, re.MULTILINE))}
        expect({*found} == {*PORTS}, f"status does not show both fingerprints:\n{shown.text}")
        expect(len({*found.values()}) == 1, f"staging and production differ: {found}")
        return found

    def extensions(self) -> set[str]:
        """The extensions of the registry's databases, which must be the same in both."""
        found = self.asks("select extname from pg_extension where extname <> 'plpgsql' order by 1")
        expect(len({*found.values()}) == 1, f"staging and production differ: {found}")
        return {*found["staging"].split()}

    def brings_along(self, files: dict[str, str]) -> None:
        """Files are added to the checkout."""
        for path, text in files.items():
            self.machine.write(f"{self.checkout}/{path}", text)

    def leaves_out(self, files: dict[str, str]) -> None:
        """Files are taken out of the checkout."""
        self.machine.must("rm -f -- " + " ".join(f"{self.checkout}/{path}" for path in files))

    # --- the story ---

    def tell(self, whole: bool) -> None:
        """Everything, in the order in which it happens; not the way back, unless it is the whole story."""
        self.looks_before()
        if not self.deploys():
            return
        self.looks_again()
        self.looks_at_a_new_migration()
        with self.step("status shows the fingerprints"):
            self.compares(SECOND)
        if whole:
            self.goes_back_and_forth()
        self.switches_extensions_on()

    def compares(self, version: str) -> None:
        """The fingerprints are those of the last time at this version."""
        found = self.fingerprints()
        expect(self.seen.setdefault(version, found) == found, f"at {version} it was {self.seen[version]}, and now is {found}")

    def looks_before(self) -> None:
        """The dry run on the bare machine."""
        with self.step("make setup") as remarks:
            done = self.types("make setup")
            self.setup_seconds = done.seconds
            remarks.append(f"{done.seconds:.0f} s")
            expect(done.status == 0, done.text)
        with self.step("--check --diff says what would happen, and changes nothing") as remarks:
            before = self.machine.must(SNAPSHOT).text
            done = self.plays("deploy.yml", "--check --diff")
            remarks.append(f"{done.seconds:.0f} s")
            hosts = recap(done)
            expect(all(hosts[host]["changed"] > 0 for host in PORTS), f"nothing would happen:\n{done.text}")
            for word in ("postgresql", FIRST, SECOND):
                expect(word in done.text, f"it does not speak of {word}:\n{done.text}")
            after = self.machine.must(SNAPSHOT).text
            changes = {*before.splitlines()} ^ {*after.splitlines()}
            expect(not changes, "the machine has changed:\n" + "\n".join(sorted(changes)))

    def deploys(self) -> bool:
        """The first real run."""
        title = "make deploy"
        with self.step(title) as remarks:
            done = self.types("make deploy")
            remarks.append(f"{done.seconds:.0f} s, {self.setup_seconds + done.seconds:.0f} s with the set-up")
            recap(done)
            self.stands_at(FIRST, SECOND)
            expect(self.extensions() == ALWAYS, f"the extensions are {self.extensions()}")
        return self.steps[title]

    def looks_again(self) -> None:
        """Runs that have nothing to do."""
        for command in ("make deploy", "make deploy ARGS='--check --diff'"):
            with self.step(f"{command} again changes nothing") as remarks:
                done = self.types(command)
                remarks.append(f"{done.seconds:.1f} s")
                changed = {host: numbers["changed"] for host, numbers in recap(done).items()}
                expect(not any(changed.values()), f"changed: {changed}\n{done.text}")

    def looks_at_a_new_migration(self) -> None:
        """A dry run of a release with one file more."""
        with self.step("--check --diff shows a new migration's SQL, and does not run it"):
            self.brings_along(PROBE_FILES)
            try:
                done = self.plays("deploy.yml", "--check --diff")
            finally:
                self.leaves_out(PROBE_FILES)
            recap(done)
            (sql,) = (text.strip() for path, text in PROBE_FILES.items() if path.endswith(".up.sql"))
            expect(sql in done.text, f"its SQL is not shown:\n{done.text}")
            self.stands_at(FIRST, SECOND)
            there = self.asks("select to_regclass('public.acceptance_probe') is not null")
            expect({*there.values()} == {"f"}, f"the table is there: {there}")

    def goes_back_and_forth(self) -> None:
        """Down to nothing and up again, with the same fingerprint at each version."""

        def rolls_back(version: str, *left: str) -> None:
            # A job may have run meanwhile; what it wrote down about that goes with its table.
            rollback = ("playbooks/rollback.yml", f"-e migrations_version={version} -e migrations_lose_data=true")
            hosts = recap(self.plays(*rollback))
            expect(all(hosts[host]["changed"] > 0 for host in PORTS), f"it changed nothing: {hosts}")
            self.stands_at(*left)
            again = self.plays(*rollback)
            changed = {host: numbers["changed"] for host, numbers in recap(again).items()}
            expect(not any(changed.values()), f"repeated, it changed: {changed}\n{again.text}")

        with self.step(f"rollback to {FIRST}, twice"):
            rolls_back(FIRST, FIRST)
            self.compares(FIRST)
        with self.step("rollback to 0, twice"):
            rolls_back("0")
            self.compares("0")
        with self.step(f"up to {FIRST}: the fingerprint of the way down"):
            recap(self.types(f"make deploy ARGS='-e migrations_version={FIRST}'"))
            self.stands_at(FIRST)
            self.compares(FIRST)
        with self.step("make deploy: the fingerprint of the first time"):
            recap(self.types("make deploy"))
            self.stands_at(FIRST, SECOND)
            self.compares(SECOND)

    def switches_extensions_on(self) -> None:
        """The optional extensions, on a host that is long converged."""
        optional = OPTIONAL[self.machine.suite]
        variables = ", ".join(f'\\"extensions_{name}\\": true' for name in sorted(optional))
        deploy = f"""make deploy ARGS="-e '{{{variables}}}'" """.strip()
        with self.step(f"{', '.join(sorted(optional))} switched on late"):
            recap(self.types(deploy))
            expect(self.extensions() == ALWAYS | optional, f"the extensions are {self.extensions()}")
            again = self.types(deploy)
            changed = {host: numbers["changed"] for host, numbers in recap(again).items()}
            expect(not any(changed.values()), f"repeated, it changed: {changed}\n{again.text}")
            pending = self.asks("select count(*) from pg_settings where pending_restart")
            expect({*pending.values()} == {"0"}, f"settings wait for a restart: {pending}")
        if "timescaledb" not in optional:
            with self.step("timescaledb, which has no package here, is refused in a word"):
                refused = self.types("""make deploy ARGS="-e '{\\"extensions_timescaledb\\": true}'" """.strip())
                expect(refused.status != 0, "it is not refused")
                for word in ("timescaledb", "extensions_timescaledb", "12"):
                    expect(word in refused.text, f"{word} is not named:\n{refused.text}")
                expect(re.search(r"changed=[1-9]", refused.text) is None, f"something had changed before:\n{refused.text}")


def clone(folder: Path) -> Path:
    """A clean clone of the checkout: what is committed, and no more."""
    target = folder / "registry"
    output("git", "clone", "--quiet", "--no-hardlinks", str(CHECKOUT), str(target))
    if output("git", "-C", str(CHECKOUT), "status", "--porcelain"):
        print("note: what is not committed is not on the machines", flush=True)
    return target


def main() -> int:
    """Tell the stories that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this machine (may be given again)")
    parser.add_argument("--swap", action="store_true", help="root and the user with sudo change machines")
    parser.add_argument("--keep", action="store_true", help="leave the machines running, to look at them")
    parser.add_argument("--rebuild", action="store_true", help="build the images anew")
    arguments = parser.parse_args()
    users = ("deployer", "root") if arguments.swap else ("root", "deployer")

    stories: list[Story] = []
    with tempfile.TemporaryDirectory() as scratch:
        configure_podman(Path(scratch))
        checkout = clone(Path(scratch))
        for suite, user in zip(SUITES, users):
            if arguments.suite and suite not in arguments.suite:
                continue
            with Machine(suite, arguments.rebuild, arguments.keep) as machine:
                story = Story(machine, user)
                if user != "root":
                    machine.add_user(user)
                machine.receive(checkout, story.checkout, user)
                story.tell(whole=not stories)
                stories.append(story)

    if len(stories) > 1:
        with stories[-1].step("the same fingerprints on every machine, whatever its PostgreSQL's version"):
            found = {story.machine.suite: story.seen.get(SECOND, {}) for story in stories}
            expect(len({digest for each in found.values() for digest in each.values()}) == 1, str(found))
    steps = [passed for story in stories for passed in story.steps.values()]
    print(f"machines: {sum(steps)} steps passed, {len(steps) - sum(steps)} failed", flush=True)
    return int(not all(steps))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (MachineError, subprocess.SubprocessError) as error:
        sys.exit(f"machines: {error}")
