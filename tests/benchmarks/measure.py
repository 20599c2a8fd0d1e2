"""Measuring: runs in interleaved rounds, their ratios, and what became of a goal."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Measured = Callable[[], float]
"""One run; how long it took (or how much), in whatever unit."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    samples: tuple[float, ...]
    goal: float | None = None
    """None where there is nothing to reach, and the figure says how large the others are."""
    limit: float | None = None
    """What is near the limit of the possible, for comparison."""
    unit: str = ""
    least: bool = False
    """Whether the goal is the least, not the most."""

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.samples)

    @property
    def reached(self) -> bool:
        """Whether the goal was."""
        if self.goal is None:
            return True
        return self.median >= self.goal if self.least else self.median <= self.goal


def rounds(count: int, *runs: Measured) -> list[tuple[float, ...]]:
    """Run each of them in turn, and again: A B A B, so that what slows the machine down for a while slows both."""
    return [tuple(run() for run in runs) for _unused in range(count)]


def timed(action: Callable[[], object]) -> float:
    """How many seconds it takes."""
    gc.collect()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def ratios(pairs: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """The first of each pair, in terms of the second."""
    return tuple(first / second for first, second in pairs)


_HEADINGS = ("what", "median", "from", "to", "runs", "goal", "near the limit", "")


def table(rows: Sequence[Row]) -> str:
    """The rows for people, as Markdown has it too."""
    lines = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    widths[-1] = max(widths[-1], 1)
    written = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    written.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(written)


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}{row.unit}"

    return (
        row.what,
        number(row.median),
        number(min(row.samples)),
        number(max(row.samples)),
        str(len(row.samples)),
        ("at least " if row.least else "") + number(row.goal),
        number(row.limit),
        "" if row.goal is None else "PASS" if row.reached else "under" if row.least else "over",
    )
