# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times in cron's words, crontab(5), and in those of systemd, systemd.time(7). **Private** to the collection."""

from __future__ import annotations

import re
import typing as t

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _Field(t.NamedTuple):
    """One of cron's five words: its name, its first and last value, and what else the values are called, from the first one on."""

    name: str
    first: int
    last: int
    names: t.Sequence[str] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    # Sunday is the seventh day too.
    _Field("weekday", 0, 7, _WEEKDAYS),
)
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?", re.ASCII)


def on_calendar(schedule: str) -> t.List[str]:
    """A schedule as values of systemd's ``OnCalendar``, of which each adds its times.

    Days of the month and of the week are alternatives where both are restricted, as they are for cron: that takes two values.

    :param schedule: five words, or a nickname such as ``@daily``.
    :raises ValueError: it is no schedule; the text says why.
    """
    words = _NICKNAMES.get(schedule.strip(), schedule).split()
    if len(words) != len(_FIELDS):
        raise ValueError("it has {0} of cron's five words: minute, hour, day of the month, month, day of the week".format(len(words)))
    minutes, hours, days, months, weekdays = (_numbers(field, word) for field, word in zip(_FIELDS, words))
    names = [name for number, name in enumerate(_WEEKDAYS) if {number, number or 7} & weekdays]
    on_weekdays = "" if len(names) == len(_WEEKDAYS) else ",".join(names) + " "
    date = "*-{0}-{{0}} {1}:{2}:00".format(_text(_FIELDS[3], months), _text(_FIELDS[1], hours), _text(_FIELDS[0], minutes))
    on_days = date.format(_text(_FIELDS[2], days))
    # However a word goes on that begins with it, cron takes it for not restricted.
    if words[2].startswith("*") or words[4].startswith("*"):
        return [on_weekdays + on_days]
    return [on_days, on_weekdays + date.format("*")]


def _text(field: _Field, numbers: t.Set[int]) -> str:
    """Numbers in systemd's words."""
    if len(numbers) == field.last - field.first + 1:
        return "*"
    return ",".join("{0:02}".format(number) for number in sorted(numbers))


def _numbers(field: _Field, word: str) -> t.Set[int]:
    """The numbers that a word stands for."""
    numbers: t.Set[int] = set()
    for part in word.split(","):
        found = _PART.fullmatch(part)
        # A step is one of a range.
        if found is None or (found["step"] and found["first"] and not found["last"]):
            raise ValueError("{0} is not understood: {1!r}".format(field.name, part))
        first = _number(field, found["first"]) if found["first"] else field.first
        last = _number(field, found["last"]) if found["last"] else first if found["first"] else field.last
        step = int(found["step"] or 1)
        if last < first or step < 1:
            raise ValueError("{0} has no values: {1!r}".format(field.name, part))
        numbers.update(range(first, last + 1, step))
    return numbers


def _number(field: _Field, text: str) -> int:
    """The number that is meant by one, or by a name."""
    names = [name.lower() for name in field.names]
    if text.lower() in names:
        return field.first + names.index(text.lower())
    if not text.isdigit() or not field.first <= int(text) <= field.last:
        or_names = " or {0} to {1}".format(field.names[0], field.names[-1]) if field.names else ""
        raise ValueError("{0} is from {1} to {2}{3}, not {4}".format(field.name, field.first, field.last, or_names, text))
    return int(text)
