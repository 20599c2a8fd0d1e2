# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two fingerprints' texts compared object by object, in words. Pure."""

from __future__ import annotations

import typing as t

MISSING, LEFT, CHANGED = "missing", "left behind", "changed"

# Lines of an error message: whoever sees as many begins with the first.
_SHOWN = 40


class Difference(t.NamedTuple):
    """One object."""

    how: str
    what: str
    """Its kind and name: ``index public.items_price``."""
    expected: str
    found: str

    def __str__(self) -> str:
        lines = ["{0}: {1}".format(self.how, self.what)]
        if self.expected:
            lines.append("  - " + self.expected)
        if self.found:
            lines.append("  + " + self.found)
        return "\n".join(lines)


def between(expected: str, found: str) -> t.List[Difference]:
    """What differs, in order of the objects' names.

    :param expected: a fingerprint's text.
    :param found: the other's.
    """
    if expected == found:
        return []
    wanted, there = _by_object(expected), _by_object(found)
    differing = []
    for what in sorted(wanted.keys() | there.keys()):
        one, other = wanted.get(what, []), there.get(what, [])
        if one != other:
            how = MISSING if not other else LEFT if not one else CHANGED
            differing.append(Difference(how, what, "\n    ".join(one), "\n    ".join(other)))
    return differing


def told(differing: t.Sequence[Difference]) -> str:
    """For an error message."""
    text = "\n".join(str(each) for each in differing[:_SHOWN])
    return text + ("\nand {0} more".format(len(differing) - _SHOWN) if len(differing) > _SHOWN else "")


def _by_object(text: str) -> t.Dict[str, t.List[str]]:
    objects: t.Dict[str, t.List[str]] = {}
    for line in text.split("\n")[:-1]:
        what, _colon, definition = line.partition(": ")
        objects.setdefault(what, []).append(definition)
    return objects
