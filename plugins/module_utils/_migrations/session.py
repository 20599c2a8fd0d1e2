# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One PostgreSQL connection, said once: how it is made, what it is asked first, how it is put back as it was.

Everything goes through psycopg2's simple query protocol without parameters, so that nothing interprets a ``%`` in a
migration, and several statements of ours may share a message.
"""

from __future__ import annotations

import typing as t

from .errors import ConnectionFailed
from .records import Target

try:
    import psycopg2
    import psycopg2.extensions
except ImportError:
    HAS_PSYCOPG2 = False
    ServerError: t.Any = type("ServerError", (Exception,), {})
else:
    HAS_PSYCOPG2 = True
    ServerError = psycopg2.Error

# What sqlx sets at connection (sqlx-postgres/src/connection/establish.rs); a literal timestamp in a migration depends on it.
_SQLX_SETTINGS = {"DateStyle": "ISO, MDY", "TimeZone": "UTC", "extra_float_digits": "2", "client_encoding": "UTF8"}

# Limits that a role or database may carry and that would end a migration half-way for no reason of its own.
_NO_LIMIT = {"idle_in_transaction_session_timeout": "0", "standard_conforming_strings": "on"}

# The same, and one that ends a statement whose client was killed, on the servers that know them: since which version, and the value.
_SINCE = (
    (140000, "client_connection_check_interval", "'2s'"),
    (140000, "idle_session_timeout", "0"),
    (170000, "transaction_timeout", "0"),
)

# Either end notices within a minute that the other's machine or the network is gone; the system's defaults take two hours.
_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}

# NAMEDATALEN - 1: PostgreSQL cuts application_name there.
_NAME_MAX = 63


def literal(value: str) -> str:
    """A string as an SQL literal (``standard_conforming_strings`` is on in every session)."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def _escape(value: str) -> str:
    """A value inside libpq's ``options``, where a backslash protects a space."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def create_schemas(names: t.Iterable[str]) -> str:
    """Statements that make the schemas that are not there yet."""
    return "".join("create schema if not exists {0};".format(identifier(name)) for name in names)


def milliseconds(seconds: float) -> int:
    """PostgreSQL's timeouts count milliseconds, and read 0 as 'no limit'."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


class Session:
    """A connection in autocommit: transactions are begun and ended by what is sent.

    :raises ConnectionFailed: if there is no connection to be had, or not one that migrations can run over.
    """

    def __init__(self, target: Target) -> None:
        if not HAS_PSYCOPG2:
            raise ConnectionFailed(
                "The Python on this host has no psycopg2.", recovery="Install python3-psycopg2 on the host and run again."
            )
        self.target = target
        self.messages = 0
        settings = dict(
            _SQLX_SETTINGS,
            lock_timeout=str(milliseconds(target.lock_timeout)),
            statement_timeout=str(milliseconds(target.statement_timeout)),
            **_NO_LIMIT,
            **{"tcp_" + name: str(value) for name, value in _KEEPALIVES.items()}
        )
        if target.session_role:
            settings["role"] = target.session_role
        parameters: t.Dict[str, t.Any] = dict(_KEEPALIVES, dbname=target.database, application_name=target.application[:_NAME_MAX], connect_timeout=10)
        parameters.update((name, value) for name, value in target.parameters.items() if value not in (None, ""))
        options = ["-c {0}={1}".format(name, _escape(value)) for name, value in settings.items()]
        # The last one of a name counts.
        parameters["options"] = " ".join([*options, str(parameters.get("options", ""))]).strip()
        try:
            self.connection = psycopg2.connect(**parameters)
        except psycopg2.Error as error:
            raise ConnectionFailed(
                "No connection to {0}: {1}".format(target, " ".join(str(error).split())),
                recovery="Nothing was changed. Check that the server runs, the address, the user and the password, then run again.",
            ) from error
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        version = self.connection.server_version
        self._settings = "".join("set {0} = {1};".format(name, value) for since, name, value in _SINCE if version >= since)
        if target.session_role:
            self._settings += "set role {0};".format(identifier(target.session_role))

    @property
    def reset(self) -> str:
        """Statements that undo whatever a file may have done to the session; they can share a message with others."""
        return (
            "reset session authorization; reset all; close all; unlisten *; deallocate all; discard temp; discard sequences;"
            + self._settings
        )

    @property
    def database(self) -> str:
        return str(self.connection.info.dbname)

    @property
    def server_version(self) -> str:
        """Of the server, without the distribution's addition: 15.18."""
        return str(self.connection.info.parameter_status("server_version")).split(" ", 1)[0]

    @property
    def in_recovery(self) -> bool:
        return self._reported("in_hot_standby", "pg_is_in_recovery()")

    @property
    def read_only(self) -> bool:
        return self._reported("default_transaction_read_only", "current_setting('default_transaction_read_only')::bool")

    def _reported(self, parameter: str, expression: str) -> bool:
        """What servers since 14 report by themselves, and older ones are asked."""
        reported = self.connection.info.parameter_status(parameter)
        return bool(self.value("select " + expression)) if reported is None else reported == "on"

    def must_be_direct(self, backend_pid: int) -> None:
        """Refuse a pooler, where session locks and settings do not hold.

        :param backend_pid: what ``pg_backend_pid()`` said in this session.
        :raises ConnectionFailed: if that is not the process that libpq connected to.
        """
        if backend_pid != self.connection.info.backend_pid:
            raise ConnectionFailed(
                "{0} is behind a connection pooler, where session locks and settings do not hold.".format(self.target),
                recovery="Nothing was changed. Connect to the server itself.",
            )

    def must_be_writable(self) -> None:
        """:raises ConnectionFailed: on a standby, and where transactions are read-only by default."""
        if self.in_recovery:
            raise ConnectionFailed(
                "{0} is a standby: it follows its primary and cannot be migrated.".format(self.target),
                recovery="Nothing was changed. Run against the primary; the standby receives the migrations by replication.",
            )
        if self.read_only:
            raise ConnectionFailed(
                "{0} is read-only (default_transaction_read_only is on).".format(self.target),
                recovery="Nothing was changed. Use a login that may write.",
            )

    def run(self, sql: t.Union[str, bytes]) -> None:
        """Send one message and wait for its end.

        :raises psycopg2.Error: as the server reports it.
        """
        self.messages += 1
        try:
            self.cursor.execute(sql)
        except psycopg2.ProgrammingError as error:
            # The server takes a file without a statement, psycopg2 alone objects.
            if error.pgcode or "empty query" not in str(error):
                raise
        except psycopg2.Error as error:
            # What has no SQLSTATE does not come from the server. psycopg2 may notice only at the next message that it is gone.
            if error.pgcode is None or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
                self.close()
            raise

    def rows(self, sql: str) -> t.List[t.Tuple[t.Any, ...]]:
        """Send one message and return the rows of its last statement."""
        self.run(sql)
        found: t.List[t.Tuple[t.Any, ...]] = self.cursor.fetchall()
        return found

    def value(self, sql: str) -> t.Any:
        """The first column of the first row."""
        return self.rows(sql)[0][0]

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return bool(self.connection.closed)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed ones included; known without asking the server."""
        status = self.connection.info.transaction_status
        return status in (psycopg2.extensions.TRANSACTION_STATUS_INTRANS, psycopg2.extensions.TRANSACTION_STATUS_INERROR)

    def rollback(self) -> None:
        """End an open transaction; nothing to do where the connection, and with it the transaction, is gone."""
        if not self.lost and self.in_transaction:
            self.run("rollback")

    def take_notices(self) -> t.List[str]:
        """What the server has said on the side since the last call."""
        notices = [" ".join(notice.split()) for notice in self.connection.notices]
        del self.connection.notices[:]
        return notices

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
