# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a database stands and what is to be said of it: all that a run costs which has nothing to do.

Nothing here can change a database, or imports what could: a host that is only asked receives half of the engine, and has half
of it to compile.
"""

from __future__ import annotations

import contextlib
import typing as t

from . import checksum, fingerprint, plan, proofs
from .errors import ConnectionFailed
from .history import read_rows
from .ledger import Ledger
from .release import Release
from .session import ServerError, Session, Target
from .source import Source

Data = t.Dict[str, t.Any]


def look(target: Target, ledger_table: str, digest: str, with_proofs: bool = False) -> Data:
    """Where a database stands, in three messages; nothing is written.

    :param digest: of the release that is wanted here. If the ledger has the same one, no row travels.
    :param with_proofs: whether to tell what is known of the way back, in two more.
    :returns: ``rows`` (None where they are the release's), ``fingerprint``, ``server_version`` and perhaps ``proofs``.
    :raises MigrationError: if it cannot be looked at.
    """
    with _looking(target) as session:
        ledger = Ledger(session, ledger_table)
        session.must_be_writable()
        answer: Data = {"rows": []}
        if ledger.exists:
            summary = ledger.summary()
            answer["rows"] = None
            if not summary.clean or summary.release != digest:
                rows = read_rows(session, ledger)
                answer["rows"] = [[row.version, row.checksum.hex(), row.success, row.description, row.reverting] for row in rows]
        answer["fingerprint"] = _fingerprint(session, ledger).digest
        answer["server_version"] = session.server_version
        if with_proofs:
            known = proofs.read(session, ledger)
            rows = read_rows(session, ledger) if known.begun else []
            begun = proofs.unfinished(known, rows)
            answer["proofs"] = dict(proofs.told(known, ""), unfinished=sorted(begun.versions) if begun else [])
            answer["proven"] = sorted(known.proven)
        return answer


@contextlib.contextmanager
def _looking(target: Target) -> t.Iterator[Session]:
    """A session that only reads.

    :raises ConnectionFailed: also for what the server refuses to show.
    """
    with Session(target) as session:
        try:
            yield session
        except ServerError as error:
            raise ConnectionFailed(
                "{0} cannot be read: {1} (SQLSTATE {2}).".format(target, str(error).strip(), error.pgcode),
                {"sqlstate": error.pgcode},
                "Nothing was changed. The login needs SELECT on the ledger, and USAGE on its schema.",
            ) from error


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
    files = {file.version: file for file in release.files}
    steps = [plan.Done(step, files[step.version].description, files[step.version].checksum, 0.0) for step in planned.steps]
    answer = after(release, rows, steps, found, None if steps else found)
    answer["warnings"] = list(planned.warnings)
    return answer


_LISTS = {plan.APPLY: "applied", plan.REVERT: "reverted", plan.BASELINE: "baselined", plan.REPAIR: "repaired"}


def after(
    release: Release,
    rows: t.Sequence[plan.Row],
    steps: t.Sequence[plan.Done],
    before: t.Optional[str],
    found: t.Optional[str],
) -> Data:
    """What is answered where something was done.

    :param before: the fingerprint before the first step.
    :param found: the one after the last.
    """
    applied = {row.version for row in rows}
    dirty = {row.version for row in rows if not row.success}
    answer = standing(release, rows, before)
    for done in steps:
        version = done.step.version
        answer[_LISTS[done.step.action]].append(_entry(done))
        if done.step.action == plan.REVERT or (done.step.action == plan.REPAIR and version in dirty):
            applied.discard(version)
        else:
            applied.add(version)
        dirty.discard(version)
    answer.update(
        changed=bool(steps), to_version=max(applied, default=0), pending=_pending(release, applied), dirty=sorted(dirty), fingerprint=found
    )
    return answer


def _entry(done: plan.Done) -> Data:
    return {
        "version": done.step.version,
        "description": done.description,
        "checksum": done.checksum.hex(),
        "duration": round(done.seconds, 6),
        "notices": list(done.notices),
    }


def _pending(release: Release, applied: t.AbstractSet[int]) -> t.List[Data]:
    return [
        {"version": file.version, "description": file.description, "checksum": file.checksum.hex()}
        for file in release.files
        if file.version not in applied
    ]


def info(target: Target, ledger_table: str, source: t.Optional[Release], expected_fingerprint: t.Optional[str] = None) -> Data:
    """The whole picture of a database; nothing is written, and a standby or a role that may only read will do.

    :param source: the release to compare with, if there is one.
    :param expected_fingerprint: a fingerprint's text, to be told the difference to it.
    """
    with _looking(target) as session:
        ledger = Ledger(session, ledger_table)
        rows = read_rows(session, ledger)
        found = _fingerprint(session, ledger)
        known = proofs.read(session, ledger)
        answer: Data = {
            "server_version": session.server_version,
            "in_recovery": session.in_recovery,
            "extensions": [
                {"name": name, "version": version}
                for name, version in session.rows("select extname, extversion from pg_extension order by extname")
            ],
        }
    if source is None:
        # Without files there is nothing to compare with: what is recorded counts as it is.
        files: t.Tuple[plan.File, ...] = tuple(plan.File(row.version, row.description, row.checksum) for row in rows)
        source = Release(files, frozenset(), {})
    else:
        answer["release"] = source.digest
    states = plan.states(source.files, source.only_down, rows)
    # The files have the better description, the ledger the checksum that counts.
    descriptions = {row.version: row.description for row in rows}
    descriptions.update((file.version, file.description) for file in source.files)
    checksums = {file.version: file.checksum for file in source.files}
    checksums.update((row.version, row.checksum) for row in rows)
    answer.update(
        ledger_exists=ledger.exists,
        current_version=plan.current_version(rows),
        **proofs.told(known, proofs.installed(rows)),
        dirty=[row.version for row in rows if not row.success],
        pending=[version for version, state in states.items() if state == plan.PENDING],
        migrations=[
            {"version": version, "description": descriptions[version], "state": state, "checksum": checksums[version].hex()}
            for version, state in states.items()
        ],
        fingerprint=found.digest,
        fingerprint_text=found.text,
    )
    if expected_fingerprint is not None:
        answer["fingerprint_difference"] = found.difference(expected_fingerprint)
    return answer


def diff(release: Release, answer: Data) -> t.List[t.Dict[str, str]]:
    """The SQL of what was done or would be done, for Ansible's diff mode."""
    shown = []
    for key in ("reverted", "applied"):
        for entry in answer[key]:
            script = release.migrations[entry["version"]].script(key == "reverted")
            shown.append({"before": "", "after": script.text, "before_header": "", "after_header": script.path})
    return shown


def explainer(source: Source) -> plan.Explain:
    """Says of a changed file whether only its line endings or its byte order mark differ from what was applied."""
    contents = {migration.version: migration.up.content for migration in source.migrations}

    def explain(version: int, recorded: bytes) -> str:
        for name, digest in checksum.cosmetic_variants(contents.get(version, b"")):
            if digest == recorded:
                return "what was applied is this very text with {0}".format(name)
        return ""

    return explain
