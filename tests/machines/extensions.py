"""The tests of the registry's SQL, on fresh Debian machines: with every optional extension, and on Debian 13's PostgreSQL.

The development machine has neither pg_cron nor timescaledb, and one PostgreSQL only. Debian 12 brings PostgreSQL 15 with pg_cron 1.4, and Debian 13
PostgreSQL 17 with pg_cron 1.6 and timescaledb.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import CHECKOUT, Machine, MachineError, configure_podman, output

PACKAGES = {
    "bookworm": ("postgresql-15", "postgresql-15-cron"),
    "trixie": ("postgresql-17", "postgresql-17-cron", "postgresql-17-timescaledb", "postgresql-17-pgtap"),
}
# What the development machine tests with its own PostgreSQL is not repeated with the same one.
TESTS = {
    "bookworm": ("tests/extensions/test_pg_cron.py",),
    "trixie": (
        "tests/extensions",
        "tests/integration/test_registry_pgtap.py",
        "tests/integration/test_registry_queries.py",
        "tests/integration/test_registry_maintenance.py",
    ),
}
PLACE = "/opt/ansible_collections/schema_registry/postgresql"


def send(machine: Machine) -> None:
    """The checkout's files, as a collection that Python finds, for every user to read."""
    listed = output("git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "plugins", "roles", "sql", "tests")
    files = "\0".join(path for path in listed.split("\0") if (CHECKOUT / path).is_file())
    machine.must(f"mkdir -p {PLACE}")
    packed = subprocess.Popen(["tar", "-C", str(CHECKOUT), "--null", "-T", "-", "-cf", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    unpacked = subprocess.Popen(["podman", "exec", "--interactive", machine.name, "tar", "-C", PLACE, "--no-same-owner", "-xf", "-"], stdin=packed.stdout)
    assert packed.stdin is not None and packed.stdout is not None
    # So that tar notices when nobody reads any more.
    packed.stdout.close()
    packed.stdin.write(files.encode())
    packed.stdin.close()
    if packed.wait() or unpacked.wait():
        raise MachineError("the checkout could not be copied")


def main() -> int:
    """Run the tests on the machines that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", action="append", choices=[*PACKAGES], help="only this machine (may be given again)")
    parser.add_argument("--keep", action="store_true", help="leave the machines running, to look at them")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        configure_podman(Path(scratch))
        for suite in arguments.suite or PACKAGES:
            with Machine(suite, keep=arguments.keep) as machine:
                packages = " ".join((*PACKAGES[suite], "python3-psycopg2", "python3-pytest"))
                machine.must("mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf")
                machine.must(f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends {packages}")
                send(machine)
                # Not by the checkout's own settings, which are for a newer pytest.
                pytest = "PYTHONPATH=/opt:tests python3 -m pytest -c /dev/null --rootdir=. -q -ra -p no:cacheprovider"
                result = machine.run(f"cd {PLACE} && {pytest} {' '.join(TESTS[suite])}")
                print(f"{suite}, {result.seconds:.0f} s:\n{result.text}", flush=True)
                failed |= result.status != 0
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (MachineError, subprocess.SubprocessError) as error:
        sys.exit(f"extensions: {error}")
