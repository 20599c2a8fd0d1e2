# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release on its way to the database host: the manifest of all its files, and the SQL of those that are to run."""

from __future__ import annotations

import base64
import json
import typing as t
import zlib

from . import checksum
from .records import File
from .source import Migration, Script, Source


class Release(t.NamedTuple):
    """What the executor works from."""

    files: t.Tuple[File, ...]
    only_down: t.FrozenSet[int]
    migrations: t.Mapping[int, Migration]
    """Those whose SQL is at hand."""

    @property
    def digest(self) -> str:
        return checksum.release((file.version, file.checksum) for file in self.files)


def of(source: Source, versions: t.Optional[t.Container[int]] = None, reverting: t.Optional[t.Container[int]] = None) -> Release:
    """The release of a source.

    :param versions: those whose SQL is wanted; None: all.
    :param reverting: those whose down script is wanted; None: all. No other down script is read.
    """

    def goes_back(version: int) -> bool:
        return reverting is None or version in reverting

    return Release(
        tuple(_file(migration, goes_back(migration.version)) for migration in source.migrations),
        source.only_down,
        {
            each.version: each if goes_back(each.version) else each._replace(down=None)
            for each in source.migrations
            if versions is None or each.version in versions
        },
    )


def _file(migration: Migration, goes_back: bool) -> File:
    return File(
        migration.version,
        migration.description,
        migration.checksum,
        migration.down is not None,
        migration.up.no_transaction,
        goes_back and migration.down is not None and migration.down.no_transaction,
    )


def encode(release: Release) -> str:
    """Text for a module's argument. Compressed: Python reads one long line of source slowly from a pipe."""
    document = {
        "files": [file._replace(checksum=file.checksum.hex()) for file in release.files],  # type: ignore[arg-type]
        "only_down": sorted(release.only_down),
        "scripts": [
            [each.version] + [None if script is None else [script.path, script.text] for script in (each.up, each.down, each.verify)]
            for each in release.migrations.values()
        ],
    }
    return base64.b64encode(zlib.compress(json.dumps(document).encode(), 1)).decode()


def decode(text: str) -> Release:
    """The inverse of encode."""
    document = json.loads(zlib.decompress(base64.b64decode(text)))
    files = tuple(File(version, name, bytes.fromhex(digest), *rest) for version, name, digest, *rest in document["files"])
    by_version = {file.version: file for file in files}

    def script(found: t.Optional[t.Tuple[str, str]]) -> t.Optional[Script]:
        return None if found is None else Script(found[0], found[1].encode())

    migrations = {}
    for version, up, down, verify in document["scripts"]:
        file = by_version[version]
        migrations[version] = Migration(
            version, file.description, file.checksum, Script(up[0], up[1].encode()), script(down), script(verify)
        )
    return Release(files, frozenset(document["only_down"]), migrations)
