"""The files of regular jobs. What systemd makes of timers is shown on real hosts, by the scenario `maintenance`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List

import pytest
from support.playbooks import HOST, PlaybookFailed, Playbooks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's")


def job_timers(**arguments: Any) -> Dict[str, Any]:
    return {"schema_registry.postgresql.job_timers": arguments}


def test_files_come_and_go(tmp_path: Path) -> None:
    playbooks = Playbooks(tmp_path / "ansible")
    script, table, stale = (tmp_path / "jobs" / name for name in ("script", "table", "stale"))
    wanted = job_timers(
        files=[{"path": str(script), "content": "#!/bin/sh\n", "mode": "0755"}, {"path": str(table), "content": "0 3 * * *\n"}], absent=[str(stale)]
    )

    dry = playbooks.run([wanted], "--check", "--diff")
    assert dry.changed[HOST] == 1
    assert "+0 3 * * *" in dry.output
    assert not script.parent.exists()

    assert playbooks.run([wanted]).changed[HOST] == 1
    assert (script.read_text(), table.read_text()) == ("#!/bin/sh\n", "0 3 * * *\n")
    assert (script.stat().st_mode & 0o777, table.stat().st_mode & 0o777) == (0o755, 0o644)
    assert playbooks.run([wanted], "--check").changed[HOST] == 0

    stale.write_text("")
    table.write_text("by hand")
    script.chmod(0o777)
    assert playbooks.run([wanted]).changed[HOST] == 1
    assert not stale.exists()
    assert (table.read_text(), script.stat().st_mode & 0o777) == ("0 3 * * *\n", 0o755)


@pytest.mark.parametrize(
    ("files", "absent"),
    [(["table"], []), (["{0}"], []), ([], ["{0}"]), (["{0}/table"], ["{0}/table"])],
    ids=["relative", "directory", "absent directory", "both"],
)
def test_a_wrong_path_is_named_before_anything_is_written(tmp_path: Path, files: List[str], absent: List[str]) -> None:
    good = tmp_path / "good"
    contents = [{"path": path.format(tmp_path), "content": "text\n"} for path in [str(good), *files]]
    with pytest.raises(PlaybookFailed, match="Nothing was changed"):
        Playbooks(tmp_path / "ansible").run([job_timers(files=contents, absent=[path.format(tmp_path) for path in absent])])
    assert not good.exists()


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="where systemd runs, it would follow")
def test_timers_without_systemd_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "job.timer"
    with pytest.raises(PlaybookFailed, match=r"no systemd running here that could follow job\.timer"):
        Playbooks(tmp_path / "ansible").run([job_timers(files=[{"path": str(path), "content": "[Timer]\n"}], timers=["job.timer"])])
    assert not path.exists()
