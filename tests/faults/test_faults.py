"""`make faults N=1000 SEED=7`: so many cases, the same each time for the same seed. FROM=123 N=1 tries one of them again."""

from __future__ import annotations

import os
from typing import Iterator

import pytest
from support.postgres import installed_majors
from support.process import RunError

from . import harness

N = int(os.environ.get("N") or 40)
SEED = int(os.environ.get("SEED") or 1)
FROM = int(os.environ.get("FROM") or 0)


@pytest.fixture(scope="module")
def bench() -> Iterator[harness.Bench]:
    with harness.Bench(max(installed_majors())) as ready:
        yield ready


def name(number: int) -> str:
    return f"seed {SEED}, {number}"


@pytest.mark.parametrize("number", range(FROM, FROM + N), ids=name)
def test_the_database_comes_out_right(bench: harness.Bench, number: int) -> None:
    case = harness.choose(SEED, number)
    try:
        bench.attempt(case)
    except harness.NoSmallDisk as error:
        pytest.skip(str(error))
    except (harness.Wrong, RunError) as error:
        pytest.fail(f"{case}\n{error}\nAgain: make faults SEED={SEED} FROM={number} N=1", pytrace=False)
