# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File names of migrations, read exactly as sqlx reads them.

The rules are those of ``sqlx-core/src/migrate/source.rs`` and ``migration_type.rs``, the same from 0.5 to 0.9.
"""

from __future__ import annotations

import re
import typing as t

# Rust's i64, which sqlx parses the version as and PostgreSQL's bigint stores.
VERSION_MIN = -(2**63)
VERSION_MAX = 2**63 - 1

SIMPLE = "simple"
UP = "up"
DOWN = "down"

# `i64::from_str`: an optional sign and ASCII digits, nothing else.
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_SUFFIXES = {UP: ".up.sql", DOWN: ".down.sql", SIMPLE: ".sql"}


class FileName(t.NamedTuple):
    """The three facts that a migration's file name states."""

    version: int
    description: str
    kind: str


def parse(name: str) -> t.Optional[FileName]:
    """Read one file name.

    :param name: the name without its directory; undecodable bytes already replaced, as sqlx does.
    :returns: what it says, or None where sqlx passes the file over in silence.
    :raises ValueError: where sqlx refuses the whole directory: it ends in ``.sql`` and has a ``_``, but no version.
    """
    head, separator, tail = name.partition("_")
    if not separator or not tail.endswith(".sql"):
        return None
    if not _INTEGER.match(head):
        raise ValueError("expected an integer version before the first '_', as in 20240101000001_name.up.sql")
    version = int(head)
    if not VERSION_MIN <= version <= VERSION_MAX:
        raise ValueError("the version does not fit a 64-bit integer")
    kind = UP if tail.endswith(_SUFFIXES[UP]) else DOWN if tail.endswith(_SUFFIXES[DOWN]) else SIMPLE
    return FileName(version, _description(tail, _SUFFIXES[kind]), kind)


def _description(tail: str, suffix: str) -> str:
    # sqlx uses `trim_end_matches`, which removes the suffix as often as it is there.
    while tail.endswith(suffix):
        tail = tail[: -len(suffix)]
    return tail.replace("_", " ")
