"""What a way back would delete is known before it is taken."""

from __future__ import annotations

from typing import Dict, Optional

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import engine, losses
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import release as releases
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.plan import Policy
from support.migrations import Release

TABLES = """
create table plain (id int, price numeric, note text, twice int generated always as (id * 2) stored);
create table parted (id int) partition by range (id);
create table parted_1 partition of parted for values from (0) to (10);
create table empty_one (id int);
insert into plain (id, price) select n, case when n < 3 then n end from generate_series(1, 5) as n;
insert into parted values (1), (2);
"""


def lost(release: Release, down: str) -> Dict[str, Optional[int]]:
    """What the way back from version 2 to version 1 would delete. It is only tried: everything is as before."""
    release.add("1_tables", TABLES, "select 1;")
    release.add("2_next", "select 1;", down)
    release.migrate()
    before = release.database.dump(data=True)
    rehearsed = engine.rehearse(release.target(), releases.of(release.read()), 1, Policy(allow_revert=True))
    assert release.database.dump(data=True) == before
    return {each["what"]: each["rows"] for step in rehearsed for each in step["lost"]}


@pytest.mark.parametrize(
    ("down", "expected"),
    [
        ("drop table plain, empty_one;", {"table public.plain": 5}),
        ("drop table parted;", {"table public.parted": 2}),
        ("drop table parted_1;", {"table public.parted_1": 2}),
        ("alter table plain drop column price, drop column note, drop column twice;", {"column public.plain.price": 2}),
        ("delete from plain where id > 3; drop table empty_one;", {"rows of public.plain": 2}),
        ("do $$ begin delete from parted; end $$;", {"rows of public.parted_1": 2}),
        ("truncate plain; truncate empty_one;", {"rows of public.plain": 5}),
        ("alter table plain alter column id type bigint using id; alter table empty_one add column more int;", {}),
        ("alter table plain rename to renamed; alter table renamed rename column price to cost;", {}),
        ("create index on plain (id); drop table empty_one;", {}),
    ],
)
def test_what_a_down_script_deletes(release: Release, down: str, expected: Dict[str, Optional[int]]) -> None:
    if "alter column id" in down:
        down = "alter table plain drop column twice; " + down
    assert lost(release, down) == expected


def test_what_cannot_be_tried_is_unknown_unless_it_is_about_indexes(release: Release) -> None:
    assert lost(release, "-- no-transaction\ncreate index concurrently i on plain (id);\ndrop index concurrently i;") == {}
    (what,) = lost(release, "-- no-transaction\ndrop table plain;").items()
    assert "2_next.down.sql" in what[0]
    assert what[1] is None


def test_counting_ends(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "COUNTED", 3)
    assert lost(release, "drop table plain;") == {"table public.plain": 4}
