"""Measure the engine and its modules against what they could be measured by, side by side in one run.

    make bench, or make bench BENCH='--pairs 3 apply revert'        BENCH=--help lists what there is

docs/benchmarks.md says what each row means.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy import against_role, fresh
from fleet import fleet
from lab import Lab
from measure import Row, table
from rows import BENCHMARKS, Extent, benchmark

# A rollout over hundreds of databases takes an hour, and a fresh machine a container, so these run where they are named.
USUAL = (*BENCHMARKS,)
benchmark(fleet)
benchmark(fresh)


def main() -> int:
    """Run what the command line asks for; the answer is 1 if a goal was missed."""
    names = "\n".join(f"  {name:<14} {(function.__doc__ or '').strip()}" for name, function in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog=f"benchmarks:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help="what to measure; everything below but fleet and fresh, if none is named")
    parser.add_argument("--pairs", type=int, help="runs of each kind, instead of as many as it takes for a steady median")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the usual number of migrations, to try things out")
    parser.add_argument(
        "--role",
        type=Path,
        default=os.environ.get("GEERLINGGUY_ROLE") or None,
        help="where the role geerlingguy.postgresql is: measures a second `make deploy` against it, on a fresh machine in a container",
    )
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - {*BENCHMARKS}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")

    # So that `timeout` and the like leave no server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    extent = Extent(arguments.scale, arguments.pairs)
    rows: list[Row] = []
    if arguments.names or not arguments.role:
        with Lab() as lab:
            for name in arguments.names or USUAL:
                rows += measured(name, BENCHMARKS[name](lab, extent))
    if arguments.role:
        rows += measured("deploy", against_role(arguments.role, extent))
    print()
    print(table(rows))
    # The goals are meant for full size.
    return int(extent.scale == 1 and not all(row.reached for row in rows))


def measured(name: str, benchmark: Iterator[Row]) -> list[Row]:
    """The rows of one benchmark, told as they come."""
    print(f"--- {name}, load {os.getloadavg()[0]:.2f}", flush=True)
    began = time.monotonic()
    rows = []
    for row in benchmark:
        print(table([row]).splitlines()[-1], flush=True)
        rows.append(row)
    print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
