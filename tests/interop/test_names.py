"""File names, read as sqlx reads them."""

from __future__ import annotations

import random
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, List

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import names
from support.sqlx import APP

COUNT = 100_000
NAMES = [
    "1_a.sql", "1.sql", "1-a.sql", "1_a.SQL", "1_sql", "1_a.sql.bak", "_x.sql", "V1__x.sql", "seed_data.sql", "seed.sql", "+1_a.sql", "-1_a.sql",
    "+-1_a.sql", "--1_a.sql", "+_a.sql", "-_a.sql", " 1_a.sql", "1 _a.sql", "007_a.sql", "-0_a.sql", "00000000000000000000001_a.sql",
    "9223372036854775807_a.sql", "9223372036854775808_a.sql", "-9223372036854775808_a.sql", "-9223372036854775809_a.sql",
    "1_.sql", "1_up.sql", "1_.up.sql", "1_a.up.sql", "1_a.down.sql", "1_a.Up.sql", "1_a.sql.sql", "1_a.up.up.sql", "1_a.up.sql.up.sql",
    "1_a.down.up.sql", "1_a.up.down.sql", "1_a.up.sql.sql", "1_a.down.sql.down.sql", "1_a.undo.sql", "1__a__b.sql", "1_a_.sql", "1_.sql.sql",
    "1_up.sql.up.sql", "1_.down.sql", "1_down.sql", "1_a.sql.up.sql", "1_a.sql.down.sql", "1_a .sql", "1_a. sql", "1_é🐘.sql", "٣_a.sql",
    "1_a.sql\n", "1\n_a.sql", "1_000_a.sql", "1_\ufeff.sql", "\ufeff1_a.sql", "1e3_a.sql", "0x1_a.sql", "1_.", "_", "_.sql", "1_..sql", "...sql",
]  # fmt: skip
PIECES = [
    *"0123456789+-_. aUuVv/é٣🐘\n\t", ".sql", ".sql", ".sql", ".up.sql", ".down.sql", ".up", ".down", ".SQL", "_", "_", "__", "20240101000001_",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "00", "up", "down", "sql", "create_table",
]  # fmt: skip
# Not UTF-8: stray, cut off, too long, a surrogate.
BYTES = [b"\xe9", b"\xc3", b"\xf0\x9f\x90", b"\xc0\x80", b"\xed\xa0\x80", b"\xff", b"\x80"]


def generated() -> Iterator[bytes]:
    yield from (name.encode() for name in NAMES)
    chance = random.Random(7)
    for _unused in range(COUNT - len(NAMES)):
        version = chance.choice(["", "", "1", "7", "0042", "-3", "+8"]) + chance.choice(["_", "_", ""])
        parts = [chance.choice(PIECES).encode() for _unused in range(chance.randrange(1, 9))]
        if chance.random() < 0.1:
            parts.insert(chance.randrange(len(parts) + 1), chance.choice(BYTES))
        name = (version.encode() + b"".join(parts)).replace(b"/", b"")
        yield name if name not in (b"", b".", b"..") else b"1_a.sql"


def as_we_read_it(name: bytes) -> str:
    try:
        parsed = names.parse(name.decode("utf-8", "replace"))
    except ValueError:
        return "refused"
    if parsed is None:
        return "ignored"
    return f"{parsed.kind} {parsed.version} {parsed.description.encode().hex()}"


def test_names_are_read_as_sqlx_reads_them() -> None:
    asked: List[bytes] = list(generated())
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        answers = subprocess.run(
            [APP, "names", directory], input="\n".join(name.hex() for name in asked), stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()
    assert len(answers) == len(asked) == COUNT
    differing = [(name, sqlx, ours) for name, sqlx in zip(asked, answers) if (ours := as_we_read_it(name)) != sqlx]
    assert differing == []
    # All kinds of answers came, so that equality means something.
    kinds = [answer.split(" ")[0] for answer in answers]
    assert all(kinds.count(kind) > 1000 for kind in ("ignored", "refused", "simple", "up", "down"))
