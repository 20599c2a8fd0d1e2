"""The role database on a real server: what it makes, what it finds and mends, and what each of its roles cannot do."""

from __future__ import annotations

import re
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List

import psycopg2
import pytest
from psycopg2 import errors, sql
from support.migrations import LEDGER, Release
from support.playbooks import CHECKOUT, HOST, PlaybookFailed, Playbooks, Run
from support.postgres import Database, Server
from support.sqlx import Cli

ROLE = "schema_registry.postgresql.database"
NAME = "orders"
ODD = """Schema "R%s" {{ o'Häre \\"""

SQLX = Cli("0.8.6")

# Lines that differ from one dump to the next.
NOISE = re.compile(r"^(?:--|\\(?:un)?restrict|$)")


class Cluster:
    """A server of this file's own, and the role run against it."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.playbooks = Playbooks(directory)

    def task(self, name: str = NAME, **variables: Any) -> Dict[str, Any]:
        """The role for one database; the variables go without their prefix."""
        here = {"name": name, "login_port": self.server.port, "login_unix_socket": str(self.server.socket_directory), **variables}
        unsafe = {f"database_{key}": {"__ansible_unsafe": value} if isinstance(value, str) else value for key, value in here.items()}
        return {"ansible.builtin.include_role": {"name": ROLE}, "vars": unsafe}

    def attempt(self, name: str, **variables: Any) -> Dict[str, Any]:
        """The role for one database, which must be refused; the reason is shown."""
        shown = {"ansible.builtin.debug": {"msg": "REFUSED {{ ansible_failed_result.msg }}"}}
        return {"block": [self.task(name, **variables)], "rescue": [shown]}

    def run(self, tasks: List[Dict[str, Any]], *arguments: str) -> Run:
        return self.playbooks.run(tasks, *arguments)

    def database(self, name: str = NAME) -> Database:
        """A database, whose own user is its migrator."""
        return Database(self.server, name, f"{name}_migrator", "")

    def execute(self, statement: str, name: str = NAME) -> List[Any]:
        """Run statements as the superuser."""
        return self.database(name).execute(statement, user="postgres")

    def exists(self, name: str) -> bool:
        found = self.database("postgres").execute("select from pg_database where datname = %s", [name], user="postgres")
        return bool(found)

    def picture(self) -> List[str]:
        """All that the role declares, and more: roles, settings, owners, privileges."""
        dump = [str(self.server.bin / "pg_dumpall"), "--schema-only", "--dbname", self.server.dsn()]
        lines = subprocess.run(dump, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        return sorted(line for line in lines if not NOISE.match(line))


@pytest.fixture(scope="module")
def cluster(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Server(server.major, {"log_statement": "all"}) as own:
        yield Cluster(own, tmp_path_factory.mktemp("role"))


@pytest.fixture(scope="module")
def declared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Two databases from nothing; in one of them a migrated table, and all that comes with one."""
    tasks = [cluster.task(), cluster.task(ODD, app_may_migrate=True, search_path=["public", 'Ü"'])]
    before = cluster.picture()
    foretold = cluster.run(tasks, "--check", "--diff")
    assert foretold.changed[HOST]
    for word in ("create database orders", "orders_owner", "orders_migrator", "orders_app", "orders_readonly"):
        assert word in foretold.output
    assert cluster.picture() == before

    cluster.run(tasks)
    again = cluster.run(tasks)
    assert again.changed == {HOST: 0}, again.output

    release = Release(tmp_path_factory.mktemp("release"), cluster.database())
    release.add(
        "1_things",
        """
        create table thing (id serial primary key, name text);
        create function twice(integer) returns integer language sql as 'select 2 * $1';
        insert into thing (name) values ('first');
        """,
        "drop function twice(integer); drop table thing;",
    )
    release.migrate()
    return cluster


def roles_of(name: str) -> Dict[str, str]:
    return {kind: f"{name}_{kind}" for kind in ("owner", "migrator", "app", "readonly")}


# --- what each role may do, and what not -------------------------------------------------------------------------------------------------

MAY = [
    ("app", "select * from thing"),
    ("app", "insert into thing (name) values ('of the application')"),
    ("app", "update thing set name = upper(name)"),
    ("app", "delete from thing where id < 0"),
    ("app", "select twice(2)"),
    ("app", f"select * from {LEDGER}"),
    ("app", "select nextval('thing_id_seq')"),
    ("readonly", "select * from thing"),
    ("readonly", f"select * from {LEDGER}"),
    ("migrator", "create table made (id integer)"),
    ("migrator", "drop table thing"),
]

MAY_NOT = [
    ("app", "create table made (id integer)"),
    ("app", "create temporary table made (id integer)"),
    ("app", "create schema made"),
    ("app", "create extension pg_trgm"),
    ("app", "alter table thing add made integer"),
    ("app", "drop table thing"),
    ("app", "truncate thing"),
    ("app", "create trigger made before insert on thing execute function suppress_redundant_updates_trigger()"),
    ("app", "select setval('thing_id_seq', 1)"),
    ("app", f"insert into {LEDGER} (version, description, success, checksum, execution_time) values (2, '', true, '', 0)"),
    ("app", f"update {LEDGER} set success = false"),
    ("app", f"delete from {LEDGER}"),
    ("app", f"delete from {LEDGER}_history"),
    ("app", "set role orders_owner"),
    ("app", "set role orders_migrator"),
    ("app", "alter role orders_app superuser"),
    ("app", "create role made"),
    ("app", "alter database orders connection limit 1"),
    ("app", "copy thing to program 'true'"),
    ("readonly", "set transaction read write; insert into thing (name) values ('no')"),
    ("readonly", "set transaction read write; delete from thing"),
    ("readonly", "set transaction read write; create table made (id integer)"),
    ("readonly", "set transaction read write; create temporary table made (id integer)"),
    ("readonly", "set transaction read write; select nextval('thing_id_seq')"),
    ("readonly", f"set transaction read write; delete from {LEDGER}"),
    ("readonly", "select twice(2)"),
    ("readonly", "set role orders_owner"),
    # Without the owner's rights, which it must put on, it has none.
    ("migrator", "set role none; select * from public.thing"),
    ("migrator", "set role none; create table public.made (id integer)"),
    ("migrator", f"set role none; select * from public.{LEDGER}"),
    ("migrator", "set role none; grant orders_owner to orders_app"),
    ("migrator", "set role orders_app"),
    ("migrator", "alter role orders_app superuser"),
    ("migrator", "create role made"),
    ("migrator", "create extension file_fdw"),
    ("migrator", "copy thing to program 'true'"),
]


def as_role(cluster: Cluster, kind: str, statement: str) -> None:
    """Log in, run a statement, and take it back."""
    with closing(cluster.database().connect(user=roles_of(NAME)[kind])) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        connection.rollback()


@pytest.mark.parametrize(("kind", "statement"), MAY)
def test_may(declared: Cluster, kind: str, statement: str) -> None:
    as_role(declared, kind, statement)


@pytest.mark.parametrize(("kind", "statement"), MAY_NOT)
def test_may_not(declared: Cluster, kind: str, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        as_role(declared, kind, statement)


def test_the_read_only_role_begins_read_only_and_ends_in_time(declared: Cluster) -> None:
    with pytest.raises(errors.ReadOnlySqlTransaction):
        as_role(declared, "readonly", "insert into thing (name) values ('no')")
    assert declared.database().execute("show statement_timeout", user="orders_readonly") == [("5min",)]


def test_nobody_else_comes_in(declared: Cluster) -> None:
    declared.execute("create role passer_by login", "postgres")
    try:
        for user in ("passer_by", "orders_owner", f"{ODD}_app"):
            with pytest.raises(psycopg2.OperationalError, match=r"permission denied for database|not permitted to log in"):
                declared.database().execute("select", user=user)
    finally:
        declared.execute("drop role passer_by", "postgres")


def owners(database: Database) -> List[Any]:
    """To whom the relations in a database belong, extensions' own aside."""
    return database.execute(
        """
        select distinct relowner::regrole::text from pg_class
        where relnamespace = 'public'::regnamespace and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e')
        """
    )


def test_what_the_migrator_makes_is_the_owners(declared: Cluster) -> None:
    assert owners(declared.database()) == [("orders_owner",)]


def test_an_odd_name_is_a_name(declared: Cluster) -> None:
    database = declared.database(ODD)
    assert database.execute("select current_database(), session_user::text, current_user::text") == [(ODD, f"{ODD}_migrator", f"{ODD}_owner")]
    assert database.execute("show search_path") == [('public, "Ü"""',)]
    # It may migrate, and what it makes belongs to the owner, too.
    database.execute("create table made (id integer)", user=f"{ODD}_app")
    try:
        assert database.execute("select relowner::regrole = quote_ident(%s)::regrole from pg_class where relname = 'made'", [f"{ODD}_owner"]) == [(True,)]
    finally:
        database.execute("drop table made")


def test_public_is_the_place_of_extensions_where_it_is_not_the_owners(declared: Cluster) -> None:
    """Also with the rights that everybody had there before PostgreSQL 15."""
    tasks = [declared.task("elsewhere", schemas=["shop"])]
    declared.run(tasks)
    declared.execute("grant create, usage on schema public to public", "elsewhere")
    mended = declared.run(tasks)
    assert mended.changed == {HOST: 1}, mended.output
    again = declared.run(tasks)
    assert again.changed == {HOST: 0}, again.output
    declared.execute('create extension "uuid-ossp" schema public', "elsewhere")
    database = declared.database("elsewhere")
    assert database.execute("show search_path") == [("shop, public, pg_temp",)]
    for kind in ("migrator", "app", "readonly"):
        assert database.execute("select uuid_generate_v4() is not null", user=f"elsewhere_{kind}") == [(True,)]
    for kind in ("app", "readonly"):
        with pytest.raises((errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
            database.execute("create table public.made (id integer)", user=f"elsewhere_{kind}")
    held = "select from pg_namespace, aclexplode(nspacl) where nspname in ('public', 'shop') and grantee = 0"
    assert declared.execute(held, "elsewhere") == []


def test_an_error_does_not_tell_a_verifier(declared: Cluster) -> None:
    declared.execute("alter role postgres in database orders set default_transaction_read_only to on", "postgres")
    try:
        with pytest.raises(PlaybookFailed) as failed:
            declared.run([declared.task(app_password="open sesame")])
    finally:
        declared.execute("alter role postgres in database orders reset default_transaction_read_only", "postgres")
    said = " ".join(str(failed.value).split())
    assert "did not take the passwords" in said
    assert "read-only transaction" in said
    assert "SCRAM-SHA-256" not in said


# --- what somebody changed by hand -------------------------------------------------------------------------------------------------------

# The change, and what the role says that it would do about it.
DRIFT = [
    (
        "alter default privileges for role orders_owner revoke select on tables from orders_readonly",
        "alter default privileges for role orders_owner grant select on tables to orders_readonly",
    ),
    # What was made while a default privilege was missing gets it now.
    ("set role orders_owner; create table late (id integer); reset role", "grant select on table public.late to orders_readonly"),
    ("grant connect, temporary on database orders to public", "revoke connect, temporary on database orders from public cascade"),
    ("grant create, usage on schema public to public", "revoke create, usage on schema public from public cascade"),
    ("alter database orders owner to postgres", "alter database orders owner to orders_owner"),
    ("alter schema public owner to orders_app", "alter schema public owner to orders_owner"),
    ("alter role orders_app superuser createdb", "alter role orders_app login nosuperuser nocreatedb nocreaterole noreplication nobypassrls"),
    ("alter role orders_owner login", "alter role orders_owner nologin nosuperuser"),
    ("alter role orders_migrator inherit connection limit 50", "alter role orders_migrator login noinherit connection limit 5"),
    ("alter role orders_readonly nologin bypassrls", "alter role orders_readonly login nosuperuser"),
    ("grant orders_owner to orders_app with admin option", "revoke orders_owner from orders_app granted by postgres cascade"),
    ("revoke orders_owner from orders_migrator", "grant orders_owner to orders_migrator"),
    ("grant create on database orders to orders_app", "revoke create on database orders from orders_app cascade"),
    ("revoke connect on database orders from orders_readonly", "grant connect on database orders to orders_readonly"),
    ("grant usage on schema public to orders_readonly with grant option", "revoke grant option for usage on schema public from orders_readonly cascade"),
    (
        "alter default privileges for role orders_owner grant execute on functions to public",
        "alter default privileges for role orders_owner revoke execute on functions from public",
    ),
    ("alter database orders set search_path to pg_catalog", "alter database orders set search_path to public, pg_temp"),
    ("alter role orders_migrator in database orders reset role", "alter role orders_migrator in database orders set role to 'orders_owner'"),
    ("alter role orders_app in database orders set role to 'orders_owner'", "alter role orders_app in database orders reset role"),
    (
        "alter role orders_readonly in database orders set statement_timeout to 0",
        "alter role orders_readonly in database orders set statement_timeout to '5min'",
    ),
    (f"grant all on {LEDGER} to orders_app", f"on table public.{LEDGER} from orders_app cascade"),
    (f"grant insert on {LEDGER}_history to public", f"revoke insert on table public.{LEDGER}_history from public cascade"),
    (f"revoke select on {LEDGER} from orders_readonly", f"grant select on table public.{LEDGER} to orders_readonly"),
]

# What the other database loses with app_may_migrate, by hand.
APP_MAY_MIGRATE = sql.SQL("grant {owner} to {app}{options}; alter role {app} in database {name} set role to {owner}")


def test_what_was_changed_by_hand_is_found_and_mended(declared: Cluster) -> None:
    tasks = [declared.task(), declared.task(ODD, search_path=["public", 'Ü"'])]
    before = declared.picture()
    declared.execute(";\n".join(change for change, _mended in DRIFT))

    drifted = declared.picture()
    foretold = declared.run(tasks, "--check")
    unsaid = [mended for _change, mended in DRIFT if mended not in foretold.output]
    assert not unsaid, foretold.output
    assert declared.picture() == drifted

    mended = declared.run(tasks)
    assert mended.changed == {HOST: 2}, mended.output
    assert declared.database().execute("select from late", user="orders_readonly") == []
    with pytest.raises(errors.InsufficientPrivilege):
        declared.database(ODD).execute("create table made (id integer)", user=f"{ODD}_app")
    again = declared.run(tasks)
    assert again.changed == {HOST: 0}, again.output

    declared.database().execute("drop table late")
    names = {"owner": sql.Identifier(f"{ODD}_owner"), "app": sql.Identifier(f"{ODD}_app"), "name": sql.Identifier(ODD)}
    options = sql.SQL(" with inherit false" if declared.server.major >= 16 else "")
    declared.database(ODD).execute(APP_MAY_MIGRATE.format(**names, options=options), user="postgres")
    after = declared.picture()
    assert [line for line in before if line not in after] == []
    assert [line for line in after if line not in before] == []


# --- passwords -----------------------------------------------------------------------------------------------------------------------------

# One with quotes and percent signs, one that SASLprep changes (a ligature, a no-break space), one of digits.
MIGRATOR = """sea'so"n%s %% \\ $1 {curly}"""
APP = "ﬁne\u00a0pässwörd"
READONLY = 8412073396


def as_sqlx_does(database: Database) -> None:
    """Migrate with plain sqlx, which knows nothing of roles; what it makes must be the owner's all the same."""
    if SQLX.program.exists():
        SQLX.migrate("run", Release(CHECKOUT / "sql", database))
    else:
        database.execute(f"create table {LEDGER} (version bigint primary key)")
    assert owners(database) == [(f"{database.name}_owner",)]


def test_passwords(declared: Cluster) -> None:
    server = declared.server
    secrets: Dict[str, Any] = {"migrator": MIGRATOR, "app": APP, "readonly": READONLY}
    tasks = [
        declared.task(**{f"{kind}_password": secret for kind, secret in secrets.items()}),
        declared.task(ODD, search_path=["public", 'Ü"'], app_may_migrate=True, app_password=APP),
        declared.task("plain", migrator_password="sesame"),
    ]

    def comes_in(user: str, password: object, database: str = NAME) -> bool:
        try:
            with closing(psycopg2.connect(host=server.host, port=server.port, dbname=database, user=user, password=str(password))):
                return True
        except psycopg2.OperationalError as error:
            assert "password authentication failed" in str(error)
            return False

    def secret(text: str) -> bool:
        """Whether none of the passwords is in a text, in none of the ways in which JSON, YAML or SQL would write it."""
        hidden = {str(word) for word in (*secrets.values(), "tomorrow's")}
        hidden |= {word.replace("'", "''") for word in hidden} | {word.replace('"', '\\"') for word in hidden} | {word.split(" ")[0] for word in hidden}
        return not [word for word in (*hidden, APP.encode("unicode_escape").decode()) if word in text]

    foretold = declared.run(tasks[:2], "--check")
    assert "alter role orders_migrator password '********'" in foretold.output
    assert not comes_in("orders_migrator", MIGRATOR)

    outputs = [foretold.output, declared.run(tasks, "-vvv", "--diff").output]
    assert all(comes_in(f"{NAME}_{kind}", password) for kind, password in secrets.items())
    assert comes_in(f"{ODD}_app", APP, ODD)
    assert not comes_in("orders_app", MIGRATOR)

    # The same again, the migrator's taken out of the inventory, and the application's as its verifier.
    ((verifier,),) = declared.execute("select rolpassword from pg_authid where rolname = 'orders_app'")
    again = declared.run([declared.task(app_password=verifier, readonly_password=READONLY), *tasks], "-vvv")
    assert again.changed == {HOST: 0}, again.output
    assert comes_in("orders_migrator", MIGRATOR)

    as_sqlx_does(Database(server, "plain", "plain_migrator", "sesame"))
    changed = declared.run([declared.task(app_password="tomorrow's"), declared.task("plain")])
    assert changed.changed == {HOST: 2}, changed.output
    # sqlx gives its ledger the rights of any table; they are taken back.
    assert f"revoke delete, insert, update on table public.{LEDGER} from plain_app" in changed.output
    with pytest.raises(errors.InsufficientPrivilege):
        declared.database("plain").execute(f"delete from {LEDGER}", user="plain_app")
    assert comes_in("orders_app", "tomorrow's")
    assert not comes_in("orders_app", APP)

    outputs += [again.output, changed.output, server.log.read_text()]
    assert [text for text in outputs if not secret(text)] == []
    assert [text for text in outputs[:-1] if "SCRAM-SHA-256$" in text] == []


# --- databases that were there before --------------------------------------------------------------------------------------------------------

INHERITED = """
create table inherited (id serial primary key, at timestamptz);
create sequence counter;
create view seen as select id from inherited;
create materialized view kept as select id from inherited;
create type mood as enum ('good', 'bad');
create domain small as integer check (value < 10);
create function addressed(integer) returns integer language sql as 'select $1';
create aggregate total (integer) (sfunc = int4pl, stype = integer);
"""

# What in the database is not the owner's.
STRANGE = """
select c.oid::regclass::text from pg_class c where c.relnamespace = 'public'::regnamespace and c.relowner <> {owner}
union all select p.oid::regproc::text from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proowner <> {owner}
union all select t.oid::regtype::text from pg_type t where t.typnamespace = 'public'::regnamespace and t.typowner <> {owner}
union all select nspname from pg_namespace where nspname in ('public', 'extra') and nspowner <> {owner}
union all select datname from pg_database where datname = current_database() and datdba <> {owner}
"""


def test_a_database_of_somebody_elses_is_refused_until_it_is_adopted(declared: Cluster) -> None:
    server = declared.server
    server.execute("create role stranger login")
    for statement in (
        "create database foreign_one owner stranger template template0",
        "create database superusers template template0",
        "create database fresh template template0",
        "create database latin template template0 encoding 'LATIN1' locale 'C'",
    ):
        server.execute(statement)
    declared.execute(INHERITED, "superusers")
    declared.execute("grant create on schema public to stranger", "foreign_one")
    declared.database("foreign_one").execute(INHERITED, user="stranger")
    before = declared.picture()
    refused = declared.run(
        [
            declared.attempt("foreign_one"),
            declared.attempt("superusers"),
            declared.attempt("latin", locale="C"),
            declared.attempt("fresh", locale="C"),
            declared.attempt("ä" * 28),
        ]
    )
    said = [" ".join(reason.split()) for reason in re.findall(r"REFUSED ((?:.|\n)*?)\n\n", refused.output)]
    for reason, words in zip(
        said,
        [
            "foreign_one belongs to stranger. Set database_adopt to true",
            "superusers belongs to postgres and is not empty. Set database_adopt to true",
            "latin is encoded in LATIN1",
            "fresh has the locale",
            "database_name is 56 bytes long",
        ],
    ):
        assert words in reason
    assert len(said) == 5
    assert refused.changed == {HOST: 0}
    assert declared.picture() == before

    tasks = [
        declared.task("foreign_one", adopt=True, schemas=["public", "extra"]),
        declared.task("superusers", adopt=True),
        declared.task("fresh"),
    ]
    declared.run(tasks)
    for name in ("foreign_one", "superusers"):
        assert declared.database(name).execute(STRANGE.format(owner=f"'{name}_owner'::regrole"), user="postgres") == []
        assert declared.database(name).execute("select addressed(1), total(id) from inherited", user=f"{name}_app") == [(1, None)]
    again = declared.run([declared.task("foreign_one", schemas=["public", "extra"]), declared.task("superusers"), declared.task("fresh")])
    assert again.changed == {HOST: 0}, again.output
