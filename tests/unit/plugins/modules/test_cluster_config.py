"""The module cluster_config, with PostgreSQL's own programs reading the files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.schema_registry.postgresql.plugins.modules import cluster_config
from support.postgres import installed_majors

DROPIN = "conf.d/50-test.conf"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the module becomes the user postgres, which only root can")


@pytest.fixture(params=installed_majors() or [0], ids=lambda major: f"pg{major}")
def live(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration directory of a cluster that is not running."""
    directory = tmp_path / "etc"
    (directory / "conf.d").mkdir(parents=True)
    (directory / "postgresql.conf").write_text("include_dir 'conf.d'\n")
    (directory / "pg_hba.conf").write_text("# as the administrator wrote it\nlocal all all peer\n")
    (directory / "pg_ident.conf").write_text("")
    monkeypatch.setattr(cluster_config._cluster, "configuration_directory", lambda _version, _cluster: str(directory))
    monkeypatch.setenv("TEST_MAJOR", str(request.param))
    return directory


def run(capsys: pytest.CaptureFixture[str], files: Dict[str, str], **more: Any) -> Dict[str, Any]:
    """Run the module; its result."""
    arguments = {
        "version": os.environ["TEST_MAJOR"],
        "cluster": "any",
        "files": [{"name": name, "content": content} for name, content in files.items()],
        **more,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        cluster_config.main()
    result: Dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_good_files_are_written_once(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And belong to the server's user, settings readable for everybody."""
    files = {DROPIN: "# ours\nwork_mem = '5MB'\n", "pg_hba.conf": "# ours\nlocal all all peer map=m\n", "pg_ident.conf": '# ours\nm "a b" c\n'}
    result = run(capsys, files)
    assert result["changed"] and len(result["written"]) == 3 and len(result["diff"]) == 3
    for name, content in files.items():
        path = live / name
        assert path.read_text() == content
        assert path.owner() == path.group() == "postgres"
        assert oct(path.stat().st_mode)[-3:] == ("644" if name == DROPIN else "640")
    assert not run(capsys, files)["changed"]


def test_a_changed_mode_is_put_right(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the text is as it should be."""
    files = {DROPIN: "# ours\n"}
    run(capsys, files)
    (live / DROPIN).chmod(0o600)
    assert run(capsys, files, _ansible_check_mode=True)["changed"]
    assert run(capsys, files)["changed"]
    assert oct((live / DROPIN).stat().st_mode)[-3:] == "644"


def test_what_somebody_else_wrote_is_kept_and_our_own_is_not(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line tells whose file it is."""
    [kept] = run(capsys, {"pg_hba.conf": "# ours\nlocal all all peer\n"})["kept"]
    assert "as the administrator wrote it" in Path(kept).read_text()
    assert run(capsys, {"pg_hba.conf": "# ours\nlocal all all reject\n"})["kept"] == []


def test_no_copy_is_kept_if_nobody_wants_one(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new cluster's files are nobody's."""
    assert run(capsys, {"pg_hba.conf": "# ours\nlocal all all peer\n"}, backup=False)["kept"] == []
    assert len(list(live.iterdir())) == 4


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"pg_hba.conf": "# ours\nlocal all all peer\nhost all all 10.0.0.0/80 reject\n"}, "pg_hba.conf line 3: invalid CIDR mask"),
        ({"pg_hba.conf": "# ours\nlocal all all\n"}, "pg_hba.conf line 2: end-of-line before authentication method"),
        ({"pg_hba.conf": '# ours\nlocal all "a b" passwort\n'}, 'invalid authentication method "passwort"'),
        ({"pg_hba.conf": "# ours\nlocl all all peer\nlocal all all pier\n"}, 'line 3: invalid authentication method "pier"'),
        ({DROPIN: "# ours\nshard_buffers = 1GB\n"}, "conf.d/50-test.conf"),
        ({DROPIN: "# ours\nshared_buffers = lots\n"}, 'invalid value for parameter "shared_buffers"'),
        ({DROPIN: "# ours\nshared_buffers = 'one\n"}, "syntax error"),
    ],
)
@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_what_postgresql_does_not_accept_is_not_written(live: Path, capsys: pytest.CaptureFixture[str], files: Dict[str, str], word: str, check: bool) -> None:
    """Nor is any other file of the same call."""
    before = {path: path.read_text() for path in live.rglob("*") if path.is_file()}
    result = run(capsys, {"pg_ident.conf": "# ours\nm a b\n", **files}, _ansible_check_mode=check)
    assert result["failed"] and word in result["msg"] and str(live) in result["msg"]
    assert {path: path.read_text() for path in live.rglob("*") if path.is_file()} == before


def test_a_broken_map_is_not_written(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PostgreSQL 14 cannot say what is wrong with one."""
    result = run(capsys, {"pg_ident.conf": "# ours\nm only_two\n"})
    assert bool(result.get("failed")) is (int(os.environ["TEST_MAJOR"]) >= 15)


def test_a_library_must_exist(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server would not start. In check mode its package may be one that a task before would have installed."""
    files = {DROPIN: "# ours\nshared_preload_libraries = 'pg_stat_statements, no_such_library'\n"}
    assert "no_such_library.so does not exist" in run(capsys, files)["msg"]
    assert not (live / DROPIN).exists()
    assert run(capsys, files, _ansible_check_mode=True)["changed"]


def test_a_library_may_be_named_as_postgresql_allows(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With quotes, with $libdir, with spaces."""
    assert run(capsys, {DROPIN: "# ours\nshared_preload_libraries = '\"auto_explain\" , $libdir/pg_stat_statements'\n"})["changed"]


def test_check_mode_tells_and_writes_nothing(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a file nor a directory."""
    shutil.rmtree(live)
    result = run(capsys, {DROPIN: "# ours\n", "pg_hba.conf": "# ours\nlocal all all peer\n"}, _ansible_check_mode=True)
    assert result["changed"] and result["diff"][0] == {
        "before": "",
        "after": "# ours\n",
        "before_header": str(live / DROPIN),
        "after_header": str(live / DROPIN),
    }
    assert not live.exists()


@pytest.mark.parametrize("name", ["postgresql.conf", "../x", "conf.d/../x.conf", "conf.d/.hidden.conf", "conf.d/x.txt", "/etc/passwd"])
def test_other_files_are_none_of_its_business(live: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """What postgresql-common and the administrator own."""
    assert "is neither" in run(capsys, {name: "# ours\n"})["msg"]


@pytest.mark.usefixtures("live")
def test_no_scratch_directory_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the files were good or bad."""
    made = []
    mkdtemp = cluster_config.tempfile.mkdtemp
    monkeypatch.setattr(cluster_config.tempfile, "mkdtemp", lambda **options: made.append(mkdtemp(**options)) or made[-1])
    run(capsys, {"pg_hba.conf": "# ours\nnonsense\n"})
    run(capsys, {"pg_hba.conf": "# ours\nlocal all all peer\n"})
    scratch = [path for path in made if "ansible-postgresql-" in path]
    assert len(scratch) == 2
    assert not any(Path(path).exists() for path in scratch)
