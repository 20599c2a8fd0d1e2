"""The modules as tasks of a playbook."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from support.migrations import LEDGER, Release
from support.play import login, play, task


@pytest.fixture
def later(release: Release) -> Release:
    """A further directory of migrations for the same database."""
    return Release(release.directory / "later", release.database)


def versions(entries: List[Dict[str, Any]]) -> List[int]:
    return [entry["version"] for entry in entries]


def shown(result: Dict[str, Any]) -> List[str]:
    """What a task's diff adds."""
    return [part["after"] for part in result.get("diff", [])]


def test_a_database_is_brought_to_its_version_and_stays_there(release: Release, later: Release, tmp_path: Path) -> None:
    release.add("1_parent", "create table parent (id int); -- {{ not_a_template }}", "drop table parent;", verify="select id from parent;")
    release.add("2_child", "create table child (id int);", "drop table child;")
    later.add("3_later", "create table later (id int);", "drop table later;")
    common = login(release.database, verify=str(release.proofs))
    first = {**common, "source": "migrations"}
    both = {**common, "source": [str(release.migrations), str(later.migrations)]}
    played = play(
        tmp_path,
        [
            task("migration", first, check_mode=True, diff=True),
            task("migration_info", {**login(release.database), "source": "migrations"}),
            task("migration", first, diff=True),
            task("migration", first, diff=True),
            task("migration", both, check_mode=True, diff=True),
            task("migration", both),
            task("migration", {**both, "version": "1", "allow_revert": True}, check_mode=True, diff=True),
            task("migration", {**both, "version": "1", "allow_revert": True}),
            task("migration", {**both, "version": "1", "allow_revert": True}, diff=True),
            task("migration_info", {**login(release.database), "source": both["source"], "fingerprint_text": True}),
        ],
    )
    predicted, empty, made, again, more, all_of_them, back, reverted, stayed, info = played.results
    assert [result["changed"] for result in played.results] == [True, False, True, False, True, True, True, True, False, False]
    assert not any(result.get("warnings") or result.get("deprecations") for result in played.results)

    assert (empty["ledger_exists"], empty["pending"], empty["current_version"]) == (False, [1, 2], 0)
    assert shown(predicted) == shown(made) == ["create table parent (id int); -- {{ not_a_template }}", "create table child (id int);"]
    assert predicted["diff"][0]["after_header"] == str(release.migrations / "1_parent.up.sql")
    assert (versions(predicted["applied"]), predicted["to_version"]) == (versions(made["applied"]), made["to_version"]) == ([1, 2], 2)
    assert made["applied"][0].keys() == {"version", "description", "checksum", "duration", "notices", "statements", "sqlx_cli_can_run"}
    assert shown(again) == []
    assert again["fingerprint"] == made["fingerprint"]
    assert (shown(more), versions(more["applied"])) == (["create table later (id int);"], [3])
    assert versions(all_of_them["applied"]) == [3]
    assert shown(back) == ["drop table later;", "drop table child;"]
    assert versions(back["reverted"]) == versions(reverted["reverted"]) == [3, 2]
    assert (versions(stayed["pending"]), shown(stayed)) == ([2, 3], [])
    assert [each["state"] for each in info["migrations"]] == ["installed", "pending", "pending"]
    assert info["release"] == all_of_them["release"] != info["installed_release"]
    assert "table public.parent" in info["fingerprint_text"]
    assert release.database.execute("select distinct controller from _sqlx_migrations_history")[0][0].endswith("@" + socket.gethostname())


def test_where_files_are_and_how_they_travel(release: Release, later: Release, tmp_path: Path) -> None:
    """On the host, encrypted, in the background, for a server that is not there yet."""
    release.add_tables(1, 2)
    secret = VaultLib([("default", VaultSecret(b"a word"))])
    later.add("3_secret", secret.encrypt("create table secret (id int);").decode())
    (tmp_path / "word").write_text("a word")
    host, vaulted = login(release.database, source=str(release.migrations)), [str(release.migrations), str(later.migrations)]
    nowhere = {**host, "login_port": 1, "source": vaulted}
    played = play(
        tmp_path,
        [
            task("migration", {**nowhere, "assume_empty": True}, check_mode=True, diff=True),
            task("migration", {**host, "remote_src": True, "login_port": 1, "assume_empty": True}, check_mode=True),
            task("migration", {**host, "remote_src": True}, check_mode=True, diff=True),
            task("migration", {**host, "remote_src": True, "version": "1"}, diff=True),
            task("migration_info", {**host, "remote_src": True}),
            task("migration", host, **{"async": 30, "poll": 1}),
            task("migration", host, **{"async": 30, "poll": 1}),
            task("migration", {**host, "source": vaulted}, check_mode=True, **{"async": 30, "poll": 1}),
            task("migration", {**host, "source": vaulted}, diff=True),
        ],
        *("--vault-password-file", str(tmp_path / "word")),
    )
    assert len(played.results) == 9, played.results[-1]["msg"]
    absent, absent_there, predicted, made, info, background, again, vault_check, vault = played.results
    assert (absent["changed"], versions(absent["applied"])) == (True, [1, 2, 3])
    assert (absent_there["changed"], versions(absent_there["applied"])) == (True, [1, 2])
    assert shown(absent)[2] == "create table secret (id int);"
    assert (predicted["changed"], versions(predicted["applied"]), shown(predicted)) == (
        True,
        [1, 2],
        ["create table t1 (id int);", "create table t2 (id int);"],
    )
    assert (versions(made["applied"]), shown(made)) == ([1], ["create table t1 (id int);"])
    assert info["pending"] == [2]
    assert (background["changed"], versions(background["applied"]), again["changed"]) == (True, [2], False)
    assert (vault_check["changed"], versions(vault_check["applied"])) == (True, [3])
    assert (versions(vault["applied"]), shown(vault)) == ([3], ["create table secret (id int);"])
    assert release.versions() == [1, 2, 3]


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_wrong_inputs_are_one_clear_error_and_change_nothing(release: Release, tmp_path: Path, closed_port: int) -> None:
    release.add_tables(1, 2)
    release.migrate()
    release.add_tables(3, 3)
    before = release.database.dump(data=True)

    def variant(name: str, files: Dict[str, str], *absent: str) -> str:
        """The release, with some files in place of its own."""
        directory = tmp_path / name
        directory.mkdir()
        for path in release.migrations.iterdir():
            if path.name not in absent:
                (directory / path.name).write_bytes(path.read_bytes())
        for file, text in files.items():
            (directory / file).write_text(text)
        return str(directory)

    good = login(release.database, source=str(release.migrations))
    wrong: List[Any] = [
        ({**good, "source": variant("misnamed", {"V4__x.sql": ""})}, "V4__x.sql: expected an integer version"),
        ({**good, "source": variant("ignored", {"4-x.sql": ""})}, "4-x.sql: misnamed, it would never run"),
        ({**good, "source": variant("twice", {"03_again.sql": ""})}, "version 3 is also in"),
        ({**good, "source": variant("edited", {"2_table.up.sql": "create table t2 (id bigint);"})}, r"Changed since they were applied .*\n  2 \(table\)"),
        ({**good, "source": variant("missing", {}, "1_table.up.sql", "1_table.down.sql")}, "missing among the migration files: 1"),
        ({**good, "source": variant("begin", {"4_begin.sql": "begin;\nselect 1;"})}, "4_begin.sql, line 1: 'begin' would begin or end a transaction"),
        ({**good, "source": str(tmp_path / "nowhere")}, "nowhere"),
        ({**good, "source": variant("unverified", {}), "verify": str(tmp_path / "nowhere")}, "nowhere"),
        ({**good, "login_password": "wrong"}, "password authentication failed"),
        ({**good, "login_port": closed_port}, "[Cc]onnection refused"),
        ({**good, "login_db": "never_was"}, '"never_was" does not exist'),
        ({**good, "session_role": "nobody"}, "nobody"),
        ({**good, "version": "newest"}, "'newest' is neither 'latest' nor a version"),
        ({**good, "version": "17"}, "Version 17 is not among the migration files"),
        ({**good, "version": "1"}, "needs allow_revert"),
        ({**good, "baseline": 9}, "baseline 9 is not among"),
        ({**good, "ledger_table": "a b"}, "'a b' is not the name of a table"),
        ({**good, "out_of_order": "maybe"}, "value of out_of_order must be one of"),
        ({**good, "sauce": "x"}, "sauce"),
    ]
    played = play(tmp_path, [task("migration", arguments, ignore_errors=True, diff=True) for arguments, _unused in wrong])
    assert len(played.results) == len(wrong)
    for result, (_unused, said) in zip(played.results, wrong):
        assert result["failed"] and not result["changed"], said
        assert re.search(said, result["msg"]), result["msg"]
        assert "Traceback" not in str(result), result
        assert release.database.password not in str(result)
    assert release.database.dump(data=True) == before


def test_a_broken_statement_is_shown_with_its_place(release: Release, tmp_path: Path) -> None:
    release.add("1_good", "create table good ();")
    script = release.add("2_broken", "create table half ();\n\ncreate tabel x ();\ncreate table other ();")
    arguments = login(release.database, source="migrations")
    played = play(tmp_path, [task("migration", arguments, ignore_errors=True), task("migration_info", arguments)])
    failed, info = played.results
    assert failed["msg"].splitlines()[:2] == [
        f'{script}, line 3, column 8: syntax error at or near "tabel" (SQLSTATE 42601)',
        "  statement: create tabel x ()",
    ]
    assert failed["msg"].endswith(failed["recovery"])
    assert (failed["file"], failed["line"], failed["column"], failed["sqlstate"]) == (str(script), 3, 8, "42601")
    assert versions(failed["partial"]["applied"]) == [1]
    assert (info["current_version"], info["pending"]) == (1, [2])
    assert not release.has("half")


TRAP = """
import syslog
def caught(*arguments):
    with open({path!r}, "a") as log:
        print(arguments, file=log)
syslog.syslog = caught
try:
    from systemd import journal
    journal.send = lambda *arguments, **fields: caught(arguments, fields)
except ImportError:
    pass
"""


def test_neither_sql_nor_password_reach_a_log(release: Release, tmp_path: Path) -> None:
    trap, log = tmp_path / "trap", tmp_path / "log"
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(TRAP.format(path=str(log)))
    release.add("1_secret", "create table secret as select 'topsecret' as word;")
    release.add("2_broken", "select 'alsosecret'; select 1 / 0;")
    environment = {"environment": {"PYTHONPATH": str(trap)}}
    arguments = login(release.database, source="migrations")
    played = play(
        tmp_path,
        [
            {"ansible.builtin.ping": {"data": "this is logged"}, **environment},
            task("migration", {**arguments, "version": "1"}, **environment),
            task("migration_info", arguments, **environment),
            task("migration", {**arguments, "login_password": "guessed wrong"}, ignore_errors=True, **environment),
            task("migration", arguments, ignore_errors=True, **environment),
        ],
        "-vvv",
    )
    assert "this is logged" in log.read_text(), "otherwise nothing would be proven"
    for text in (played.output, log.read_text()):
        assert release.database.password not in text
        assert "guessed wrong" not in text
        assert "topsecret" not in text
    assert "alsosecret" not in log.read_text()
    # What failed is told whole, and nothing of it is masked.
    assert played.results[4]["statement"] == "select 1 / 0"
    assert played.results[2]["migrations"][0]["description"] == "secret"
    assert played.results[1]["applied"][0]["description"] == "secret"


def test_lint_fails_with_what_is_wrong(release: Release, tmp_path: Path) -> None:
    release.add("1_good", "create table good (id int);", "drop table good;", verify="select id from good;")
    silent = dict.fromkeys(("squawk", "missing-down", "transaction-control", "outside-transaction", "misplaced-marker"), "ignore")
    good = {"source": "migrations", "verify": "verify", "rules": {"squawk": "ignore"}}
    release.add("2_bad", "begin;\ncreate table bad (id int);\ncommit;", verify="select 1;")
    release.add("3_index", "create index concurrently i on good (id);", "-- No-Transaction\nselect 1;", verify="select 1;")
    played = play(
        tmp_path,
        [
            task("migration_lint", good, ignore_errors=True),
            task("migration_lint", {**good, "rules": {"nonsense": "error"}}, ignore_errors=True),
            task("migration_lint", {**good, "rules": silent}),
        ],
    )
    bad, nonsense, content = played.results
    assert [line.strip().replace(str(release.migrations) + "/", "").split(": ")[0] + " " + line.split("(")[-1] for line in bad["msg"].splitlines()[1:]] == [
        "2_bad.sql:1 missing-down)",
        "2_bad.sql:1 transaction-control)",
        "2_bad.sql:3 transaction-control)",
        "3_index.down.sql:1 misplaced-marker)",
        "3_index.up.sql:1 outside-transaction)",
    ]
    assert "nonsense" in nonsense["msg"]
    assert (content.get("failed", False), content["changed"], content["versions"]) == (False, False, [1, 2, 3])
    assert not release.has(LEDGER)
