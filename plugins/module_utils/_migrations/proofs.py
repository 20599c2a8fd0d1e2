# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the history knows of proofs of the way back: written where one is made, read where one is asked for.

A proof is begun before the first migration of a run and done after the last comparison; one that was cut off can be told,
and finished by the next run. What it takes back is what runs with a proof have applied, and nobody else.
"""

from __future__ import annotations

import json
import typing as t

from . import checksum, records
from .history import BEGUN, DONE, PROVE, STAIRWAY, TRIAL, History, table_for
from .ledger import Ledger
from .session import Session, literal

# Beside what a run with a proof has applied.
TO_BE_PROVEN = "to be proven"


class Begun(t.NamedTuple):
    """A proof that is not done yet."""

    installed: str
    """The release that was installed before: checksum.release of the ledger's rows."""
    fingerprint: str
    """The schema then."""
    age: float
    """Seconds ago."""
    versions: t.FrozenSet[int] = frozenset()
    """What is applied, reverted and applied again."""


class Known(t.NamedTuple):
    """All that the history knows."""

    stands_for: t.Optional[float]
    """Seconds since a migration was last applied or reverted; None where none ever was."""
    fingerprints: t.Dict[str, str]
    """The schema at each installed release that a proof has seen."""
    ways_back: t.Dict[int, str]
    """The versions whose way back is proven, and the digest of the down script that did it."""
    proven: t.Dict[str, float]
    """The installed releases that a proof led to, and how many seconds ago."""
    begun: t.Tuple[Begun, ...]
    """Since the last one that was done, oldest first."""
    measured: t.Dict[int, t.Dict[str, t.Any]]
    """By version, what it took on a copy of this database (trial.py)."""
    applied: t.Dict[int, float]
    """What runs with a proof have applied since the last one that was done and what stands so, and how many seconds ago."""


def _newest(rows: t.Iterable[records.Row]) -> int:
    return max((row.version for row in rows), default=0)


def begin(history: History, rows: t.Iterable[records.Row], fingerprint: str, versions: t.Iterable[int]) -> str:
    """The statement that says that a proof begins."""
    detail = {"installed": checksum.installed(rows), "fingerprint": fingerprint, "versions": sorted(versions)}
    return history.record(_newest(rows), PROVE, BEGUN, detail=json.dumps(detail))


def finish(
    history: History, begun: Begun, rows: t.Iterable[records.Row], fingerprint: str, ways_back: t.Mapping[int, str]
) -> str:
    """The statement that says that a proof is done."""
    release = checksum.installed(rows)
    detail = {"installed": release, "fingerprints": {begun.installed: begun.fingerprint, release: fingerprint}, "ways_back": ways_back}
    return history.record(_newest(rows), PROVE, DONE, detail=json.dumps(detail))


def read(session: Session, ledger: Ledger) -> Known:
    """Read it, in two messages."""
    known = Known(None, {}, {}, {}, (), {}, {})
    if not ledger.exists:
        return known
    table = table_for(ledger.name)
    # Who may only read the ledger is not told more.
    if not session.value("select has_table_privilege(to_regclass({0}), 'select')".format(literal(table.sql))):
        age = session.value("select extract(epoch from clock_timestamp() - max(installed_on))::float8 from " + ledger.name.sql)
        return known._replace(stands_for=age)
    begun: t.List[Begun] = []
    for action, outcome, detail, age, version, duration in session.rows(
        "select action, outcome, detail, extract(epoch from now() - at)::float8, version, duration_ns from {0}"
        " where action in ('{1}', '{5}', '{6}')"
        " union all (select action, outcome, null, extract(epoch from now() - at)::float8, null, null from {0}"
        " where action in ('{2}', '{3}') and outcome = '{4}' order by at desc limit 1)"
        " union all select 'applied', outcome, null, extract(epoch from now() - at)::float8, version, null from {0} h"
        " where action = '{2}' and outcome = '{4}' and detail = '{7}'"
        " and at > coalesce((select max(at) from {0} where action = '{1}' and outcome = '{4}'), '-infinity')"
        # Nothing of ours came after it, and nothing of sqlx's, which leaves no trace here.
        " and not exists (select from {0} n where n.version = h.version and n.action in ('{2}', '{3}') and n.outcome = '{4}' and n.at > h.at)"
        " and exists (select from {8} l where l.version = h.version and l.installed_on <= h.at)"
        " order by 4 desc".format(
            table.sql, PROVE, records.APPLY, records.REVERT, DONE, STAIRWAY, TRIAL, TO_BE_PROVEN, ledger.name.sql
        )
    ):
        if action == "applied":
            known.applied[version] = age
            continue
        if action == TRIAL:
            known.measured[version] = dict(json.loads(detail), duration=duration / 1e9)
            continue
        if action not in (PROVE, STAIRWAY):
            known = known._replace(stands_for=age)
            continue
        told = json.loads(detail)
        if outcome == BEGUN:
            begun.append(Begun(told["installed"], told["fingerprint"], age))
            continue
        known.ways_back.update((int(version), digest) for version, digest in told["ways_back"].items())
        # A stairway proves the ways back, and nothing of this very database.
        if action == PROVE:
            begun.clear()
            known.fingerprints.update(told["fingerprints"])
            known.proven[told["installed"]] = age
    return known._replace(begun=tuple(begun))


def unfinished(known: Known, rows: t.Sequence[records.Row]) -> t.Optional[Begun]:
    """The proof that was cut off and can still be finished: without what was applied for it, the ledger is what it was before."""
    found = None
    for each in known.begun:
        there = frozenset(row.version for row in rows if known.applied.get(row.version, each.age) < each.age)
        if not there or each.installed != checksum.installed(row for row in rows if row.version not in there):
            continue
        # Of two that take the same back, the later one knows the schema as it was: what stood in the way of the first was mended by hand.
        if found is None or there == found.versions:
            found = each._replace(versions=there)
    return found


def told(known: Known) -> t.Dict[str, t.Any]:
    """The same for programs; picture.proof makes an answer of it."""
    return {
        "stands_for": known.stands_for,
        "proven": sorted(known.proven),
        "ways_back": {str(version): digest for version, digest in known.ways_back.items()},
        "known_fingerprints": known.fingerprints,
        "measured": {str(version): measured for version, measured in known.measured.items()},
    }
