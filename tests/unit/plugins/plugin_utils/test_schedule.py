"""From cron's words to systemd's: what is expected is crontab(5)'s meaning, and systemd itself reads what comes out."""

from __future__ import annotations

import shutil
import subprocess
from typing import List

import pytest
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._schedule import on_calendar

MEANT = {
    "30 4 * * *": ["*-*-* 04:30:00"],
    "* * * * *": ["*-*-* *:*:00"],
    "*/20 * * * *": ["*-*-* *:00,20,40:00"],
    "17 */6 * * *": ["*-*-* 00,06,12,18:17:00"],
    "0 8-17/3 * * *": ["*-*-* 08,11,14,17:00:00"],
    "0 7,13,19 * * *": ["*-*-* 07,13,19:00:00"],
    "0 0 1,15 */6 *": ["*-01,07-01,15 00:00:00"],
    "0 0 * FEB-apr *": ["*-02,03,04-* 00:00:00"],
    "0 1 * * 0": ["Sun *-*-* 01:00:00"],
    "0 1 * * 7": ["Sun *-*-* 01:00:00"],
    "0 1 * * 1-6": ["Mon,Tue,Wed,Thu,Fri,Sat *-*-* 01:00:00"],
    "0 1 * * 0-2": ["Sun,Mon,Tue *-*-* 01:00:00"],
    "0 1 * * 6-7": ["Sun,Sat *-*-* 01:00:00"],
    "0 1 * * */2": ["Sun,Tue,Thu,Sat *-*-* 01:00:00"],
    "0 1 * * mon,Wed": ["Mon,Wed *-*-* 01:00:00"],
    # Restricted both, they are alternatives, and even if one of them is all days.
    "0 1 1 * 0": ["*-*-01 01:00:00", "Sun *-*-* 01:00:00"],
    "0 1 1 * 0-6": ["*-*-01 01:00:00", "*-*-* 01:00:00"],
    "0 1 */2 * 0": ["Sun *-*-" + ",".join(f"{day:02}" for day in range(1, 32, 2)) + " 01:00:00"],
    "@daily": ["*-*-* 00:00:00"],
    "@weekly": ["Sun *-*-* 00:00:00"],
}


@pytest.mark.parametrize(("schedule", "expected"), MEANT.items())
def test_systemd_runs_it_when_cron_would(schedule: str, expected: List[str]) -> None:
    assert on_calendar(schedule) == expected


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_it() -> None:
    subprocess.run(["systemd-analyze", "calendar", *(value for values in MEANT.values() for value in values)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("", "0 of cron's five words"),
        ("30 seconds", "2 of cron's five words"),
        ("@Daily", "1 of cron's five words"),
        ("@reboot", "1 of cron's five words"),
        ("0 1 * * * root", "6 of cron's five words"),
        ("60 * * * *", "minute is from 0 to 59, not 60"),
        ("0 24 * * *", "hour is from 0 to 23, not 24"),
        ("0 0 0 * *", "day is from 1 to 31, not 0"),
        ("0 0 * 13 *", "month is from 1 to 12 or Jan to Dec, not 13"),
        ("0 0 * * 8", "weekday is from 0 to 7 or Sun to Sat, not 8"),
        ("0 0 * * sunday", "weekday is from 0 to 7 or Sun to Sat, not sunday"),
        ("0 jan * * *", "hour is from 0 to 23, not jan"),
        ("30-10 * * * *", "minute has no values: '30-10'"),
        ("*/0 * * * *", r"minute has no values: '\*/0'"),
        ("5/15 * * * *", "minute is not understood: '5/15'"),
        ("1,,2 * * * *", "minute is not understood: ''"),
        ("-5 * * * *", "minute is not understood: '-5'"),
        ("٣ * * * *", "minute is not understood"),
    ],
)
def test_what_is_no_schedule_is_told(schedule: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        on_calendar(schedule)
