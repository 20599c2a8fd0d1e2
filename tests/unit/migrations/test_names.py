"""File names say to us what they say to sqlx."""

from __future__ import annotations

import re

import pytest
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import names
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.names import DOWN, SIMPLE, UP, FileName
from hypothesis import example, given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1_a.sql", FileName(1, "a", SIMPLE)),
        ("20240101000001_initial_schema.up.sql", FileName(20240101000001, "initial schema", UP)),
        ("20240101000001_initial_schema.down.sql", FileName(20240101000001, "initial schema", DOWN)),
        # The type is the suffix, and only that.
        ("1_up.sql", FileName(1, "up", SIMPLE)),
        ("1_down.sql", FileName(1, "down", SIMPLE)),
        ("1_a.Up.sql", FileName(1, "a.Up", SIMPLE)),
        ("1_a.undo.sql", FileName(1, "a.undo", SIMPLE)),
        ("1_aup.sql", FileName(1, "aup", SIMPLE)),
        # It is taken off as often as it is there.
        ("1_a.sql.sql", FileName(1, "a", SIMPLE)),
        ("1_a.up.sql.up.sql", FileName(1, "a", UP)),
        ("1_a.down.up.sql", FileName(1, "a.down", UP)),
        ("1_a.sql.up.sql", FileName(1, "a.sql", UP)),
        ("1_.sql", FileName(1, "", SIMPLE)),
        ("1_.up.sql", FileName(1, "", UP)),
        # Only the first underscore separates; the others are spaces.
        ("1__a__b.sql", FileName(1, " a  b", SIMPLE)),
        ("1_ é\N{REPLACEMENT CHARACTER}.sql", FileName(1, " é\N{REPLACEMENT CHARACTER}", SIMPLE)),
        ("1_a\nb.sql", FileName(1, "a\nb", SIMPLE)),
        # Versions are Rust's i64.
        ("007_a.sql", FileName(7, "a", SIMPLE)),
        ("+1_a.sql", FileName(1, "a", SIMPLE)),
        ("-1_a.sql", FileName(-1, "a", SIMPLE)),
        ("-0_a.sql", FileName(0, "a", SIMPLE)),
        ("9223372036854775807_a.sql", FileName(2**63 - 1, "a", SIMPLE)),
        ("-9223372036854775808_a.sql", FileName(-(2**63), "a", SIMPLE)),
        ("000000000000000000000000000000001_a.sql", FileName(1, "a", SIMPLE)),
    ],
)
def test_a_name_states_version_description_and_kind(name: str, expected: FileName) -> None:
    assert names.parse(name) == expected


@pytest.mark.parametrize(
    "name", ["1.sql", "1-a.sql", "1_a.SQL", "1_sql", "1_a.sql.bak", "1_a.sql~", "1_a.sql ", "1_a.sql\n", "readme.md", "x_y.txt", "_", ""]
)
def test_what_sqlx_passes_over_is_no_migration(name: str) -> None:
    assert names.parse(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "seed_data.sql",
        "V1__x.sql",
        "_x.sql",
        " 1_x.sql",
        "1 _x.sql",
        "1\n_x.sql",
        "1-2_x.sql",
        "1.0_x.sql",
        "0x1_x.sql",
        "+_x.sql",
        "--1_x.sql",
        "\N{ARABIC-INDIC DIGIT ONE}_x.sql",
        "\N{FULLWIDTH DIGIT ONE}_x.sql",
        "\N{SUPERSCRIPT TWO}_x.sql",
        "\N{MINUS SIGN}1_x.sql",
    ],
)
def test_a_migration_without_a_version_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="integer version"):
        names.parse(name)


@pytest.mark.parametrize("name", ["9223372036854775808_x.sql", "-9223372036854775809_x.sql", "9" * 200 + "_x.sql"])
def test_a_version_beyond_64_bits_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        names.parse(name)


def as_the_contract_says(name: str) -> object:
    """The rules of sqlx once more, in the order and the words of its documentation, to compare with."""
    if "_" not in name:
        return None
    first = name.index("_")
    head, tail = name[:first], name[first + 1 :]
    if tail[-4:] != ".sql":
        return None
    negative, digits = head.startswith("-"), head[1:] if head[:1] in {"+", "-"} else head
    if not digits or not set(digits) <= set("0123456789"):
        return "refused"
    version = sum("0123456789".index(digit) * 10**power for power, digit in enumerate(reversed(digits)))
    version = -version if negative else version
    if version.bit_length() > 63 and version != -(2**63):
        return "refused"
    for kind, suffix in (("up", r"\.up\.sql"), ("down", r"\.down\.sql"), ("simple", r"\.sql")):
        if re.search(suffix + r"\Z", tail):
            return version, re.sub(f"(?:{suffix})+\\Z", "", tail).replace("_", " "), kind
    raise AssertionError("unreachable")


FRAGMENTS = ["_", "__", ".sql", ".up", ".down", ".SQL", ".up.sql", ".down.sql", "a", "up", "0", "1", "7", "9223372036854775807", "8", "+", "-"]
NAMES = st.lists(st.sampled_from([*FRAGMENTS, " ", "\n", "é", "\N{ARABIC-INDIC DIGIT ONE}"]), max_size=8).map("".join)
PLAUSIBLE = st.builds(
    "{}_{}{}".format, st.integers(-(2**64), 2**64), st.text("a_.é", max_size=4), st.lists(st.sampled_from(FRAGMENTS), max_size=3).map("".join)
)


@given(st.one_of(NAMES, PLAUSIBLE, PLAUSIBLE.map("{}.sql".format)))
@example("-9223372036854775808_.sql")
def test_any_name_is_read_as_the_rules_of_sqlx_say(name: str) -> None:
    try:
        found: object = names.parse(name)
    except ValueError:
        found = "refused"
    assert found == as_the_contract_says(name)
