"""Disasters on a real host, and the way out of each as docs/recovery.md has it: the commands are read from that page and run as they stand there.

The drills follow each other on one cluster, so that each one also has the timelines and backups that the ones before it left. What was observed is
written to tests/output/recovery.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

SCENARIO = Path(__file__).parent
CHECKOUT = SCENARIO.parents[1]
OUTPUT = CHECKOUT / "tests" / "output"
RUNBOOK = CHECKOUT / "docs" / "recovery.md"
MACHINE = f"schema-registry-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]}-{SCENARIO.name}-database"
PASSPHRASE = hashlib.sha256(b"said to nobody but pgBackRest").hexdigest()
DATA = "/var/lib/postgresql/15/production"
REPOSITORY = "/var/lib/pgbackrest"
TABLES = ("subjects", "schemas", "schema_dependencies", "validation_history", "compatibility_checks", "schema_access_log")

said: List[str] = []
rows: List[str] = []


def commands() -> Dict[str, str]:
    """The runbook's commands by the name of their drill: the block after each line `<!-- drill: NAME -->`."""
    found = re.findall(r"^<!-- drill: (\S+) -->\n```sh\n(.*?)^```$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(found) == len(dict(found)), "a drill has two blocks of one name"
    return dict(found)


def run(*command: object, text: str = "", check: bool = True, **environment: str) -> str:
    """Run a command here; what it said."""
    done = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, check=False, cwd=CHECKOUT, env={**os.environ, **environment}
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def machine(script: str, *, user: str = "postgres", check: bool = True) -> str:
    return run("podman", "exec", "--interactive", "--user", user, MACHINE, "bash", "-euo", "pipefail", "-s", text=script, check=check)


def psql(sql: str, port: int = 5434) -> str:
    return run(
        *("podman", "exec", "--interactive", "--user", "postgres", MACHINE),
        *("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-p", port, "-d", "schema_registry"),
        text=sql,
    ).strip()


def type_in(name: str, more: str = "", *, fails: bool = False, **environment: str) -> str:
    """Type a block of the runbook, and more behind it; what was answered."""
    script = commands()[name].rstrip() + more
    done = subprocess.run(
        ["bash", "-euc", script], cwd=CHECKOUT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    answer = done.stdout + done.stderr
    said.append(answer)
    assert (done.returncode != 0) == fails, answer
    return " ".join(answer.split())


def written(count: int) -> None:
    """The application goes on."""
    psql(
        f"""
        insert into public.subjects (name, default_compatibility_level, description)
        select 'subject ' || gen_random_uuid(), 'BACKWARD', repeat('x', 200) from generate_series(1, {count})
        """
    )


def counted(port: int = 5434) -> Dict[str, str]:
    """The rows of every table, and a digest of those that the drills write."""
    counts = ", ".join(f"'{table}', (select count(*)::text from public.{table})" for table in TABLES)
    digest = "(select md5(string_agg(s::text, '|' order by name)) from public.subjects s)"
    return dict(json.loads(psql(f"select json_build_object({counts}, 'digest', {digest})", port)))


def fingerprint() -> str:
    arguments = {"source": str(CHECKOUT / "sql/migrations"), "login_db": "schema_registry", "login_unix_socket": "/var/run/postgresql", "login_port": 5434}
    module = "schema_registry.postgresql.migration_info"
    answer = run("ansible", "production", "-b", "--become-user", "postgres", "-m", module, "-a", json.dumps(arguments))
    (found,) = re.findall(r"^ +fingerprint: (\w{64})$", answer, re.MULTILINE)
    return str(found)


def archived() -> None:
    machine("pgbackrest --stanza=production check")


def subjects(of: Dict[str, str]) -> int:
    return int(of["subjects"])


# Counts who shows the passphrase among his arguments. In two parts, so that it is in no file.
WATCHER = """
import contextlib, glob, time

while True:
    shown = 0
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, "rb") as arguments:
            shown += b"{start}" b"{rest}" in arguments.read()
    print(shown, flush=True)
    time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def schema() -> Iterator[str]:
    """The registry is in use, while somebody looks at the process list all the time."""
    watcher = WATCHER.format(start=PASSPHRASE[:20], rest=PASSPHRASE[20:])
    watching = machine(f"cat >/tmp/watch <<'EOF'\n{watcher}EOF\npython3 /tmp/watch >/tmp/seen 2>&1 & echo $!", user="root").split()[-1]
    written(3000)
    psql("checkpoint")
    yield fingerprint()
    machine(f"kill {watching}", user="root")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    head = "| disaster | seconds until all was back | data lost |\n|---|---|---|\n"
    (OUTPUT / "recovery.md").write_text(head + "".join(rows), encoding="utf-8")


def note(disaster: str, started: float, lost: str) -> None:
    rows.append(f"| {disaster} | {time.monotonic() - started:.0f} | {lost} |\n")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's release, with a migration that drops a table."""
    directory = tmp_path_factory.mktemp("release")
    shutil.copytree(CHECKOUT / "sql/migrations", directory / "migrations")
    shutil.copytree(CHECKOUT / "sql/verify", directory / "verify")
    name = "29990101000001_slipped_through"
    (directory / f"migrations/{name}.up.sql").write_text("drop table public.subjects cascade;\n", encoding="utf-8")
    (directory / f"migrations/{name}.down.sql").write_text("select 1;\n", encoding="utf-8")
    (directory / f"verify/{name}.sql").write_text("select 1;\n", encoding="utf-8")
    return directory


def deploy(release: Path, *variables: str, fails: bool = False) -> str:
    done = subprocess.run(
        [
            *("ansible-playbook", "deploy.yml", "--limit", "production", "-e", "deploy_without_staging=true"),
            *("-e", f"migrations_source={release}/migrations", "-e", f"migrations_verify={release}/verify"),
            *("-e", f"deploy_report={release}/report.json"),
            *(word for variable in variables for word in ("-e", variable)),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = done.stdout + done.stderr
    said.append(answer)
    assert (done.returncode != 0) == fails, answer
    return " ".join(answer.split())


def test_the_data_directory_is_gone(schema: str) -> None:
    archived()
    before = counted()
    written(1)  # and the log of it is not archived yet
    machine(f"rm -rf {DATA}")
    started = time.monotonic()
    type_in("data_directory")
    after = counted()
    assert (after, fingerprint()) == (before, schema)
    note("the data directory is gone", started, "1 row, written since the log was last archived")


def test_a_table_is_dropped_by_a_migration(schema: str, release: Path) -> None:
    before = counted()
    assert "backup: the newest is 0 hours old, and 0 are allowed" in deploy(release, "deploy_backup_max_age_hours=0", fails=True)
    assert counted() == before
    deploy(release)
    assert psql("select to_regclass('public.subjects') is null") == "t"
    # A backup that is too new for the way back.
    machine("pgbackrest --stanza=production --type=incr backup")
    (row,) = json.loads((release / "report.json").read_text(encoding="utf-8"))["hosts"]
    assert row["restore_command"] == commands()["dropped_table"].strip().replace("$POINT", row["restore_point"])
    started = time.monotonic()
    type_in("dropped_table", POINT=row["restore_point"])
    assert (counted(), fingerprint()) == (before, schema)
    note("a migration has dropped a table", started, "what was written since the deploy began; here none")


def test_the_second_before_a_mistake(schema: str) -> None:
    before = counted()
    moment = psql("select now()")
    time.sleep(1.1)
    psql("delete from public.subjects where name < 'subject 8'")
    archived()
    assert subjects(counted()) < subjects(before)
    type_in("look", TIME=moment)
    assert counted(6434) == before
    assert psql("select current_setting('archive_mode') || current_setting('listen_addresses')", 6434) == "off"
    assert subjects(counted()) < subjects(before), "the running cluster was touched"
    machine("pg_dropcluster --stop 15 production_restored; rm -rf /etc/postgresql/15/production_restored", user="root")
    started = time.monotonic()
    type_in("mistake", TIME=moment)
    assert (counted(), fingerprint()) == (before, schema)
    note("a mistake, back to the second before", started, "what was written since that second; here none but the mistake")


def test_what_cannot_be_is_refused(schema: str) -> None:
    """Before the server is stopped."""
    started = psql("select pg_postmaster_start_time()")
    assert "yesterday is not such as 2026-03-01 12:00:00+00" in type_in("mistake", fails=True, TIME="yesterday")
    assert "no backup that was complete before 2001-" in type_in("mistake", fails=True, TIME="2001-01-01 00:00:00+00")
    assert "2999-01-01 00:00:00+01:00 is yet to come" in type_in("mistake", fails=True, TIME="2999-01-01 00:00:00+01:00")
    assert "no backup 20010101-000000F, only 2" in type_in("data_directory", " -e backup_restore_set=20010101-000000F", fails=True)
    run("podman", "exec", "--privileged", "--user", "root", MACHINE, "mount", "--bind", DATA, DATA)
    assert f"{DATA} is a mount point" in type_in("data_directory", fails=True)
    # The server has files open there.
    run("podman", "exec", "--privileged", "--user", "root", MACHINE, "umount", "--lazy", DATA)
    assert psql("select pg_postmaster_start_time()") == started


def test_a_page_is_damaged(schema: str) -> None:
    written(10)
    before = counted()
    file = psql("checkpoint; select pg_relation_filepath('public.subjects')")
    machine("pg_ctlcluster 15 production stop", user="root")
    machine(f"printf DAMAGED | dd of={DATA}/{file} bs=1 seek=$((8192 * 3 + 4000)) conv=notrunc status=none")
    machine("pg_ctlcluster 15 production start", user="root")
    answer = type_in("find_damage", fails=True)
    assert "schema_registry is damaged" in answer
    assert "block 3" in answer
    started = time.monotonic()
    type_in("damaged_page")
    assert (counted(), fingerprint()) == (before, schema)
    note("a damaged page", started, "none")


def archiving_fails() -> None:
    """The application goes on, and its log does not arrive any more."""
    written(10)
    psql("select pg_switch_wal()")
    for _attempt in range(100):
        if psql("select last_failed_time > coalesce(last_archived_time, '-infinity') from pg_stat_archiver") == "t":
            break
        time.sleep(0.3)
    assert "FAILS: the server log says why" in type_in("see_archive")


def archive_is_back(disaster: str) -> None:
    """What waited has arrived, and nothing was lost."""
    before = counted()
    started = time.monotonic()
    type_in("archive_back")
    assert psql("select count(*) from pg_ls_archive_statusdir() where name like '%.ready'") == "0"
    assert counted() == before
    note(disaster, started, "none")


def test_the_archive_is_unreachable(schema: str, release: Path) -> None:
    machine(f"mv {REPOSITORY} {REPOSITORY}.away", user="root")
    archiving_fails()
    before = counted()
    assert "The repository of production is gone or cannot be reached" in deploy(release, fails=True)
    assert (counted(), fingerprint()) == (before, schema)
    machine(f"mv {REPOSITORY}.away {REPOSITORY}", user="root")
    archive_is_back("the archive cannot be reached")


def test_the_archive_is_full(schema: str, release: Path) -> None:
    # The repository moves to a small disk, and home again in the end.
    machine(f"mv {REPOSITORY} {REPOSITORY}.away; mkdir {REPOSITORY}", user="root")
    run("podman", "exec", "--privileged", "--user", "root", MACHINE, "mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", REPOSITORY)
    machine(f"cp -a {REPOSITORY}.away/. {REPOSITORY}; ! dd if=/dev/zero of={REPOSITORY}/ballast bs=4k status=none", user="root")
    archiving_fails()
    before = counted()
    assert "backup: archiving fails" in deploy(release, fails=True)
    assert (counted(), fingerprint()) == (before, schema)
    machine(f"rm {REPOSITORY}/ballast", user="root")
    archive_is_back("the archive is full")
    machine(f"rm -rf {REPOSITORY}.away; cp -a {REPOSITORY} {REPOSITORY}.home", user="root")
    run("podman", "exec", "--privileged", "--user", "root", MACHINE, "umount", REPOSITORY)
    machine(f"rmdir {REPOSITORY}; mv {REPOSITORY}.home {REPOSITORY}", user="root")
    archived()


KILLER = """
echo ready
for _ in $(seq 3000); do
    if {sign}; then
        for pid in $(pgrep -x pgbackrest); do kill -9 "$pid" || true; done
        echo killed
        exit
    fi
    sleep 0.01
done
"""


@contextlib.contextmanager
def killer(sign: str) -> Iterator[None]:
    """As soon as the sign is there, pgBackRest dies."""
    process = subprocess.Popen(
        ["podman", "exec", "--user", "postgres", MACHINE, "bash", "-c", KILLER.format(sign=sign)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    # On a busy machine a backup may be done before the killer has even come.
    assert process.stdout.readline().strip() == "ready"
    yield
    answer, _nothing = process.communicate()
    assert answer.strip() == "killed"


def test_a_backup_is_killed(schema: str) -> None:
    labels = machine(f"ls {REPOSITORY}/backup/production").split()
    machine("touch /tmp/mark")
    # What is small is bundled, and pg_data comes last.
    new = f'find {REPOSITORY}/backup/production -maxdepth 1 -name "*F" -newer /tmp/mark'
    with killer(f'[ -n "$({new} -exec find {{}} -mindepth 2 -type f -print -quit \\; 2>/dev/null)" ]'):
        machine("! pgbackrest --stanza=production --type=full backup")
    assert set(machine(f"ls {REPOSITORY}/backup/production").split()) != set(labels), "it had not begun"
    # So that what is written there is seen as well: the most that Ansible says.
    machine("rm /etc/pgbackrest/conf.d/production.conf", user="root")
    started = time.monotonic()
    assert "no_log: true" in type_in("backup_killed", ANSIBLE_VERBOSITY="3", ANSIBLE_DIFF_ALWAYS="1")
    note("a backup is killed", started, "none")


def test_a_restore_is_killed(schema: str) -> None:
    written(10)
    before = counted()
    with killer(f"[ -e {DATA}/PG_VERSION ] && [ ! -e {DATA}/global/pg_control ]"):
        type_in("restore_killed", fails=True)
    started = time.monotonic()
    type_in("restore_killed")
    assert (counted(), fingerprint()) == (before, schema)
    note("a restore is killed", started, "none")


def test_another_cluster_is_in_its_place(schema: str) -> None:
    """The neighbour stands for one that was made anew under the same name: no log of it goes to the other one's backups."""
    settings = f" -e backup_mode=pgbackrest -e backup_stanza=production -e backup_passphrase={PASSPHRASE}"
    playbook = commands()["archive_back"].strip().replace("production", "staging")
    done = subprocess.run(["bash", "-c", playbook + settings], cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    answer = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert "What the repository has of production is of another cluster" in answer
    assert "pgbackrest --stanza=production stanza-upgrade" in answer
    assert psql("show archive_mode", 5435) == "off"
    # Where pgBackRest finds the cluster was written before.
    type_in("archive_back")


def test_the_repository_is_whole(schema: str) -> None:
    """And if it were not, somebody would say so."""
    type_in("verify")
    file = machine(f"find {REPOSITORY}/archive/production -type f -name '*.zst' | sort | tail -1").strip()
    machine(f"cp {file} /tmp/whole; printf DAMAGED | dd of={file} bs=1 seek=1000 conv=notrunc status=none")
    type_in("verify", fails=True)
    machine(f"cp /tmp/whole {file}")


def test_a_dump_is_damaged() -> None:
    """On the neighbour, which nothing of all this has touched so far. Its database is kept, under the name that is said."""
    before = counted(5435)
    file = machine("ls /var/backups/postgresql/neighbour/*/1.dump").strip()
    machine(f"cp {file} /tmp/whole.dump; truncate --size=-5 {file}")
    (kept,) = set(re.findall(r"schema_registry_before_\w+", type_in("dump", fails=True)))
    back = f"-c 'drop database if exists schema_registry' -c 'alter database \"{kept}\" rename to schema_registry'"
    machine(f"psql -qXp 5435 -v ON_ERROR_STOP=1 {back}")
    assert counted(5435) == before
    machine(f"mv /tmp/whole.dump {file}")


def test_a_dump_comes_back() -> None:
    before = counted(5435)
    assert subjects(before) == 0
    psql("drop table public.subjects cascade", 5435)
    started = time.monotonic()
    type_in("dump")
    assert counted(5435) == before
    owners = "select string_agg(distinct tableowner, ' ') from pg_tables where schemaname = 'public'"
    assert psql(owners, 5435) == "schema_registry_owner"
    assert psql("select has_database_privilege('public', 'schema_registry', 'connect')", 5435) == "f"
    note("dumps only: a table is dropped", started, "what was written since the dump; here none")


def test_nobody_has_seen_the_passphrase(schema: str) -> None:
    assert [text for text in said if PASSPHRASE in text] == []
    seen = machine("cat /tmp/seen", user="root").split()
    assert len(seen) > 20
    assert set(seen) == {"0"}
    holders = machine(f"grep -rls {PASSPHRASE} /etc /var /tmp /usr/local /run /root || true", user="root").split()
    assert holders == ["/etc/pgbackrest/conf.d/production.conf"]
    assert machine("stat --format '%a %U %G' /etc/pgbackrest/conf.d/production.conf", user="root").strip() == "640 root postgres"
    assert PASSPHRASE not in machine("journalctl --no-pager", user="root")
