# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be said of a database: answers of the modules, from what was seen, planned and done. Pure."""

from __future__ import annotations

import base64
import struct
import typing as t
import zlib

from . import checksum, plan
from .release import Release
from .source import Migration

Data = t.Dict[str, t.Any]


def _unpack(versions: str) -> t.Tuple[int, ...]:
    packed = zlib.decompress(base64.b64decode(versions))
    return struct.unpack(">{0}q".format(len(packed) // 8), packed)


def rows_of(seen: Data, files: t.Sequence[plan.File]) -> t.Optional[t.List[plan.Row]]:
    """The ledger's rows from what ``look`` has seen; None where the files are not enough to tell them.

    They are where nothing is in the ledger but these very files: then its digest is that of the files of its versions.
    """
    if seen["rows"] is not None:
        return [plan.Row(version, bytes.fromhex(digest), *rest) for version, digest, *rest in seen["rows"]]
    by_version = {file.version: file for file in files}
    known = [by_version[version] for version in _unpack(seen["versions"]) if version in by_version]
    if checksum.release((file.version, file.checksum) for file in known) != seen["ledger"]:
        return None
    return [plan.Row(file.version, file.checksum, True, file.description) for file in known]


def told_of_proofs(seen: Data, installed: str) -> Data:
    """What ``look`` has seen of proofs of the way back, for programs.

    :param installed: the release that the ledger holds.
    """
    known = seen.get("proofs", {})
    answer = {key: value for key, value in known.items() if key not in ("unfinished", "proven")}
    return dict(answer, installed_release=installed, proven=installed in known.get("proven", ()))


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


def told(seen: Data, source: t.Optional[Release], rows: t.Optional[t.Sequence[plan.Row]] = None) -> Data:
    """The whole picture of a database.

    :param seen: by ``look_around``.
    :param source: the release to compare with, if there is one.
    :param rows: the ledger's, if they are known already.
    """
    answer = {key: value for key, value in seen.items() if key not in ("rows", "versions", "ledger", "proofs")}
    if rows is None:
        rows = rows_of(seen, ()) or []
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
        current_version=plan.current_version(rows),
        **told_of_proofs(seen, checksum.release((row.version, row.checksum) for row in rows)),
        dirty=[row.version for row in rows if not row.success],
        pending=[version for version, state in states.items() if state == plan.PENDING],
        migrations=[
            {"version": version, "description": descriptions[version], "state": state, "checksum": checksums[version].hex()}
            for version, state in states.items()
        ],
    )
    return answer


def diff(release: Release, answer: Data) -> t.List[t.Dict[str, str]]:
    """The SQL of what was done or would be done, for Ansible's diff mode."""
    shown = []
    for key in ("reverted", "applied"):
        for entry in answer[key]:
            script = release.migrations[entry["version"]].script(key == "reverted")
            shown.append({"before": "", "after": script.text, "before_header": "", "after_header": script.path})
    return shown


def explainer(migrations: t.Iterable[Migration]) -> plan.Explain:
    """Says of a changed file whether only its line endings or its byte order mark differ from what was applied."""
    by_version = {migration.version: migration for migration in migrations}

    def explain(version: int, recorded: bytes) -> str:
        migration = by_version.get(version)
        for name, digest in checksum.cosmetic_variants(migration.up.content) if migration else ():
            if digest == recorded:
                return "what was applied is this very text with {0}".format(name)
        return ""

    return explain
