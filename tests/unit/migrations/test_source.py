"""Directories are read whole, and everything that is wrong with them is said at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping, Optional, Union

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import checksum, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import SourceError
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.source import Script


def directory(path: Path, files: Mapping[str, Union[str, bytes]]) -> str:
    """A directory with these files."""
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def problems(*directories: str, verify: Optional[str] = None) -> list[str]:
    """What is wrong with a release; each problem is a line of the message, too."""
    with pytest.raises(SourceError) as error:
        source.read(directories, verify)
    found: list[str] = error.value.failed["problems"]
    assert error.value.message.splitlines()[1:] == ["  " + problem for problem in found]
    assert "Nothing was changed" in error.value.text
    return found


def test_a_release_has_every_version_in_order_with_its_scripts(tmp_path: Path) -> None:
    here = directory(
        tmp_path / "m",
        {"10_b.up.sql": "b", "10_b.down.sql": "-b", "-1_first.sql": "é\r\n", "9_a_b.sql": "a", "3_gone.down.sql": "x", "notes.txt": "", "9_a.sql~": ""},
    )
    proofs = directory(tmp_path / "v", {"10_anything.sql": "proof"})
    found = source.read([here], proofs)
    assert [(each.version, each.description, Path(each.up.path).name) for each in found.migrations] == [
        (-1, "first", "-1_first.sql"),
        (9, "a b", "9_a_b.sql"),
        (10, "b", "10_b.up.sql"),
    ]
    first, second, third = found.migrations
    assert (first.up.text, first.checksum) == ("é\r\n", checksum.of("é\r\n".encode()))
    assert (first.down, first.verify, second.down, second.verify) == (None, None, None, None)
    assert third.up == Script(here + "/10_b.up.sql", b"b")
    assert third.down == Script(here + "/10_b.down.sql", b"-b")
    assert third.verify == Script(proofs + "/10_anything.sql", b"proof")
    assert found.only_down == {3}
    assert found.release == checksum.release((each.version, each.checksum) for each in found.migrations)


def test_directories_are_read_together_and_none_is_entered(tmp_path: Path) -> None:
    one = directory(tmp_path / "1", {"1_a.up.sql": ""})
    two = directory(tmp_path / "2", {"2_b.sql": "", "1_a.down.sql": ""})
    (tmp_path / "2" / "1_x.sql").mkdir()
    (tmp_path / "2" / "1_x.sql" / "3_c.sql").touch()
    found = source.read([one, two])
    assert [each.version for each in found.migrations] == [1, 2]
    assert found.migrations[0].down


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {})
    (tmp_path / "shared.sql").write_text("select 1")
    os.symlink("../shared.sql", here + "/1_a.sql")
    assert source.read([here]).migrations[0].up == Script(here + "/1_a.sql", b"select 1")


def test_ignored_characters_do_not_count_but_stay_in_the_script(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"1_a.sql": "select 1;\r\n"})
    (migration,) = source.read([here], ignored_chars="\r").migrations
    assert (migration.checksum, migration.up.content) == (checksum.of(b"select 1;\n"), b"select 1;\r\n")


def test_the_caller_decides_how_a_file_is_read(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"1_a.sql": "secret"})
    found = source.read([here], read_file=lambda path: Path(path).read_bytes()[::-1])
    assert found.migrations[0].up.text == "terces"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("seed_data.sql", "expected an integer version"),
        ("9223372036854775808_x.sql", "64-bit"),
        ("1.sql", "misnamed"),
        ("1-a.sql", "misnamed"),
        ("readme.sql", "misnamed"),
        ("1_a.SQL", "misnamed"),
    ],
)
def test_a_misnamed_file_is_a_problem(tmp_path: Path, name: str, problem: str) -> None:
    here = directory(tmp_path / "m", {"5_good.sql": "", name: ""})
    (found,) = problems(here)
    assert found.startswith(f"{here}/{name}: ")
    assert problem in found


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("007_a.sql", "7_b.sql"),
        ("1_a.sql", "1_a.up.sql"),
        ("1_a.up.sql", "1_b.up.sql"),
        ("1_a.down.sql", "1_b.down.sql"),
        ("+1_a.sql", "1_a.sql"),
    ],
)
def test_a_version_that_is_there_twice_is_a_problem(tmp_path: Path, first: str, second: str) -> None:
    here = directory(tmp_path / "m", {first: "", second: "", "9_x.sql": ""})
    (found,) = problems(here)
    assert found.count(here) == 2
    assert first in found
    assert second in found


def test_a_version_in_two_directories_is_a_problem(tmp_path: Path) -> None:
    one, two = directory(tmp_path / "1", {"1_a.sql": ""}), directory(tmp_path / "2", {"1_b.sql": ""})
    assert problems(one, two) == [f"{two}/1_b.sql: version 1 is also in {one}/1_a.sql"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"\n\xff", "line 2: not UTF-8"), ("ä".encode("latin-1"), "line 1: not UTF-8"), (b"\nb\n\0", "line 3: a NUL byte")],
)
def test_bytes_that_postgresql_cannot_take_are_a_problem(tmp_path: Path, content: bytes, problem: str) -> None:
    here = directory(tmp_path / "m", {"1_a.sql": content})
    (found,) = problems(here)
    assert found.startswith(f"{here}/1_a.sql, {problem}")


def test_a_name_that_is_not_utf_8_is_read_as_sqlx_reads_it(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {})
    with open(os.fsencode(here) + b"/1_\xff.sql", "wb") as file:
        file.write(b"select 1")
    (migration,) = source.read([here]).migrations
    assert migration.description == "\N{REPLACEMENT CHARACTER}"
    assert migration.up.path == here + "/1_\N{REPLACEMENT CHARACTER}.sql"


@pytest.mark.parametrize("files", [{}, {"notes.txt": ""}, {"1_a.down.sql": ""}])
def test_a_directory_without_migrations_is_a_problem(tmp_path: Path, files: Mapping[str, str]) -> None:
    here = directory(tmp_path / "m", files)
    assert problems(here) == [f"{here}: no migration is here"]


def test_a_directory_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert problems(f"{tmp_path}/missing") == [f"{tmp_path}/missing: No such file or directory"]
    assert problems(f"{tmp_path}/file") == [f"{tmp_path}/file: Not a directory"]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"3_ok.sql": "", "4_secret.sql": ""})
    os.symlink("nowhere", here + "/1_dangling.sql")
    os.symlink("2_loop.sql", here + "/2_loop.sql")

    def read(path: str) -> bytes:
        if "secret" in path:  # root may read everything
            raise PermissionError(13, "Permission denied")
        return Path(path).read_bytes()

    with pytest.raises(SourceError) as error:
        source.read([here], read_file=read)
    assert error.value.failed["problems"] == [
        f"{here}/1_dangling.sql: No such file or directory",
        f"{here}/2_loop.sql: Too many levels of symbolic links",
        f"{here}/4_secret.sql: Permission denied",
    ]


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"x_y.sql": "", "1.sql": "", "1_a.sql": b"\xff", "2_a.sql": b"\0", "2_b.sql": ""})
    proofs = directory(tmp_path / "v", {"z_z.sql": "", "2_ok.sql": "\0"})
    found = problems(here, f"{tmp_path}/missing", verify=proofs)
    assert [os.path.basename(problem.split(":")[0].split(",")[0]) for problem in found] == [
        *("1.sql", "1_a.sql", "2_a.sql", "2_b.sql", "x_y.sql", "missing"),
        *("2_ok.sql", "z_z.sql"),
    ]


def test_a_verification_without_its_migration_is_a_problem(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"1_a.sql": "", "2_b.down.sql": ""})
    proofs = directory(tmp_path / "v", {"1_a.sql": "", "2_b.sql": "", "3_c.sql": ""})
    assert problems(here, verify=proofs) == [
        f"{proofs}/2_b.sql: verifies version 2, which has no migration",
        f"{proofs}/3_c.sql: verifies version 3, which has no migration",
    ]


def test_a_verification_is_named_for_its_version_alone(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"1_a.sql": "", "2_b.sql": ""})
    proofs = directory(tmp_path / "v", {"1_a.up.sql": "", "2_b.down.sql": ""})
    found = problems(here, verify=proofs)
    assert [problem.split(": ")[1] for problem in found] == ["a verification script is named <version>_<name>.sql"] * 2


def test_two_verifications_of_a_version_are_a_problem(tmp_path: Path) -> None:
    here = directory(tmp_path / "m", {"1_a.sql": ""})
    proofs = directory(tmp_path / "v", {"1_a.sql": "", "01_a.sql": ""})
    assert problems(here, verify=proofs) == [f"{proofs}/1_a.sql: version 1 is also in {proofs}/01_a.sql"]


@pytest.mark.parametrize(
    ("content", "recognised"),
    [
        (b"-- no-transaction", True),
        (b"-- no-transaction\nselect 1", True),
        (b"-- no-transactional notes", True),
        (b"--no-transaction", False),
        (b"--  no-transaction", False),
        (b" -- no-transaction", False),
        (b"\n-- no-transaction", False),
        (b"-- No-Transaction", False),
        (b"\xef\xbb\xbf-- no-transaction", False),
        (b"", False),
    ],
)
def test_the_marker_is_recognised_at_the_first_byte_only(content: bytes, recognised: bool) -> None:
    assert Script("1_a.sql", content).no_transaction is recognised
