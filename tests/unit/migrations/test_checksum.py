"""Checksums are those that sqlx stores."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import checksum

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()
LF, CRLF = b"SELECT 1;\n", b"SELECT 1;\r\n"
LF_DIGEST = "24454095d8d7876ca8e842f34296ca645c83e0f7b50f048c99db4b2ff4da659267afc4ef3e994f3d74e18c741165d931"


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b"),
        (LF, LF_DIGEST),
        (CRLF, "17397e2e60835e677161a3f8f86849089bb0b9ac29484fca0511f769d62d8c2e143ab512c903b43a60a01ad7452c86c6"),
        (BOM + LF, "e1dc993fecc8fbad857af990996744130eae1fb4e83002ad821787bfbb9077a8478c12813b1b253123c5286c14360c16"),
    ],
)
def test_every_byte_of_a_file_counts(content: bytes, digest: str) -> None:
    assert checksum.of(content).hex() == digest
    assert len(checksum.of(content)) == checksum.SIZE


@pytest.mark.parametrize("content", [LF, CRLF, BOM + LF, BOM + CRLF, b"\rSELECT\r 1;\n"])
def test_ignored_characters_do_not_count_wherever_they_are(content: bytes) -> None:
    assert checksum.of(content, "\r\N{ZERO WIDTH NO-BREAK SPACE}").hex() == LF_DIGEST


def test_a_character_is_ignored_whole_and_no_byte_of_another() -> None:
    assert checksum.of("aéb".encode(), "é") == checksum.of(b"ab")
    assert checksum.of("aèb".encode(), "é") == checksum.of("aèb".encode())


@pytest.mark.parametrize(
    ("now", "then", "name"),
    [
        (LF, CRLF, "CRLF line endings and no byte order mark"),
        (CRLF, LF, "LF line endings and no byte order mark"),
        (LF, BOM + LF, "LF line endings and a byte order mark"),
        (BOM + LF, LF, "LF line endings and no byte order mark"),
        (BOM + CRLF, LF, "LF line endings and no byte order mark"),
        (LF, BOM + CRLF, "CRLF line endings and a byte order mark"),
        (b"a\r\nb\n", b"a\r\nb\r\n", "CRLF line endings and no byte order mark"),
    ],
)
def test_a_rewritten_file_is_recognised(now: bytes, then: bytes, name: str) -> None:
    named = {digest: variant for variant, digest in checksum.cosmetic_variants(now)}
    assert named[checksum.of(then)] == name
    assert checksum.of(now) not in named


def test_another_text_is_no_cosmetic_variant() -> None:
    assert checksum.of(b"SELECT 2;\n") not in dict(checksum.cosmetic_variants(LF)).values()


def test_the_digest_of_a_release_covers_versions_and_checksums_in_order_of_version() -> None:
    first, second, third = (checksum.of(text) for text in (b"1", b"2", b"3"))
    layout = b"\xff" * 8 + first + bytes(7) + b"\x02" + second + bytes.fromhex("000012688407c341") + third
    entries = [(20240101000001, third), (-1, first), (2, second)]
    assert checksum.release(entries) == hashlib.sha256(layout).hexdigest()
    assert checksum.release([]) == hashlib.sha256().hexdigest()
