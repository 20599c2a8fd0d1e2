# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of migration files, the same as sqlx computes, and the digest of a whole release."""

from __future__ import annotations

import hashlib
import struct
import typing as t

from .records import Row

# Bytes of a SHA-384 digest: what sqlx stores in the ledger's column `checksum`.
SIZE = 48

BOM = "\ufeff"


def of(content: bytes, ignored_chars: str = "") -> bytes:
    """SHA-384 of a file's bytes (``sqlx-core/src/migrate/migration.rs``).

    :param content: the raw file, in UTF-8, line endings and byte order mark included.
    :param ignored_chars: characters left out of the digest, everywhere (sqlx 0.9's ``ignored-chars``).
    """
    for char in ignored_chars:
        content = content.replace(char.encode(), b"")
    return hashlib.sha384(content).digest()


def cosmetic_variants(content: bytes) -> t.Iterator[t.Tuple[str, bytes]]:
    """Checksums of the same text with other line endings or another byte order mark, each with its name.

    They tell a file that an editor or git rewrote from one whose SQL changed.
    """
    bare = content.replace(b"\r\n", b"\n")
    bom = BOM.encode()
    without = bare[len(bom) :] if bare.startswith(bom) else bare
    for ending, text in (("LF", without), ("CRLF", without.replace(b"\n", b"\r\n"))):
        for mark, variant in (("no byte order mark", text), ("a byte order mark", bom + text)):
            if variant != content:
                yield "{0} line endings and {1}".format(ending, mark), of(variant)


def way_back(content: bytes) -> str:
    """What tells a down script from one that was edited since: SHA-256 of its bytes. Neither release nor ledger covers it."""
    return hashlib.sha256(content).hexdigest()


def installed(rows: t.Iterable[Row]) -> str:
    """The release that a ledger holds."""
    return release((row.version, row.checksum) for row in rows)


def release(entries: t.Iterable[t.Tuple[int, bytes]]) -> str:
    """Digest of a release: SHA-256 over every version (8 bytes, big-endian) and its checksum, in order of version.

    Plain concatenation, so that the server can compute the same over the ledger's rows (see ledger.digest_query).

    :param entries: version and checksum of each migration, in any order.
    :returns: hexadecimal digest.
    """
    digest = hashlib.sha256()
    for version, checksum in sorted(entries):
        digest.update(struct.pack(">q", version))
        digest.update(checksum)
    return digest.hexdigest()
