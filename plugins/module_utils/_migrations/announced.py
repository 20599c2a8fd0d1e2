# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a down script says that it loses: lines ``-- data-loss: table orders, column items.price, rows of app.log``. Pure.

The schema ``public`` may be left out. A table that is announced covers its columns and rows; a view is announced for the
reader, since what it holds is only derived.
"""

from __future__ import annotations

import re
import typing as t

_LINE = re.compile(r"[ \t]*--[ \t]*data[-_ ]?loss\b", re.IGNORECASE)
_EXACT = re.compile(r"-- data-loss: (?P<list>\S.*?)[ \t\r]*$")
_PART = r'(?:"(?:[^"]|"")+"|[^\s".,]+)'
_THING = re.compile(
    r"(?:(?P<kind>table|view|rows of) (?P<relation>{0}(?:\.{0})?)|column (?P<table>{0}(?:\.{0})?)\.(?P<column>{0}))\Z".format(_PART)
)
_COMMA = re.compile(r',[ \t]*(?=(?:[^"]*"[^"]*")*[^"]*\Z)')


class Announcement(t.NamedTuple):
    """All that one script announces, as it was understood."""

    things: t.FrozenSet[str]
    """``table public.orders``, ``column public.items.price``, ``rows of app.log``, ``view public.sums``."""
    problems: t.Tuple[t.Tuple[int, str], ...]
    """Lines that look like an announcement and are none, with what is wrong."""

    def covers(self, what: str) -> bool:
        """Whether a loss, in the same words, is announced."""
        if what in self.things:
            return True
        kind, _space, name = what.partition(" ")
        if kind == "column":
            name = _parts(name)[0]
        elif what.startswith("rows of "):
            name = what[len("rows of ") :]
        return "table " + name in self.things


def read(text: str) -> Announcement:
    """What a down script announces."""
    things: t.Set[str] = set()
    problems: t.List[t.Tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not _LINE.match(line):
            continue
        exact = _EXACT.match(line)
        if not exact:
            problems.append((number, "announces nothing: it must begin with '-- data-loss: ' and name something"))
            continue
        for each in _COMMA.split(exact.group("list")):
            thing = _thing(each)
            if thing is None:
                problems.append((number, "{0!r} is not 'table NAME', 'column TABLE.NAME', 'rows of TABLE' or 'view NAME'".format(each)))
            else:
                things.add(thing)
    return Announcement(frozenset(things), tuple(problems))


def _thing(text: str) -> t.Optional[str]:
    found = _THING.match(text.strip())
    if not found:
        return None
    if found.group("column"):
        return "column {0}.{1}".format(_qualified(found.group("table")), found.group("column"))
    return "{0} {1}".format(found.group("kind"), _qualified(found.group("relation")))


def _qualified(name: str) -> str:
    return name if _parts(name)[0] else "public." + name


def _parts(name: str) -> t.Tuple[str, str]:
    """A name without its last part, and that part; a quoted one may have dots."""
    found = re.match(r"(?:(?P<rest>.+)\.)?(?P<last>{0})\Z".format(_PART), name)
    return (found.group("rest") or "", found.group("last")) if found else ("", name)
