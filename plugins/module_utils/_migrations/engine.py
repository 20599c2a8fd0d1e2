# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's few verbs, and what they answer, as plain data: what the modules and the action plugin call."""

from __future__ import annotations

import typing as t

from . import checksum, fingerprint, plan
from .errors import MigrationError
from .executor import Done, Executor, Options, read_rows
from .ledger import Ledger
from .release import Release
from .session import Session, Target
from .source import Source

Data = t.Dict[str, t.Any]

_DEFAULTS = plan.Policy()


def look(target: Target, ledger_table: str, digest: str) -> Data:
    """Where a database stands, in three messages; nothing is written.

    :param digest: of the release that is wanted here. If the ledger has the same one, no row travels.
    :returns: ``size``, ``to_version``, ``dirty``, ``fingerprint``, and ``rows`` (None where they are the release's).
    :raises MigrationError: if it cannot be looked at.
    """
    with Session(target) as session:
        ledger = Ledger(session, ledger_table)
        session.must_be_writable()
        answer: Data = {"current": 0, "dirty": [], "rows": [], "fingerprint": None}
        if ledger.exists:
            summary = ledger.summary()
            answer["current"] = summary.current
            if summary.clean and summary.release == digest:
                answer["rows"] = None
            else:
                rows = read_rows(session, ledger)
                answer["rows"] = [[row.version, row.checksum.hex(), row.success, row.description, row.reverting] for row in rows]
                answer["dirty"] = [row.version for row in rows if not row.success]
        answer["fingerprint"] = _fingerprint(session, ledger).digest
        return answer


def _fingerprint(session: Session, ledger: Ledger) -> fingerprint.Fingerprint:
    return fingerprint.take(session, ledger.name if ledger.exists else None)


def rows_of(answer: Data, files: t.Sequence[plan.File]) -> t.List[plan.Row]:
    """The ledger's rows from what ``look`` answered."""
    if answer["rows"] is None:
        return [plan.Row(file.version, file.checksum, True, file.description) for file in files]
    return [plan.Row(version, bytes.fromhex(digest), *rest) for version, digest, *rest in answer["rows"]]


def standing(release: Release, rows: t.Sequence[plan.Row], found: t.Optional[str]) -> Data:
    """What is answered where nothing was done."""
    current = plan.current_version(rows)
    return {
        "changed": False,
        "from_version": current,
        "to_version": current,
        "applied": [],
        "reverted": [],
        "baselined": [],
        "repaired": [],
        "pending": _pending(release, {row.version for row in rows}),
        "release": release.digest,
        "dirty": [row.version for row in rows if not row.success],
        "fingerprint": found,
        "fingerprint_before": found,
        "waited_for": 0.0,
    }


def predicted(release: Release, rows: t.Sequence[plan.Row], planned: plan.Plan, found: t.Optional[str]) -> Data:
    """What a run would answer, for check mode; the fingerprint afterwards is not known."""
    steps = [Done(step, *_named(release, step.version), 0.0) for step in planned.steps]
    return _after(release, rows, steps, found, None if steps else found)


def migrate(
    target: Target, release: Release, wanted: t.Optional[int], policy: plan.Policy = _DEFAULTS, options: Options = Options()
) -> Data:
    """Bring a database to a version.

    :raises MigrationError: with ``partial`` in its details: the same answer for what was committed before the failure.
    """
    session = Session(target)
    try:
        ledger = Ledger(session, options.ledger_table)
        executor = Executor(session, ledger, release, wanted, policy, options)
        try:
            outcome = executor.run()
        except MigrationError as error:
            error.failed["partial"] = _after(release, (), executor.done, None, None)
            raise
        session = executor.session
        after = _fingerprint(session, executor.ledger).digest
        answer = _after(release, outcome.before, outcome.done, outcome.fingerprint_before or after, after)
        answer.update(waited_for=round(outcome.waited, 3), warnings=list(outcome.plan.warnings), messages=session.messages)
        return answer
    finally:
        session.close()


def _after(
    release: Release,
    rows: t.Sequence[plan.Row],
    steps: t.Sequence[Done],
    before: t.Optional[str],
    after: t.Optional[str],
) -> Data:
    answer = standing(release, rows, before)
    applied = {row.version for row in rows}
    for key, action in (("applied", plan.APPLY), ("reverted", plan.REVERT), ("baselined", plan.BASELINE), ("repaired", plan.REPAIR)):
        answer[key] = [_entry(done) for done in steps if done.step.action == action]
        versions = {done.step.version for done in steps if done.step.action == action}
        applied = applied - versions if action == plan.REVERT else applied | versions
    finished = {done.step.version for done in steps}
    answer.update(
        changed=bool(steps),
        to_version=max(applied, default=0),
        pending=_pending(release, applied),
        dirty=[version for version in answer["dirty"] if version not in finished],
        fingerprint=after,
    )
    return answer


def _entry(done: Done) -> Data:
    return {
        "version": done.step.version,
        "description": done.description,
        "checksum": done.checksum.hex(),
        "duration": round(done.seconds, 6),
        "notices": list(done.notices),
    }


def _named(release: Release, version: int) -> t.Tuple[str, bytes]:
    for file in release.files:
        if file.version == version:
            return file.description, file.checksum
    return "", b""


def _pending(release: Release, applied: t.AbstractSet[int]) -> t.List[Data]:
    return [
        {"version": file.version, "description": file.description, "checksum": file.checksum.hex()}
        for file in release.files
        if file.version not in applied
    ]


def info(target: Target, ledger_table: str, source: t.Optional[Release] = None) -> Data:
    """The whole picture of a database; nothing is written, and a standby or a role that may only read will do."""
    with Session(target) as session:
        ledger = Ledger(session, ledger_table)
        rows = read_rows(session, ledger)
        answer: Data = {
            "server_version": session.server_version,
            "in_recovery": session.in_recovery,
            "ledger_exists": ledger.exists,
            "installed_release": ledger.summary().release if ledger.exists else None,
            "extensions": [
                {"name": name, "version": version}
                for name, version in session.rows("select extname, extversion from pg_extension order by extname")
            ],
        }
        found = _fingerprint(session, ledger)
        answer.update(fingerprint=found.digest, fingerprint_text=found.text)
    files = source.files if source else ()
    recorded = {row.version: row for row in rows}
    known = {file.version: file for file in files}
    only_down = source.only_down if source else frozenset()
    # Without files there is nothing to compare with: what is recorded counts as it is.
    states = plan.states(files if source else [plan.File(row.version, row.description, row.checksum) for row in rows], only_down, rows)
    answer["current_version"] = plan.current_version(rows)
    answer["dirty"] = [row.version for row in rows if not row.success]
    answer["pending"] = [version for version, state in states.items() if state == plan.PENDING]
    answer["release"] = source.digest if source else None
    answer["migrations"] = [
        {
            "version": version,
            "description": (known.get(version) or recorded[version]).description,
            "state": state,
            "checksum": recorded[version].checksum.hex() if version in recorded else known[version].checksum.hex(),
        }
        for version, state in states.items()
    ]
    return answer


def explainer(source: Source) -> t.Callable[[int, bytes], str]:
    """Says of a changed file whether only its line endings or its byte order mark differ from what was applied."""
    contents = {migration.version: migration.up.content for migration in source.migrations}

    def explain(version: int, recorded: bytes) -> str:
        for name, digest in checksum.cosmetic_variants(contents.get(version, b"")):
            if digest == recorded:
                return "what was applied is this very text with {0}".format(name)
        return ""

    return explain
