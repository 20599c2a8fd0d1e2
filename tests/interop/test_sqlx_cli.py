"""The module and `sqlx migrate` take turns on one database, and neither can tell."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Set, Tuple

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ExecutionError, PlanError
from support import registry
from support.migrations import HISTORY, LEDGER, Release, Row, checksum
from support.sqlx import Cli, SqlxError, app, since

MARKER = "-- no-transaction\n"


class File(NamedTuple):
    version: int
    name: str
    description: str
    up: str
    down: Optional[str]


# What a file may be like, and both must read alike.
FILES = [
    File(-9223372036854775808, "-9223372036854775808_least", "least", "select 1;", None),
    File(-7, "-7_negative", "negative", "create table negative (id int);", "drop table negative;"),
    File(0, "0_zero", "zero", "", None),
    File(1, "+1_plus", "plus", "-- nothing but a comment", None),
    File(2, "0002_crlf", "crlf", "create table crlf\r\n(id int);\r\n\r\nselect 1;\r\n", "drop table crlf;\r\n"),
    File(3, "3_old_mac", "old mac", "select 1;\rselect 2;\r", "select 1;"),
    File(4, "4_ünïcödé__🐘_", "ünïcödé  🐘 ", "create table \"🐘\" (name text default 'été'); comment on table \"🐘\" is '象';", 'drop table "🐘";'),
    File(5, "5_", "", "/* only /* a */ comment */ ;;", "-- nothing"),
    File(6, "6_it's_%s_$1", "it's %s $1", "select '%s', '\\', 5 % 3;", "select 1;"),
    File(7, "7_marker", "marker", MARKER + "create table marked (id int);", MARKER + "drop table marked;"),
    File(8, "8_late_marker", "late marker", "\n" + MARKER + "create table a8 (); create table b8 ();", "drop table a8; drop table b8;"),
    File(20240101000001, "20240101000001_time", "time", "create table moments as select '2024-01-02 03:04'::timestamptz as at;", "drop table moments;"),
    File(9223372036854775807, "9223372036854775807_greatest", "greatest", "create table greatest_one ();", "drop table greatest_one;"),
]


def add(release: Release, file: File) -> None:
    release.add(file.name, file.up, file.down)


def rows_of(files: List[File]) -> List[Row]:
    return [Row(file.version, file.description, True, checksum(file.up)) for file in files]


def whole_rows(release: Release) -> Any:
    """The ledger, times reduced to their being there."""
    return release.database.execute(
        "select version, description, success, encode(checksum, 'hex'), execution_time > 0, installed_on between now() - interval '2 minutes' and now()"
        f" from {LEDGER} order by version"
    )


def look_alike(release: Release, cli: Cli, applied: List[File], pending: List[File]) -> None:
    assert release.rows() == rows_of(applied)
    assert all(row[-2:] == (True, True) for row in whole_rows(release))
    words = {file.version: "installed" for file in applied} | {file.version: "pending" for file in pending}
    assert cli.states(release) == words
    assert {each["version"]: each["state"] for each in release.info()["migrations"]} == words


def test_what_sqlx_did_and_what_we_did_are_the_same(release: Release, cli: Cli) -> None:
    for file in FILES:
        add(release, file)
    with release.database.server.database() as other:
        theirs = Release(release.directory, other)
        cli.migrate("run", theirs)
        release.migrate()
        assert whole_rows(release) == whole_rows(theirs)
        assert release.info()["fingerprint_text"] == theirs.info()["fingerprint_text"]
        assert not theirs.migrate()["changed"]
        assert cli.migrate("run", release) == ""
        release.database.execute(f"drop table {HISTORY}")
        assert release.database.dump().replace(release.database.owner, "owner") == other.dump().replace(other.owner, "owner")
    look_alike(release, cli, FILES, [])


# One step forth or back, by either.


def apply_ours(release: Release, cli: Cli) -> None:
    assert len(release.migrate()["applied"]) == 1


def apply_theirs(release: Release, cli: Cli) -> None:
    assert "Applied" in cli.migrate("run", release)


def revert_ours(release: Release, cli: Cli) -> None:
    below = [row.version for row in release.rows()][-2]
    assert len(release.migrate(below, allow_revert=True)["reverted"]) == 1


def revert_theirs(release: Release, cli: Cli) -> None:
    assert "Applied" in cli.migrate("revert", release)


def test_every_order_of_both_tools(release: Release, cli: Cli) -> None:
    """A walk up and down through the files, in which every step of every tool follows every other."""
    chance = random.Random(3)
    applied, ahead = [FILES[0]], list(reversed(FILES[1:]))
    add(release, FILES[0])
    release.migrate()
    followed: Set[Tuple[str, str]] = set()
    before = ""
    for _unused in range(60):
        # Only what has a way back is ever on top of the walk's ground.
        may_revert = len(applied) > 1 and applied[-1].down is not None
        steps: List[Callable[[Release, Cli], None]] = [revert_ours, revert_theirs] if may_revert else []
        steps += [apply_ours, apply_theirs] if ahead else []
        step = chance.choice([each for each in steps if (before, each.__name__) not in followed] or steps)
        if "apply" in step.__name__:
            file = ahead.pop()
            add(release, file)
            step(release, cli)
            applied.append(file)
        else:
            step(release, cli)
            file = applied.pop()
            ahead.append(file)
            for path in release.migrations.glob(f"{file.name}.*"):
                path.unlink()
        assert release.rows() == rows_of(applied)
        followed.add((before, step.__name__))
        before = step.__name__
        if len({pair for pair in followed if pair[0]}) == 16:
            break
    else:
        pytest.fail(f"the walk lacks an order: {sorted(followed)}")
    look_alike(release, cli, applied, [])


# --target-version came with it.
@pytest.mark.parametrize("cli", since("0.7.2"), indirect=True)
def test_targets_of_either(release: Release, cli: Cli) -> None:
    for file in FILES:
        if file.down is not None:
            add(release, file)
    files = [file for file in FILES if file.down is not None]
    cli.migrate("run", release, "--target-version", "4")
    assert not release.migrate(4)["changed"]
    release.migrate(7)
    look_alike(release, cli, files[:7], files[7:])
    cli.migrate("revert", release, "--target-version", "3")
    release.migrate(2, allow_revert=True)
    look_alike(release, cli, files[:2], files[2:])
    cli.migrate("run", release)
    look_alike(release, cli, files, [])


# -- no-transaction came with 0.8.0, for down files with this one.
@pytest.mark.parametrize("cli", since("0.8.3"), indirect=True)
def test_an_index_outside_of_transactions_by_either(release: Release, cli: Cli) -> None:
    release.add("1_rows", "create table rows as select generate_series(1, 100) as id;", "drop table rows;")
    release.add("2_index", MARKER + "create index concurrently i on rows (id);", MARKER + "drop index concurrently i;")
    for up, down in (
        (release.migrate, lambda: release.migrate(1, allow_revert=True)),
        (lambda: cli.migrate("run", release), lambda: release.migrate(1, allow_revert=True)),
        (release.migrate, lambda: cli.migrate("revert", release)),
        (lambda: cli.migrate("run", release), lambda: cli.migrate("revert", release)),
    ):
        up()
        assert (release.versions(), release.has("i")) == ([1, 2], True)
        assert set(cli.states(release).values()) == {"installed"}
        down()
        assert (release.versions(), release.has("i")) == ([1], False)


@pytest.mark.parametrize("cli", since("0.8.0"), indirect=True)
def test_several_statements_outside_are_ours_alone(release: Release, cli: Cli) -> None:
    release.add("1_rows", "create table rows as select generate_series(1, 100) as id;")
    release.add("2_index", MARKER + "create index concurrently i on rows (id);\ncreate index concurrently j on rows (id);")
    release.migrate(1)
    with pytest.raises(SqlxError, match="cannot run inside a transaction block"):
        cli.migrate("run", release)
    release.migrate()
    assert set(cli.states(release).values()) == {"installed"}
    assert cli.migrate("run", release) == ""


def test_sqlx_stays_out_while_ours_is_unfinished(release: Release, cli: Cli) -> None:
    release.add("1_outside", MARKER + "select 1;\nselect broken;")
    with pytest.raises(ExecutionError):
        release.migrate()
    with pytest.raises(SqlxError, match="partially applied"):
        cli.migrate("run", release)
    release.add("1_outside", MARKER + "select 1;\nselect 2;")
    release.migrate()
    assert cli.states(release) == {1: "installed"}


def test_a_byte_order_mark_fails_with_either(release: Release, cli: Cli) -> None:
    script = release.add("1_mark", "\ufeffselect 1;")
    with pytest.raises(ExecutionError) as error:
        release.migrate()
    assert (error.value.failed["line"], error.value.failed["sqlstate"], error.value.failed["file"]) == (1, "42601", str(script))
    with pytest.raises(SqlxError, match="syntax error"):
        cli.migrate("run", release)
    assert release.rows() == []


def test_both_refuse_a_changed_and_a_missing_file(release: Release, cli: Cli) -> None:
    script = release.add("1_one", "select 1;")
    release.add("2_two", "select 2;")
    cli.migrate("run", release)
    script.write_text("select 1; ")
    assert cli.states(release)[1] == "different"
    assert release.info()["migrations"][0]["state"] == "installed (different checksum)"
    with pytest.raises(SqlxError, match="has been modified"):
        cli.migrate("run", release)
    with pytest.raises(PlanError, match="Changed since"):
        release.migrate()
    release.migrate(repair=frozenset([1]))
    assert (cli.states(release)[1], cli.migrate("run", release)) == ("installed", "")
    script.unlink()
    with pytest.raises(SqlxError, match="missing in the resolved migrations"):
        cli.migrate("run", release)
    with pytest.raises(PlanError, match="missing among the migration files: 1"):
        release.migrate()


def test_both_refuse_a_directory_with_a_misnamed_file(release: Release, cli: Cli) -> None:
    release.add("1_one", "select 1;")
    (release.migrations / "V2__two.sql").write_text("")
    with pytest.raises(SqlxError):
        cli.migrate("run", release)
    with pytest.raises(Exception, match=r"V2__two\.sql"):
        release.migrate()


def test_a_baseline_is_what_sqlx_takes_for_applied(release: Release, cli: Cli) -> None:
    release.add_tables(1, 3)
    release.database.execute("create table t1 (id int); create table t2 (id int)")
    release.migrate(2, baseline=2)
    assert cli.states(release) == {1: "installed", 2: "installed", 3: "pending"}
    assert re.findall(r"Applied (\d+)/", cli.migrate("run", release)) == ["3"]
    cli.migrate("revert", release)
    cli.migrate("revert", release)
    assert (release.versions(), release.has("t2")) == ([1], False)


@pytest.mark.parametrize("cli", since("0.9.0"), indirect=True)
def test_options_of_0_9(release: Release, cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "sqlx.toml"
    config.write_text('[migrate]\ntable-name = "books.ledger"\nignored-chars = ["\\r"]\ncreate-schemas = ["books"]\n')
    script = release.add("1_text", "select 1;\r\nselect 2;\r\n")
    options = ("--config", str(config))
    release.migrate(ledger_table="books.ledger", ignored_chars="\r", create_schemas=("books",))
    assert cli.migrate("run", release, *options) == ""
    script.write_text("select 1;\nselect 2;\n")
    assert cli.migrate("run", release, *options) == ""
    release.add("2_text", "select 3;\r\n")
    cli.migrate("run", release, *options)
    assert not release.migrate(ledger_table="books.ledger", ignored_chars="\r", create_schemas=("books",))["changed"]
    assert len(release.rows("books.ledger")) == 2
    assert not release.has(LEDGER)


def test_the_registry_by_either(release: Release, cli: Cli) -> None:
    """The registry's own migrations: by sqlx, by the program that has them built in, and by us."""
    ours = Release(registry.SQL, release.database)
    databases = release.database.server
    with databases.database() as second, databases.database() as third:
        cli.migrate("run", Release(registry.SQL, second))
        app("embedded", database=third)
        ours.migrate()
        texts = [Release(registry.SQL, each).info()["fingerprint_text"] for each in (release.database, second, third)]
        assert texts[0] == texts[1] == texts[2]
        for database in (release.database, second, third):
            there = Release(registry.SQL, database)
            assert there.rows() == ours.rows()
            assert not there.migrate()["changed"]
            app("embedded", database=database)
            assert cli.migrate("run", there) == ""
        for database in (second, third):
            Release(registry.SQL, database).migrate(0, allow_revert=True)
        app("undo", registry.MIGRATIONS, 0, database=release.database)
        assert ours.rows() == []
