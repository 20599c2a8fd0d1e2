"""A release arrives as it was sent, with the SQL that was asked for and no other."""

from __future__ import annotations

import base64
import zlib
from typing import Optional

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import checksum, release
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.plan import File
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.source import Migration, Script, Source
from hypothesis import given
from hypothesis import strategies as st


def migration(version: int, up: str, down: Optional[str] = None, verify: Optional[str] = None, description: str = "a b") -> Migration:
    def script(kind: str, sql: Optional[str]) -> Optional[Script]:
        return None if sql is None else Script(f"/é/{version}_a_b{kind}.sql", sql.encode())

    first = script(".up", up)
    assert first
    return Migration(version, description, checksum.of(first.content), first, script(".down", down), script("", verify))


SOURCE = Source(
    (
        migration(-(2**63), ""),
        migration(-1, "-- no-transaction\nselect 'é\N{PILE OF POO}\r\n'", "", "select 1"),
        migration(2**63 - 1, "select 1", "-- no-transaction"),
    ),
    frozenset({-7, 5}),
)


def test_the_manifest_tells_what_the_plan_needs_to_know() -> None:
    first, second, third = SOURCE.migrations
    assert release.of(SOURCE).files == (
        File(first.version, "a b", first.checksum, reversible=False, no_transaction=False, down_no_transaction=False),
        File(second.version, "a b", second.checksum, reversible=True, no_transaction=True, down_no_transaction=False),
        File(third.version, "a b", third.checksum, reversible=True, no_transaction=False, down_no_transaction=True),
    )
    assert release.of(SOURCE).only_down == {-7, 5}
    assert release.of(SOURCE).digest == SOURCE.release


def test_a_release_arrives_as_it_was_sent() -> None:
    sent = release.of(SOURCE)
    assert release.decode(release.encode(sent)) == sent


def test_only_the_sql_that_was_asked_for_travels() -> None:
    arrived = release.decode(release.encode(release.of(SOURCE, [-1])))
    assert arrived.files == release.of(SOURCE).files
    assert arrived.digest == SOURCE.release
    assert arrived.migrations == {-1: SOURCE.migrations[1]}
    assert b"select 'x'" not in zlib.decompress(base64.b64decode(release.encode(release.of(Source((migration(1, "select 'x'"),)), []))))


def test_a_checksum_with_ignored_characters_arrives_as_it_was_computed() -> None:
    cleaned = migration(1, "select 1\r\n")._replace(checksum=checksum.of(b"select 1\n"))
    arrived = release.decode(release.encode(release.of(Source((cleaned,)))))
    assert arrived.files[0].checksum == arrived.migrations[1].checksum == checksum.of(b"select 1\n")


def test_an_empty_release_arrives() -> None:
    assert release.decode(release.encode(release.of(Source(())))) == release.Release((), frozenset(), {})


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    st.lists(st.builds(migration, st.integers(-(2**63), 2**63 - 1), TEXT, TEXT | st.none(), TEXT | st.none(), TEXT), unique_by=lambda each: each.version),
    st.sets(st.integers(-3, 3)),
)
def test_any_release_arrives_as_it_was_sent(migrations: list[Migration], only_down: set[int]) -> None:
    sent = release.of(Source(tuple(migrations), frozenset(only_down)))
    encoded = release.encode(sent)
    assert encoded.isascii()
    assert release.decode(encoded) == sent
