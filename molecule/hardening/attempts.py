"""What each role of the database may do, and what it tries and must not be able to do. Runs on the database's host, with its own Python."""

import sys

import psycopg2

DATABASE = "schema_registry"
FORBIDDEN, READ_ONLY, NO_LOGIN, WRONG_PASSWORD = "42501", "25006", "28000", "28P01"

# Nobody but the superuser.
ADMINISTRATION = (
    "alter system set fsync to off",
    "create role intruder",
    "create database intruder",
    "alter role postgres nosuperuser",
    "set role postgres",
    "set session authorization postgres",
    "copy (select 1) to program 'id'",
    "copy public.subjects from '/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select rolpassword from pg_authid",
    "create extension pg_stat_statements",
    "select pg_reload_conf()",
)
# Nobody but the owner.
DEFINITION = (
    "create table public.intruder (id int)",
    "create table pg_temp.intruder (id int)",
    "create schema intruder",
    "create function public.intruder() returns int language sql as 'select 1'",
    "create view public.intruder as select 1",
    "alter table public.schemas add column intruder int",
    "create index on public.schemas (created_by)",
    "drop table public.compatibility_checks",
    "truncate public.schemas",
    "create trigger intruder before insert on public.schemas for each row execute function suppress_redundant_updates_trigger()",
    "set role schema_registry_owner",
    "set role schema_registry_migrator",
    "insert into public._sqlx_migrations values (1, 'intruder', now(), true, '', 0)",
    "update public._sqlx_migrations set success = false",
    "delete from public._sqlx_migrations",
    "delete from public._sqlx_migrations_history",
)
WRITING = (
    "insert into public.subjects (name, default_compatibility_level) values ('orders', 'BACKWARD')",
    "update public.subjects set description = 'changed'",
    "delete from public.subjects",
)
READING = ("select count(*) from public.schemas", "select count(*) from public._sqlx_migrations", "select * from public.get_schema_statistics()")

# These do not run in transactions.
OUTSIDE = ("alter system", "create database", "set default")

STATEMENTS = (
    *(("app", statement, None) for statement in (*READING, *WRITING)),
    *(("app", statement, FORBIDDEN) for statement in (*DEFINITION, *ADMINISTRATION)),
    *(("readonly", statement, None) for statement in READING[:2]),
    *(("readonly", statement, READ_ONLY) for statement in WRITING),
    # Whoever lifts that has gained nothing.
    ("readonly", "set default_transaction_read_only to off", None),
    *(("readonly", statement, FORBIDDEN) for statement in (*WRITING, *DEFINITION, *ADMINISTRATION)),
    *(("migrator", statement, None) for statement in (*READING, *DEFINITION[:1], *DEFINITION[2:8])),
    *(("migrator", statement, FORBIDDEN) for statement in ADMINISTRATION if "extension pg_" not in statement),
)

# Who comes in, how, and what is said to those who must not.
LOGINS = (
    ({"user": f"{DATABASE}_app"}, None),
    ({"user": f"{DATABASE}_app", "password": "wrong"}, "password authentication failed"),
    ({"user": f"{DATABASE}_app", "sslmode": "disable"}, "rejects connection"),
    ({"user": f"{DATABASE}_app", "ssl_min_protocol_version": "TLSv1", "ssl_max_protocol_version": "TLSv1.1"}, ""),
    ({"user": f"{DATABASE}_app", "dbname": "postgres"}, "rejects connection"),
    ({"user": f"{DATABASE}_app", "host": "/var/run/postgresql"}, "rejects connection"),
    ({"user": f"{DATABASE}_owner"}, "rejects connection"),
    ({"user": "postgres"}, "rejects connection"),
    ({"user": "postgres", "host": "/var/run/postgresql"}, "Peer authentication failed"),
    ({"user": f"{DATABASE}_migrator", "host": "/var/run/postgresql"}, "Peer authentication failed"),
)


def connect(**parameters):
    kind = parameters["user"].rpartition("_")[2]
    return psycopg2.connect(**{"host": "127.0.0.1", "dbname": DATABASE, "sslmode": "require", "password": f"{kind}'s \"secret\"", **parameters})


def attempt(connection, statement):
    """The SQLSTATE of what happens; None if it works. Nothing of it stays, but a setting of the session."""
    connection.autocommit = statement.startswith(OUTSIDE)
    try:
        connection.cursor().execute(statement)
    except psycopg2.Error as error:
        return error.pgcode
    finally:
        if not connection.autocommit:
            connection.rollback()
    return None


def main():
    wrong = []
    for parameters, expected in LOGINS:
        try:
            connect(**parameters).close()
            said = None
        except psycopg2.OperationalError as error:
            said = str(error)
        if (said is None) != (expected is None) or (expected and expected not in said):
            wrong.append(f"{parameters}: {said}")
    for role in ("app", "readonly", "migrator"):
        connection = connect(user=f"{DATABASE}_{role}")
        for _role, statement, expected in (each for each in STATEMENTS if each[0] == role):
            found = attempt(connection, statement)
            if found != expected:
                wrong.append(f"{role}: {statement}: {found}, not {expected}")
        connection.close()
    print(f"{len(LOGINS)} logins, {len(STATEMENTS)} statements")
    return "\n".join(wrong)


sys.exit(main() or 0)
