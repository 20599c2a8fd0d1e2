"""What a deploy costs more where backups are on: pairs of deploys of one migration to the scenario's host `production`, in alternating order.

    molecule converge -s recovery, and then with the scenario's inventory in ANSIBLE_INVENTORY: python molecule/recovery/cost.py PAIRS

In each pair, one deploy asks for the backup and for the restore point's arrival in the archive (deploy_backup=auto), the other does not (ignore). Between
them, the migration is taken back.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from test_recovery import CHECKOUT, psql


def deploy(release: Path, mode: str) -> float:
    started = time.monotonic()
    subprocess.run(
        [
            *("ansible-playbook", "deploy.yml", "--limit", "production", "-e", "deploy_without_staging=true", "-e", f"deploy_backup={mode}"),
            *("-e", f"migrations_source={release}", "-e", "migrations_verify="),
        ],
        cwd=CHECKOUT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    took = time.monotonic() - started
    assert psql("select to_regclass('public.one_more') is not null") == "t"
    psql("drop table public.one_more; delete from _sqlx_migrations where version = 29990101000001")
    return took


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        release = Path(scratch)
        for path in (CHECKOUT / "sql/migrations").iterdir():
            (release / path.name).write_bytes(path.read_bytes())
        (release / "29990101000001_one_more.up.sql").write_text("create table public.one_more (id bigint primary key);\n", encoding="utf-8")
        (release / "29990101000001_one_more.down.sql").write_text("drop table public.one_more;\n", encoding="utf-8")
        deploy(release, "auto")
        pairs = []
        for number in range(int(sys.argv[1])):
            modes = ("auto", "ignore") if number % 2 else ("ignore", "auto")
            times = {mode: deploy(release, mode) for mode in modes}
            pairs.append((times["auto"], times["ignore"]))
            print(f"with {times['auto']:.1f} s, without {times['ignore']:.1f} s", flush=True)
        print(f"median of the ratios {statistics.median(a / b for a, b in pairs):.3f}, of the differences {statistics.median(a - b for a, b in pairs):.2f} s")


if __name__ == "__main__":
    main()
