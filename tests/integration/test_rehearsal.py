"""A rehearsal: what would fail fails, what would pass passes, and nothing stays."""

from __future__ import annotations

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError
from support.migrations import Release

CHILDREN = """
create table parent (id int primary key);
create table child (id int references parent deferrable initially deferred);
create table pair (id int unique deferrable initially immediate);
"""


def test_what_commits_by_itself_is_left_out(release: Release) -> None:
    release.add("1_moved", "begin;\ncreate table a ();\ncommit;\n", "begin;\ndrop table a;\ncommit;\n")
    release.add_tables(2, 2)
    release.add("3_verified", "create table c ();", "drop table c;", verify="select from c; commit;")
    empty = release.database.dump()
    moved, whole, verified = release.rehearse(allow_transaction_control=True)
    assert (moved["not_rehearsed"], whole["not_rehearsed"]) == ("it begins or ends transactions itself", "")
    assert verified["not_rehearsed"] == moved["not_rehearsed"]
    assert release.database.dump() == empty

    release.migrate(2, allow_transaction_control=True)
    before = release.database.dump()
    back = release.rehearse(0, allow_revert=True, allow_transaction_control=True)
    # Nobody has seen what it takes, so somebody must say yes to it.
    assert [each["version"] for each in back if each["lost"]] == [1]
    assert release.database.dump() == before


def test_what_is_deferred_to_the_commit_fails(release: Release) -> None:
    release.add("1_tables", CHILDREN)
    script = release.add("2_orphan", "insert into child values (1);")
    with pytest.raises(ExecutionError, match="its commit failed: insert or update on table") as failed:
        release.rehearse()
    assert (failed.value.failed["file"], failed.value.failed["sqlstate"]) == (str(script), "23503")


def test_what_one_transaction_makes_good_in_the_end_passes(release: Release) -> None:
    release.add("1_tables", CHILDREN)
    release.add("2_orphan", "insert into child values (1);")
    release.add("3_found", "insert into parent values (1);")
    assert len(release.rehearse(transaction="all")) == 3
    with pytest.raises(ExecutionError, match="its commit failed"):
        release.rehearse(2, transaction="all")


def test_every_file_finds_its_constraints_as_they_are_defined(release: Release) -> None:
    release.add("1_tables", CHILDREN)
    release.add("2_child_first", "insert into child values (1); insert into parent values (1); insert into pair values (1);")
    # With events pending, no table can be altered.
    release.add("3_alter", "alter table child add name text; insert into child values (2); insert into parent values (2);")
    assert [each["not_rehearsed"] for each in release.rehearse()] == ["", "", ""]
    release.add("4_twice", "insert into pair values (1); update pair set id = 2;")
    with pytest.raises(ExecutionError, match="duplicate key") as failed:
        release.rehearse()
    assert "its commit" not in failed.value.message


def test_schemas_are_there_as_they_would_be(release: Release) -> None:
    release.add("1_table", "create table app.t ();")
    empty = release.database.dump()
    assert release.rehearse(create_schemas=("app",))[0]["not_rehearsed"] == ""
    assert release.database.dump() == empty
    release.migrate(create_schemas=("app",))
    assert release.has("app.t")


def test_a_quote_that_never_ends_has_a_place(release: Release) -> None:
    script = release.add("1_open", "create table a ();\nselect 'never closed;\n")
    with pytest.raises(ExecutionError) as failed:
        release.rehearse()
    assert (failed.value.failed["file"], failed.value.failed["line"]) == (str(script), 2)
