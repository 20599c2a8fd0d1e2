"""What a stairway says without a database: what was announced, what is lost, what differs."""

from __future__ import annotations

from typing import Dict, List, Optional

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import announced, census, differences, scratch
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.census import Column, Table


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("select 1;", set()),
        ("-- data-loss: table t", {"table public.t"}),
        ("-- data-loss: table app.t, column t.a, rows of u, view v  \r\n", {"table app.t", "column public.t.a", "rows of public.u", "view public.v"}),
        ("select 1;\n  -- data-loss: table t", set()),
        ('-- data-loss: table "a, b"."c.d", column app."T".x\n-- data-loss: table t', {'table "a, b"."c.d"', 'column app."T".x', "table public.t"}),
    ],
)
def test_what_is_announced(text: str, things: set) -> None:  # type: ignore[type-arg]
    assert announced.read(text).things == things


@pytest.mark.parametrize(
    "line",
    ["-- data-loss:", "-- data loss: table t", "--data-loss: table t", "-- DATA-LOSS: table t", "-- data-loss: t", "-- data-loss: column a"],
)
def test_what_is_meant_to_be_announced_and_is_not(line: str) -> None:
    assert [number for number, _message in announced.read("select 1;\n" + line).problems] == [2]


@pytest.mark.parametrize(
    ("says", "what", "covered"),
    [
        ("table t", "table public.t", True),
        ("table t", "rows of public.t", True),
        ("table t", "column public.t.a", True),
        ('table "a.b"', 'column public."a.b".c', True),
        ("rows of t", "table public.t", False),
        ("rows of t", "column public.t.a", False),
        ("column t.a", "column public.t.b", False),
        ("table app.t", "table public.t", False),
        ("view t", "table public.t", False),
    ],
)
def test_what_an_announcement_covers(says: str, what: str, covered: bool) -> None:
    assert announced.read("-- data-loss: " + says).covers(what) is covered


def table(name: str = "t", rows: int = 3, part_of: int = 0, **columns: int) -> Table:
    return Table(name, part_of, rows, {number: Column(column, values) for number, (column, values) in enumerate(columns.items(), 1)})


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ({1: table(a=3)}, {1: table(a=3)}, {}),
        ({1: table(a=3)}, {}, {"table t": 3}),
        ({1: table(rows=0)}, {}, {}),
        ({1: table(a=3, b=2)}, {1: table(a=3)}, {"column t.b": 2}),
        ({1: table(a=3, b=0)}, {1: table(a=3)}, {}),
        ({1: table(a=3)}, {1: table("renamed", b=3)}, {}),
        ({1: table(a=3)}, {2: table(a=3)}, {}),
        ({1: table(a=3)}, {2: table(a=0)}, {"column t.a": 3}),
        ({1: table(a=3)}, {1: table(rows=1, a=1)}, {"rows of t": 2}),
        ({1: table(a=3)}, {1: table(rows=2, a=0)}, {"rows of t": 1, "column t.a": 3}),
        ({1: table(), 2: table("part", part_of=1)}, {}, {"table t": 3}),
        ({1: table(), 2: table("part", 2, part_of=1)}, {1: table(rows=1)}, {"table part": 2}),
        ({1: table(), 2: table("part", part_of=1)}, {1: table(rows=1), 2: table("part", 1, part_of=1)}, {"rows of t": 2}),
    ],
)
def test_what_is_lost(before: Dict[int, Table], after: Dict[int, Table], lost: Dict[str, int]) -> None:
    assert {each.what: each.rows for each in census.lost(before, after)} == lost


@pytest.mark.parametrize(
    ("one", "other", "fewer"),
    [({1: 2, 2: 1}, {1: 2, 2: 1}, 0), ({1: 2, 2: 1}, {1: 3}, 1), ({1: 2}, {1: 1, 2: 9}, 1), (None, {1: 1}, 0), ({1: 3}, None, 0)],
)
def test_another_value_is_not_the_same(one: Optional[Dict[int, int]], other: Optional[Dict[int, int]], fewer: int) -> None:
    assert Column("a", 3, one).fewer(Column("a", 3, other)) == fewer


def test_differences_are_told_object_by_object() -> None:
    expected = "index i: create index i\ntable t: owner a\ntype y: 'a','b'\n"
    found = "table t: owner b\ntrigger t.x: before insert\ntype y: 'a','b'\n"
    differing = differences.between(expected, found)
    assert [(each.how, each.what) for each in differing] == [("missing", "index i"), ("changed", "table t"), ("left behind", "trigger t.x")]
    assert differences.told(differing) == (
        "missing: index i\n  - create index i\nchanged: table t\n  - owner a\n  + owner b\nleft behind: trigger t.x\n  + before insert"
    )
    assert differences.between(expected, expected) == []


def test_many_differences_end_somewhere() -> None:
    lines: List[str] = [f"index i{n}: x\n" for n in range(100)]
    assert differences.told(differences.between("".join(lines), "")).endswith("\nand 60 more")


def test_a_scratch_database_has_a_name_of_its_own_however_long() -> None:
    assert scratch.name_for("shop", "stairway") == "shop_stairway"
    assert len(scratch.name_for("ü" * 60, "rehearse").encode()) <= 63
    assert scratch.name_for("ü" * 60, "rehearse").endswith("_rehearse")
