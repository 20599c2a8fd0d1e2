"""Up, down and again: what the engine does to a database, and what it leaves alone."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import (
    ExecutionError,
    LedgerError,
    PlanError,
)
from support.migrations import HISTORY, LEDGER, Release, Row, checksum
from support.postgres import Database

# sqlx-postgres/src/migrate.rs, ensure_migrations_table
SQLX_LEDGER = """
create table if not exists _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL,
    checksum BYTEA NOT NULL,
    execution_time BIGINT NOT NULL
);
"""


def versions(entries: List[Dict[str, Any]]) -> List[int]:
    return [entry["version"] for entry in entries]


def activity(database: Database) -> Any:
    """Moves with every write to a table of the database, ours included, and with every table made or dropped."""
    tables = database.execute(
        "select relname, (select array_agg(xmin::text order by a.attnum) from pg_attribute a where attrelid = c.oid) from pg_class c"
        " where relnamespace = 'public'::regnamespace order by 1"
    )
    rows = [database.execute(f'select xmin::text, xmax::text, ctid::text from public."{name}"') for name, _unused in tables if name in (LEDGER, HISTORY)]
    return tables, rows, database.execute("select txid_snapshot_xmax(txid_current_snapshot())")


def test_up_down_and_again(release: Release) -> None:
    release.add_tables(1, 3)
    empty = release.database.dump()

    up = release.migrate()
    assert (up["changed"], up["from_version"], up["to_version"], versions(up["applied"])) == (True, 0, 3, [1, 2, 3])
    assert all(release.has(f"t{number}") for number in (1, 2, 3))

    down = release.migrate(1, allow_revert=True)
    assert (down["changed"], down["from_version"], down["to_version"], versions(down["reverted"])) == (True, 3, 1, [3, 2])
    assert (release.has("t1"), release.has("t2"), release.versions()) == (True, False, [1])
    assert versions(down["pending"]) == [2, 3]

    again = release.migrate()
    assert versions(again["applied"]) == [2, 3]
    assert again["fingerprint"] == up["fingerprint"] != down["fingerprint"] == again["fingerprint_before"]

    nothing = release.migrate(0, allow_revert=True)
    assert versions(nothing["reverted"]) == [3, 2, 1] and release.rows() == []
    release.database.execute(f"drop table {LEDGER}, {HISTORY}")
    assert release.database.dump() == empty


def test_a_converged_database_is_only_read(release: Release) -> None:
    release.add_tables(1, 3)
    release.migrate()
    before = activity(release.database)
    for answer in (release.migrate(), release.migrate(3), release.predict(), release.migrate(baseline=2), release.migrate(repair=frozenset([1, 2]))):
        assert not answer["changed"]
        assert answer["to_version"] == 3
    release.info()
    assert activity(release.database) == before


def test_an_empty_database_stays_empty_where_nothing_is_wanted(release: Release) -> None:
    release.add_tables(1, 2)
    empty = release.database.dump()
    assert not release.migrate(0)["changed"]
    assert versions(release.predict()["applied"]) == [1, 2]
    assert not release.info()["ledger_exists"]
    assert release.database.dump() == empty


def test_the_ledger_is_the_one_that_sqlx_makes(release: Release, database: Database) -> None:
    release.add_tables(1, 1)
    release.migrate()
    with database.server.database() as other:
        other.execute(SQLX_LEDGER)
        theirs = other.dump().replace(other.owner, "owner")
    database.execute(f"drop table t1, {HISTORY}")
    assert database.dump().replace(database.owner, "owner") == theirs


AS_SQLX_HAS_IT = {
    "-5_negative.sql": (-5, "negative", "select 1;"),
    "0_zero.sql": (0, "zero", "-- nothing but a comment"),
    "+1_plus.sql": (1, "plus", ""),
    "002_with__two.up.sql": (2, "with  two", "select 'été 🐘';\r\nselect 2;\r\n"),
    "3_.sql": (3, "", "/* nothing /* at */ all */ ;;"),
    "4_%s_'quoted'.sql": (4, "%s 'quoted'", "select '%s', '%(x)s', '\\', 5 % 3, ':name', $$;$$;"),
    "9223372036854775807_last.sql": (9223372036854775807, "last", "select 1"),
}


def test_rows_are_those_of_sqlx(release: Release) -> None:
    release.migrations.mkdir()
    for name, (_unused, _unused, text) in AS_SQLX_HAS_IT.items():
        (release.migrations / name).write_bytes(text.encode())
    release.migrate()
    assert release.rows() == [Row(version, description, True, checksum(text)) for version, description, text in AS_SQLX_HAS_IT.values()]
    took = release.database.execute(f"select execution_time > 0 and installed_on > now() - interval '1 minute' from {LEDGER}")
    assert took == [(True,)] * len(AS_SQLX_HAS_IT)


def test_two_messages_a_migration(release: Release) -> None:
    release.add_tables(1, 5)
    few = release.migrate()["messages"]
    release.migrate(0, allow_revert=True)
    five = release.migrate()["messages"]
    release.add_tables(6, 25)
    assert release.migrate()["messages"] == five + 2 * 15
    assert five <= few
    assert release.migrate(0, allow_revert=True)["messages"] <= five + 2 * 20


def test_the_session_is_that_of_sqlx(release: Release) -> None:
    release.database.execute(f"alter role {release.database.owner} set timezone = 'Asia/Tokyo'")
    release.database.execute(f"alter role {release.database.owner} set datestyle = 'German, DMY'")
    release.database.execute(f"alter role {release.database.owner} set extra_float_digits = -5")
    release.database.execute(f"alter database {release.database.name} set statement_timeout = '50ms'")
    release.add(
        "1_settings",
        """
        create table seen as
            select current_setting('DateStyle') as datestyle, current_setting('TimeZone') as timezone,
                   current_setting('extra_float_digits') as digits, current_setting('client_encoding') as encoding,
                   '2024-01-02 00:00'::timestamptz::text as moment, '01/02/2024'::date::text as day, (0.1 + 0.2)::float8::text as float;
        select pg_sleep(0.1);
        """,
    )
    release.migrate()
    assert release.database.execute("select * from seen") == [
        ("ISO, MDY", "UTC", "2", "UTF8", "2024-01-02 00:00:00+00", "2024-01-02", "0.3"),
    ]


def test_a_statement_that_takes_too_long_is_ended(release: Release) -> None:
    release.add("1_slow", "select pg_sleep(30);")
    with pytest.raises(ExecutionError) as error:
        release.migrate(statement_timeout=0.2)
    assert error.value.failed["sqlstate"] == "57014"
    assert release.rows() == []


# Verification


def test_a_failed_verification_takes_its_migration_with_it(release: Release) -> None:
    release.add("1_good", "create table good (id int);", verify="select id from good;")
    release.add("2_bad", "create table bad (id int);", verify="select 1;\n\nselect wrong from bad;")
    with pytest.raises(ExecutionError) as error:
        release.migrate()
    assert error.value.failed["file"].endswith("verify/2_bad.sql")
    assert (error.value.failed["line"], error.value.failed["sqlstate"]) == (3, "42703")
    assert "its verification failed" in error.value.message
    assert (release.versions(), release.has("good"), release.has("bad")) == ([1], True, False)


def test_what_a_verification_writes_never_stays(release: Release) -> None:
    release.add(
        "1_counted",
        "create table counted (id int); create sequence steps;",
        verify="insert into counted values (1); create table left_over (); set local search_path to nowhere; set timezone to 'Asia/Tokyo';",
    )
    release.add("2_next", "create table zone as select current_setting('timezone') as name, current_schema() as schema;")
    release.migrate()
    assert release.database.execute("select * from counted") == []
    assert not release.has("left_over")
    assert release.database.execute("select * from zone") == [("UTC", "public")]


def test_a_verification_may_not_end_the_transaction(release: Release) -> None:
    release.add("1_escape", "create table t (id int);", verify="select 1;\ncommit;")
    with pytest.raises(ExecutionError) as error:
        release.migrate()
    assert error.value.failed["line"] == 2
    assert not release.has(LEDGER)


# What the plan allows


def test_baseline_records_without_running(release: Release) -> None:
    release.add_tables(1, 3)
    release.database.execute("create table t1 (id int); create table t2 (id int)")
    answer = release.migrate(baseline=2)
    assert (versions(answer["baselined"]), versions(answer["applied"])) == ([1, 2], [3])
    assert release.rows() == [Row(n, "table", True, checksum(f"create table t{n} (id int);")) for n in (1, 2, 3)]
    assert release.database.execute(f"select execution_time from {LEDGER} where version < 3") == [(-1,), (-1,)]
    assert release.history()[:2] == [(1, "baseline", "done"), (2, "baseline", "done")]


def test_baseline_needs_an_empty_ledger(release: Release) -> None:
    release.add_tables(2, 2)
    release.migrate()
    release.add_tables(1, 1)
    with pytest.raises(PlanError, match="empty ledger"):
        release.migrate(baseline=2)


def test_a_changed_file_is_refused_and_repaired_on_request(release: Release) -> None:
    script = release.add("1_view", "create view v as select 1 as one;")
    release.add_tables(2, 2)
    release.migrate()
    script.write_text("create view v as select 1 as one; -- explained")
    release.add_tables(3, 3)
    with pytest.raises(PlanError, match=r"Changed since .*\n.*1 \(view\)"):
        release.migrate()
    assert release.versions() == [1, 2], "nothing may run before everything is checked"

    answer = release.migrate(repair=frozenset([1]))
    assert (versions(answer["repaired"]), versions(answer["applied"])) == ([1], [3])
    assert release.rows()[0].checksum == checksum(script.read_text())
    (detail,) = release.database.execute(f"select detail from {HISTORY} where action = 'repair'")
    assert checksum("create view v as select 1 as one;").hex() in detail[0]
    assert not release.migrate(repair=frozenset([1]))["changed"]


@pytest.mark.parametrize(
    ("applied", "now", "explained"),
    [
        ("select 1;\nselect 2;\n", "select 1;\r\nselect 2;\r\n", "LF line endings and no byte order mark"),
        ("select 1;\r\nselect 2;\r\n", "select 1;\nselect 2;\n", "CRLF line endings and no byte order mark"),
        ("select 1;\n", "\ufeffselect 1;\n", "LF line endings and no byte order mark"),
    ],
)
def test_a_file_that_differs_only_in_line_endings_is_recognised(release: Release, applied: str, now: str, explained: str) -> None:
    script = release.add("1_text", applied)
    release.migrate()
    script.write_bytes(now.encode())
    with pytest.raises(PlanError, match="what was applied is this very text with " + explained):
        release.migrate()


def test_ignored_characters_make_line_endings_equal(release: Release) -> None:
    script = release.add("1_text", "create table lines as select 'a\r\nb' as line;\r\n")
    release.migrate(ignored_chars="\r")
    assert release.rows()[0].checksum == checksum("create table lines as select 'a\nb' as line;\n")
    assert release.database.execute("select line from lines") == [("a\r\nb",)], "what runs keeps them"
    script.write_bytes(b"create table lines as select 'a\nb' as line;\n")
    assert not release.migrate(ignored_chars="\r")["changed"]


def test_out_of_order_is_said_or_refused(release: Release) -> None:
    release.add_tables(2, 2)
    release.migrate()
    release.add_tables(1, 1)
    release.add_tables(3, 3)
    with pytest.raises(PlanError, match="not yet applied: 1"):
        release.migrate(out_of_order="fail")
    assert release.versions() == [2]
    answer = release.migrate()
    assert versions(answer["applied"]) == [1, 3]
    assert answer["warnings"] == ["Below the newest applied version 2, but not yet applied: 1."]


def test_a_missing_file_is_refused_or_ignored(release: Release) -> None:
    release.add_tables(1, 3)
    release.migrate()
    for name in ("2_table.up.sql", "2_table.down.sql"):
        (release.migrations / name).unlink()
    release.add_tables(4, 4)
    with pytest.raises(PlanError, match="missing among the migration files: 2"):
        release.migrate()
    assert release.versions() == [1, 2, 3]
    assert versions(release.migrate(missing="ignore")["applied"]) == [4]
    assert {each["version"]: each["state"] for each in release.info()["migrations"]}[2] == "missing"


def test_only_what_is_allowed_is_reverted(release: Release) -> None:
    release.add_tables(1, 2)
    release.add("3_simple", "create table simple ();")
    release.migrate()
    with pytest.raises(PlanError, match="needs allow_revert"):
        release.migrate(2)
    with pytest.raises(PlanError, match="not there for 3"):
        release.migrate(1, allow_revert=True)
    with pytest.raises(PlanError, match="not among the migration files"):
        release.migrate(17)
    assert release.versions() == [1, 2, 3]


def test_a_dirty_row_that_cannot_be_resumed_is_explained_and_repaired(release: Release) -> None:
    release.add_tables(1, 2)
    release.migrate(1)
    release.database.execute(f"update {LEDGER} set success = false")
    with pytest.raises(PlanError, match="begun but not finished"):
        release.migrate()
    release.database.execute("drop table t1")
    answer = release.migrate(repair=frozenset([1]))
    assert (versions(answer["repaired"]), versions(answer["applied"]), answer["dirty"]) == ([1], [1, 2], [])
    assert release.versions() == [1, 2]


# All in one transaction


def test_all_or_none(release: Release) -> None:
    release.add_tables(1, 2)
    release.add("3_broken", "select 1;\nselect broken;")
    empty = release.database.dump()
    with pytest.raises(ExecutionError) as error:
        release.migrate(transaction="all")
    assert (error.value.failed["line"], error.value.failed["sqlstate"]) == (2, "42703")
    assert error.value.failed["partial"]["applied"] == []
    assert "Nothing of this run is in the database" in error.value.recovery
    assert release.rows() == []
    release.database.execute(f"drop table {LEDGER}, {HISTORY}")
    assert release.database.dump() == empty

    release.add("3_broken", "select 1;", verify="select * from t2;")
    assert versions(release.migrate(transaction="all")["applied"]) == [1, 2, 3]
    assert release.database.execute(f"select count(distinct installed_on) from {LEDGER}") == [(1,)]
    release.add("4_outside", "-- no-transaction\nvacuum;")
    with pytest.raises(PlanError, match="cannot hold what is marked -- no-transaction: 4"):
        release.migrate(transaction="all")


# Where the ledger is


@pytest.mark.parametrize(
    ("name", "schema", "table"),
    [
        ("Other.Ledger", "other", "ledger"),
        ('"Sp ace"."Led""ger"', '"Sp ace"', '"Led""ger"'),
        ('"_Sqlx"', "public", '"_Sqlx"'),
        ('other."' + "x" * 63 + '"', "other", "x" * 63),
    ],
)
def test_the_ledger_can_have_another_place_and_name(release: Release, name: str, schema: str, table: str) -> None:
    if schema != "public":
        release.database.execute(f"create schema {schema}")
    release.add_tables(1, 2)
    release.migrate(ledger_table=name)
    assert [row.version for row in release.rows(f"{schema}.{table}")] == [1, 2]
    assert not release.has(LEDGER)
    assert not release.migrate(ledger_table=name)["changed"]
    assert release.info(ledger_table=name)["current_version"] == 2
    assert versions(release.migrate(0, ledger_table=name, allow_revert=True)["reverted"]) == [2, 1]


@pytest.mark.parametrize("name", ["", "a.b.c", "t; drop table t", 'un"closed', "sp ace", "1a", "a."])
def test_what_is_no_name_is_refused(release: Release, name: str) -> None:
    release.add_tables(1, 1)
    with pytest.raises(LedgerError, match="is not the name of a table"):
        release.migrate(ledger_table=name)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("create table _sqlx_migrations (version int primary key)", "version should be bigint, is integer"),
        ("create view _sqlx_migrations as select 1 as version", "it is not a table"),
        ("create sequence _sqlx_migrations", "it is not a table"),
        (SQLX_LEDGER + "alter table _sqlx_migrations drop column checksum", "checksum should be bytea, is missing"),
    ],
)
def test_a_wrong_table_at_the_ledgers_name_is_left_alone(release: Release, made: str, said: str) -> None:
    release.add_tables(1, 1)
    release.database.execute(made)
    before = release.database.dump()
    for verb in (release.migrate, release.predict, release.info):
        with pytest.raises(LedgerError, match=said):
            verb()
    assert release.database.dump() == before


def test_a_row_without_a_checksum_is_a_changed_file(release: Release) -> None:
    release.add_tables(1, 2)
    release.migrate()
    release.database.execute(f"alter table {LEDGER} alter checksum drop not null; update {LEDGER} set checksum = null where version = 1")
    for verb in (release.migrate, release.predict):
        with pytest.raises(PlanError, match=r"1 \(table\): recorded nothing, file "):
            verb()
    assert release.info()["current_version"] == 2
    assert release.migrate(repair=frozenset({1}))["changed"]


def test_the_ledger_stays_where_search_path_does_not(release: Release) -> None:
    release.database.execute("create schema app")
    release.add("1_path", "select set_config('search_path', '', false);")
    release.add("2_role_path", f"alter role {release.database.owner} set search_path to app, public;")
    release.add("3_table", "create table here (id int);")
    release.migrate()
    release.add("4_table", "create table there (id int);")
    release.migrate()
    assert release.versions() == [1, 2, 3, 4]
    assert (release.has("public._sqlx_migrations"), release.has("app._sqlx_migrations")) == (True, False)
    assert (release.has("public.here"), release.has("app.there")) == (True, True)


def test_a_migration_that_takes_the_ledger_away_does_not_happen(release: Release) -> None:
    release.add_tables(1, 1)
    release.add("2_fresh_start", "drop schema public cascade; create schema public;")
    release.database.execute(f"alter schema public owner to {release.database.owner}", user="postgres")
    with pytest.raises(ExecutionError) as error:
        release.migrate()
    assert LEDGER in error.value.message
    assert (release.versions(), release.has("t1")) == ([1], True)


def test_an_application_can_read_the_ledger_but_not_write_it(release: Release) -> None:
    app = f"{release.database.owner}_app"
    server = release.database.server
    server.execute(f"create role {app} login")
    try:
        release.database.execute(f"alter default privileges grant all on tables to {app}; alter default privileges grant insert on tables to public")
        release.add_tables(1, 1)
        release.migrate()
        for table in (LEDGER, HISTORY):
            rights = "select has_table_privilege(%s, %s, 'select'), has_table_privilege(%s, %s, 'insert, update, delete, truncate, references, trigger')"
            assert release.database.execute(rights, [app, table] * 2) == [(True, False)], table
        assert release.database.execute("select has_table_privilege(%s, 't1', 'insert')", [app]) == [(True,)]
    finally:
        release.database.execute(f"drop owned by {app}", user="postgres")
        server.execute(f"drop role {app}")


def test_history_tells_who_did_what(release: Release) -> None:
    release.add_tables(1, 1)
    release.add("2_broken", "select broken;")
    with pytest.raises(ExecutionError):
        release.migrate()
    (release.migrations / "2_broken.sql").unlink()
    answer = release.migrate(0, allow_revert=True)
    assert release.history() == [(1, "apply", "done"), (2, "apply", "failed"), (1, "revert", "done")]
    told = release.database.execute(f"select actor, controller, release, duration_ns > 0, detail from {HISTORY} order by at")
    assert told[2] == (release.database.owner, "tests", answer["release"], True, None)
    assert "42703" in told[1][4]


def test_information_is_the_whole_picture(release: Release) -> None:
    release.add_tables(1, 2)
    release.migrate(1)
    info = release.info()
    assert [(each["version"], each["description"], each["state"]) for each in info["migrations"]] == [
        (1, "table", "installed"),
        (2, "table", "pending"),
    ]
    assert (info["current_version"], info["pending"], info["dirty"], info["in_recovery"]) == (1, [2], [], False)
    assert info["server_version"].split(".")[0] == str(release.database.server.major)
    assert info["installed_release"] != info["release"]
    release.migrate()
    assert release.info()["installed_release"] == info["release"]
