"""The queries that must be fast, each by the index that is there for it; and versions in their right order.

On a registry of moderate size, vacuumed and analyzed once, on a server without autovacuum: so that plans are the same
every time.
"""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass, field
from functools import cmp_to_key
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest
from support import registry
from support.postgres import Database, Server

SCHEMAS = 20_000
VALIDATIONS = 100_000
BIG = {"schemas", "schema_dependencies", "validation_history", "compatibility_checks", "schema_access_log"}
VERSION = "version_major, version_minor, version_patch"
NEWEST_FIRST = "version_major desc, version_minor desc, version_patch desc"
PRECEDENCE = f"{NEWEST_FIRST}, version_precedence(version_prerelease, version_build) desc"


@dataclass(frozen=True)
class Query:
    """A query of the application; `{subject}` and `{id}` stand for values that exist."""

    name: str
    sql: str
    indexes: Set[str]  # these are used, and no others
    index_only: bool = False  # and no page of a table is visited
    sorts: bool = False  # the result need not come in its order from the index
    buffers: int = field(default=1000)  # at most so many pages are touched


QUERIES = [
    Query("1 by id", "select * from schemas where id = '{id}'", {"schemas_pkey"}, buffers=5),
    Query(
        "2 a live version",
        "select * from schemas where subject = '{subject}' and version_major = 0 and version_minor = 1 and version_patch = 2 and deleted_at is null",
        {"schemas_live_version_idx", "schemas_subject_version_key"},
        buffers=10,
    ),
    Query(
        "2 a version, deleted too",
        "select * from schemas where subject = '{subject}' and version_major = 0 and version_minor = 1 and version_patch = 2",
        {"schemas_subject_version_key"},
        buffers=10,
    ),
    Query(
        "2 a version to the last part",
        """select * from schemas where subject = '{subject}' and version_major = 0 and version_minor = 1 and version_patch = 2
           and coalesce(version_prerelease, '') = '' and coalesce(version_build, '') = ''""",
        {"schemas_subject_version_key"},
        buffers=10,
    ),
    Query(
        "3 latest",
        f"select * from schemas where subject = '{{subject}}' and deleted_at is null order by {NEWEST_FIRST} limit 1",
        {"schemas_live_version_idx", "schemas_subject_version_key"},
        buffers=10,
    ),
    Query(
        "3 latest, id and numbers",
        f"select id, subject, {VERSION} from schemas where subject = '{{subject}}' and deleted_at is null order by {NEWEST_FIRST} limit 1",
        {"schemas_live_version_idx"},
        index_only=True,
        buffers=5,
    ),
    Query(
        "3 latest by precedence, id and whole version",
        f"""select id, subject, {VERSION}, version_prerelease, version_build from schemas
            where subject = '{{subject}}' and deleted_at is null order by {PRECEDENCE} limit 1""",
        {"schemas_live_version_idx"},
        index_only=True,
        buffers=5,
    ),
    Query(
        "4 versions",
        f"select * from schemas where subject = '{{subject}}' and deleted_at is null order by {NEWEST_FIRST}",
        {"schemas_live_version_idx"},
        sorts=True,
    ),
    Query(
        "4 versions, ids and numbers",
        f"select id, {VERSION} from schemas where subject = '{{subject}}' and deleted_at is null order by {NEWEST_FIRST}",
        {"schemas_live_version_idx"},
        index_only=True,
        buffers=20,
    ),
    Query(
        "4 versions, deleted too",
        f"select * from schemas where subject = '{{subject}}' order by {NEWEST_FIRST}",
        {"schemas_subject_version_key"},
        sorts=True,
    ),
    Query(
        "5 subjects",
        "select distinct subject from schemas where deleted_at is null order by subject",
        {"schemas_live_subject_idx"},
        index_only=True,
        buffers=100,
    ),
    Query(
        "6 search by part of the subject",
        "select * from schemas where subject ilike '%topic-1999%' and deleted_at is null order by created_at desc limit 50",
        {"schemas_live_search_idx"},
        sorts=True,
    ),
    Query(
        "6 search by owner",
        "select * from schemas where metadata->>'owner' = 'owner-199' and deleted_at is null order by created_at desc limit 500",
        {"schemas_live_search_idx"},
        sorts=True,
    ),
    Query(
        "6 search by tag",
        "select * from schemas where metadata->'tags' ? 'tag-7' and deleted_at is null order by subject limit 50 offset 10",
        {"schemas_live_search_idx"},
        sorts=True,
    ),
    Query(
        "6 search by everything",
        f"""select * from schemas where subject ilike '%team-7.%' and schema_type = 'JSON' and metadata->>'owner' = 'owner-47'
            and metadata->>'state' = 'ACTIVE' and metadata->'tags' ? 'common' and deleted_at is null order by {NEWEST_FIRST} limit 50""",
        {"schemas_live_search_idx"},
        sorts=True,
    ),
    Query(
        "6 search by what most have, newest first",
        "select * from schemas where metadata->>'state' = 'ACTIVE' and deleted_at is null order by created_at desc limit 50 offset 100",
        {"schemas_live_created_at_idx"},
    ),
    Query(
        "6 search by what most have, oldest first",
        "select * from schemas where schema_type = 'JSON' and deleted_at is null order by created_at limit 50",
        {"schemas_live_created_at_idx"},
    ),
    Query(
        "6 search by what most have, by subject",
        "select * from schemas where metadata->'tags' ? 'common' and metadata->>'state' = 'ACTIVE' and deleted_at is null order by subject desc limit 50",
        {"schemas_live_subject_idx"},
    ),
    Query(
        "6 search by what most have, by version",
        f"select * from schemas where metadata->>'state' = 'ACTIVE' and deleted_at is null order by {NEWEST_FIRST} limit 50",
        {"schemas_live_precedence_idx"},
    ),
    Query(
        "6 search for anything, by precedence",
        f"select * from schemas where deleted_at is null order by {PRECEDENCE} limit 50",
        {"schemas_live_precedence_idx"},
    ),
    Query(
        "7 latest ACTIVE",
        f"""select * from schemas where subject = '{{subject}}' and metadata->>'state' = 'ACTIVE' and deleted_at is null
            order by {NEWEST_FIRST} limit 1""",
        {"schemas_live_version_idx"},
        buffers=10,
    ),
    Query(
        "7 by compatibility level",
        "select * from schemas where metadata->>'compatibility_level' = 'FORWARD' and deleted_at is null",
        {"schemas_live_search_idx"},
    ),
    Query("8 metadata", """select * from schemas where metadata @> '{{"owner": "owner-7", "tags": ["common"]}}'""", {"schemas_containment_idx"}),
    Query("8 content", """select * from schemas where content @> '{{"name": "Record42"}}'""", {"schemas_containment_idx"}),
    Query(
        "9 dependencies",
        """with recursive needed as (
               select depends_on_id as id from schema_dependencies where schema_id = '{id}'
               union
               select depends_on_id from needed join schema_dependencies on schema_id = needed.id
           ) select id from needed""",
        {"schema_dependencies_pkey"},
        index_only=True,
    ),
    Query(
        "9 dependents",
        """with recursive dependent as (
               select schema_id as id from schema_dependencies where depends_on_id = '{id}'
               union
               select schema_id from dependent join schema_dependencies on depends_on_id = dependent.id
           ) select id from dependent""",
        {"schema_dependencies_depends_on_idx"},
        index_only=True,
        buffers=5000,
    ),
    Query(
        "10 validations of a schema",
        "select * from validation_history where schema_id = '{id}' order by validated_at desc limit 50",
        {"validation_history_schema_idx"},
    ),
    Query(
        "10 validations of the last hour",
        "select * from validation_history where validated_at > now() - interval '1 hour' order by validated_at desc",
        {"validation_history_pkey"},
    ),
    Query(
        "10 slow validations",
        "select * from validation_history where duration_ms > 100 order by duration_ms desc limit 50",
        {"validation_history_slow_idx"},
    ),
    Query(
        "11 checks of a subject",
        "select * from compatibility_checks where subject = '{subject}' order by checked_at desc limit 10",
        {"compatibility_checks_subject_idx"},
    ),
    Query(
        "11 checks of the last hour",
        "select * from compatibility_checks where checked_at > now() - interval '1 hour'",
        {"compatibility_checks_pkey"},
    ),
    Query(
        "12 accesses to a schema",
        "select * from schema_access_log where schema_id = '{id}' order by accessed_at desc limit 50",
        {"schema_access_log_schema_idx"},
    ),
    Query(
        "12 popular schemas",
        "select * from popular_schemas order by access_count desc limit 100",
        {"popular_schemas_access_count_idx"},
    ),
    Query(
        "13 soft delete",
        "update schemas set deleted_at = now(), metadata = jsonb_set(metadata, '{{state}}', '\"DELETED\"') where id = '{id}' and deleted_at is null",
        {"schemas_pkey"},
        buffers=200,
    ),
    Query(
        "13 change of state",
        "update schemas set metadata = jsonb_set(metadata, '{{state}}', '\"DEPRECATED\"') where id = '{id}'",
        {"schemas_pkey"},
        buffers=200,
    ),
    Query(
        "13 register",
        """insert into schemas (subject, version_major, version_minor, version_patch, version_prerelease, schema_type, content, metadata, compatibility_level)
           values ('{subject}', 999, 0, 0, 'rc.1', 'JSON', '{{"type": "record", "name": "New"}}',
                   '{{"state": "DRAFT", "owner": "owner-1", "tags": ["new"], "compatibility_level": "FULL"}}', 'FULL')""",
        set(),
        buffers=200,
    ),
    Query("hard delete", "select id from schemas where deleted_at < now() - interval '5 days'", {"schemas_deleted_at_idx"}),
]


@dataclass(frozen=True)
class Filled:
    database: Database
    subject: str
    id: str


@pytest.fixture(scope="module")
def filled(server: Server) -> Iterator[Filled]:
    # The collection's servers know that they are on solid-state disks.
    with Server(server.major, {"autovacuum": "off", "random_page_cost": 1.1}) as quiet, quiet.database() as database:
        registry.migrate(database)
        registry.fill(database, schemas=SCHEMAS, subjects=SCHEMAS // 10, validations=VALIDATIONS)
        [(subject,)] = database.execute("select subject from subject_versions order by version_count desc, subject offset 20 limit 1")
        # In the middle of the graph of dependencies, with some on either side, and often validated and read.
        [(schema_id,)] = database.execute("""
            select id::text from popular_schemas where access_count > 10
            and exists (select from schema_dependencies where schema_id = id) and exists (select from schema_dependencies where depends_on_id = id)
            order by access_count, id limit 1
        """)
        yield Filled(database, subject, schema_id)


def walk(plan: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from walk(child)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_a_query_is_served_by_its_index(filled: Filled, query: Query) -> None:
    statement = query.sql.format(subject=filled.subject, id=filled.id)
    with closing(filled.database.connect()) as connection, connection.cursor() as cursor:
        # A connection's first time also reads the catalogue.
        for _unused in range(2):
            cursor.execute(f"explain (analyze, buffers, format json) {statement}")
            [([explained],)] = cursor.fetchall()
            connection.rollback()
    root = explained["Plan"]
    nodes = list(walk(root))

    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    assert used <= query.indexes and bool(used) == bool(query.indexes), used
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG]
    assert not [trigger for trigger in explained.get("Triggers", []) if "Constraint Name" not in trigger]
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= query.buffers
    if not query.sorts:
        assert not [node for node in nodes if node["Node Type"].endswith("Sort")]
    if query.index_only:
        scans = [node for node in nodes if "Index Name" in node]
        assert {node["Node Type"] for node in scans} == {"Index Only Scan"}
        assert sum(node["Heap Fetches"] for node in scans) == 0
    if root["Node Type"] != "ModifyTable":
        assert root["Actual Rows"] > 0, "the data does not try the query"


def test_the_view_of_versions_agrees_with_the_table(filled: Filled) -> None:
    [(wrong,)] = filled.database.execute(f"""
        select count(*)
        from subject_versions full join (
            select distinct on (subject) subject, {VERSION}, created_at, count(*) over (partition by subject) as version_count
            from schemas where deleted_at is null order by subject, {PRECEDENCE}
        ) as latest using (subject)
        where (latest_major, latest_minor, latest_patch, latest_version_at, subject_versions.version_count, cardinality(versions))
            is distinct from (version_major, version_minor, version_patch, created_at, latest.version_count, latest.version_count)
    """)
    assert wrong == 0


def test_the_popular_ones_are_those_most_read(filled: Filled) -> None:
    counts = [count for (count,) in filled.database.execute("select access_count from popular_schemas order by access_count desc")]
    expected = filled.database.execute("""
        select sum(access_count) from schema_access_log join schemas on schemas.id = schema_id
        where deleted_at is null and accessed_at > (select max(accessed_at) from schema_access_log) - interval '7 days'
        group by schemas.id order by 1 desc limit 1000
    """)
    assert len(counts) == 1000
    # The view's week began a moment later or earlier than this one.
    assert sum(counts) == pytest.approx(sum(count for (count,) in expected), rel=0.001)


def test_statistics_count_every_schema_once(filled: Filled) -> None:
    [(total, subjects, active, deprecated, deleted, per_day, duration)] = filled.database.execute("select * from get_schema_statistics()")
    [expected] = filled.database.execute("""
        select count(*), count(distinct subject),
               count(*) filter (where deleted_at is null and metadata->>'state' = 'ACTIVE'),
               count(*) filter (where deleted_at is null and metadata->>'state' = 'DEPRECATED'),
               count(*) filter (where deleted_at is not null)
        from schemas
    """)
    assert (total, subjects, active, deprecated, deleted) == expected
    assert float(per_day) == pytest.approx(VALIDATIONS / 30, rel=0.01)
    assert 0 < duration < 100


def compare_identifiers(one: str, other: str) -> int:
    """As semver.org, section 11, has it."""
    if one.isdigit() and other.isdigit():
        return int(one) - int(other)
    if one.isdigit() or other.isdigit():
        return -1 if one.isdigit() else 1
    return (one > other) - (one < other)


def compare_prereleases(one: Optional[str], other: Optional[str]) -> int:
    if not one or not other:
        return bool(other) - bool(one) if one != other else 0
    left, right = one.split("."), other.split(".")
    return next((order for order in map(compare_identifiers, left, right) if order), len(left) - len(right))


def test_precedence_is_that_of_semver_org(database: Database) -> None:
    """The examples of semver.org, and a thousand random pre-releases against its rules, written in another language."""
    registry.migrate(database, 1)
    source = random.Random(11)
    identifiers = ["0", "1", "2", "9", "10", "11", "99999999999999999999", "100000000000000000000", "a", "A", "alpha", "alpha-1", "beta", "-", "--", "1a", "rc"]
    prereleases: List[Optional[str]] = [None, "alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1"]
    prereleases += [".".join(source.choices(identifiers, k=source.randint(1, 4))) for _unused in range(1000)]
    prereleases = list(dict.fromkeys(prereleases))
    source.shuffle(prereleases)

    ordered = database.execute("select p from unnest(%s::text[]) as p order by version_precedence(p, null)", [prereleases])
    assert [prerelease for (prerelease,) in ordered] == sorted(prereleases, key=cmp_to_key(compare_prereleases))
    # A build decides only between what is otherwise equal.
    examples: List[Tuple[Optional[str], Optional[str]]] = [(None, "a"), ("", "b"), ("rc.1", None), ("rc.1", "a")]
    expected = [("rc.1", None), ("rc.1", "a"), (None, "a"), ("", "b")]
    built = database.execute("select p, b from unnest(%s::text[], %s::text[]) as v (p, b) order by version_precedence(p, b)", [*map(list, zip(*examples))])
    assert built == expected

    keys = """select count(distinct version_precedence(p, b)), count(distinct (coalesce(p, ''), coalesce(b, '')))
              from unnest(%s::text[]) as p, unnest(array[null, '', 'a', 'a.b', '1', '10', '-']) as b"""
    [(different_keys, different_versions)] = database.execute(keys, [prereleases])
    assert different_keys == different_versions


def test_latest_is_the_highest_version_alive(database: Database) -> None:
    """Also where a query orders by the three numbers alone, as the application does."""
    registry.migrate(database)
    versions = ["1.0.0-alpha", "1.0.0-rc.1", "1.0.0", "1.0.0-beta.11", "1.9.0", "1.10.0", "1.1000.0-rc.2", "1.1000.0", "1.1000.0-rc.10"]
    for version in random.Random(2).sample(versions, len(versions)):
        numbers, _unused, prerelease = version.partition("-")
        database.execute(
            f"""insert into schemas (subject, {VERSION}, version_prerelease, schema_type, content, metadata, compatibility_level)
               values ('orders', %s, %s, %s, %s, 'JSON', '{{}}', '{{"state": "ACTIVE"}}', 'FULL')""",
            [*numbers.split("."), prerelease or None],
        )
    latest = f"""select format('%s.%s.%s', {VERSION}) || coalesce('-' || version_prerelease, '') from schemas
                 where subject = 'orders' and deleted_at is null and metadata->>'state' = 'ACTIVE' order by {PRECEDENCE} limit 1"""
    for expected in ["1.1000.0", "1.1000.0-rc.10", "1.1000.0-rc.2", "1.10.0", "1.9.0", "1.0.0", "1.0.0-rc.1", "1.0.0-beta.11", "1.0.0-alpha"]:
        by_numbers = latest.replace(PRECEDENCE, NEWEST_FIRST)
        assert database.execute(latest) == [(expected,)]
        assert database.execute(f"set enable_seqscan = off; set enable_sort = off; set enable_bitmapscan = off; {by_numbers}") == [(expected,)]
        database.execute(
            f"""update schemas set deleted_at = now(), metadata = jsonb_set(metadata, '{{state}}', '"DELETED"')
                where id = (select id from schemas where deleted_at is null order by {PRECEDENCE} limit 1)"""
        )
    assert database.execute(latest) == []
