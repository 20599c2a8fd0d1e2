# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that is made to be thrown away: it is dropped at the end, also after a failure."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import typing as t

from .errors import ConnectionFailed, ExecutionError, LockError
from .records import Target
from .session import ServerError, Session, identifier, literal

# Says of a database that nobody's data are in it. One without it is never dropped.
MARK = "scratch database of schema_registry.postgresql"

_NAME_MAX = 63
_IN_USE = "55006"  # object_in_use: somebody is connected to the template
_PROGRAMS = "/usr/lib/postgresql/{0}/bin"  # where Debian has those of each major version

_SETTINGS = """
select coalesce(quote_ident(r.rolname), ''), s.setconfig from pg_db_role_setting s
left join pg_roles r on r.oid = s.setrole where s.setdatabase = (select oid from pg_database where datname = {0})
"""


def name_for(database: str, purpose: str) -> str:
    """What the scratch database of a database is called."""
    ending = "_" + purpose
    return database.encode()[: _NAME_MAX - len(ending)].decode("utf-8", "ignore") + ending


class Scratch:
    """One scratch database, from ``create`` or ``copy`` to the end of the ``with`` block.

    :param target: a database on the server; another one is made there, for the role that migrations are run as.
    :param purpose: the ending of its name.
    :param maintenance_db: where to connect for making it.
    """

    def __init__(self, target: Target, purpose: str, maintenance_db: str = "postgres") -> None:
        self.name = name_for(target.database, purpose)
        self.target = target._replace(database=self.name)
        self._original = target
        # CREATE DATABASE may wait longer than a statement of a migration.
        self._session = Session(target._replace(database=maintenance_db, session_role=None, lock_timeout=0.0, statement_timeout=0.0))
        self._made = False

    def __enter__(self) -> "Scratch":
        try:
            with _explained(self.name):
                self._be_alone()
                self._drop_marked()
        except BaseException:
            self._session.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            with _explained(self.name):
                if self._made:
                    self._drop()
                # A backend outlives its connection by a moment, in which the next run would find the lock taken.
                self._session.run("select pg_advisory_unlock({0})".format(self._lock))
        finally:
            self._session.close()

    def create(self, template: str) -> None:
        """Make it from a template, with the settings of the database, if that exists.

        :raises ExecutionError: where the server does not let us.
        """
        with _explained(self.name):
            self._create(template, "")
            self._take_settings()

    def copy(self) -> str:
        """Make it a copy of the database, data, settings and all.

        :returns: how: ``template`` where nobody is connected to the database, and ``dump`` otherwise.
        :raises ExecutionError: where the server does not let us.
        """
        how = "template"
        with _explained(self.name):
            try:
                # Without writing all of it to the log, from where it would go to the archive and to standbys.
                strategy = " strategy file_copy" if self._session.connection.server_version >= 150000 else ""
                self._create(self._original.database, strategy)
            except ServerError as error:
                if error.pgcode != _IN_USE:
                    raise
                how = "dump"
                self._create("template0", "")
                self._pipe_dump()
            self._take_settings()
        return how

    def _take_settings(self) -> None:
        """What ALTER DATABASE has set belongs to no template, and a migration may depend on it."""
        for role, settings in self._session.rows(_SETTINGS.format(literal(self._original.database))):
            for setting in settings:
                name, _equals, value = setting.partition("=")
                of_role = "role {0} in database".format(role) if role else "database"
                self._session.run("alter {0} {1} set {2} to {3}".format(of_role, identifier(self.name), name, _value(name, value)))

    def _be_alone(self) -> None:
        # Two runs have one name.
        if not self._session.value("select pg_try_advisory_lock({0})".format(self._lock)):
            raise LockError("Another run is at work in the database {0}.".format(self.name), recovery="Nothing was changed. Run again later.")

    @property
    def _lock(self) -> str:
        return "hashtext({0}), hashtext({1})".format(literal(MARK), literal(self.name))

    def _drop_marked(self) -> None:
        """Take away what a run left that was killed."""
        found = self._session.rows(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = {0}".format(literal(self.name))
        )
        if found and found[0][0] != MARK:
            raise ExecutionError(
                "There is a database {0} already, and nothing says that it is a scratch database.".format(self.name),
                recovery="Nothing was changed. If nobody needs it, drop it.",
            )
        if found:
            self._drop()

    def _create(self, template: str, strategy: str) -> None:
        owner = " owner " + identifier(self._original.session_role) if self._original.session_role else ""
        self._session.run(
            "create database {0} template {1}{2}{3}".format(identifier(self.name), identifier(template), strategy, owner)
        )
        self._made = True
        # A copy of data is nobody else's to see.
        self._session.run(
            "comment on database {0} is {1}; revoke all on database {0} from public".format(identifier(self.name), literal(MARK))
        )

    def _drop(self) -> None:
        self._session.run("drop database if exists {0} with (force)".format(identifier(self.name)))

    def _pipe_dump(self) -> None:
        dumping = [self._program("pg_dump"), "--format=custom", "--compress=0", "--dbname", self._original.database]
        restoring = [self._program("pg_restore"), "--exit-on-error", "--dbname", self.name]
        with tempfile.TemporaryFile() as said:
            try:
                dump = subprocess.Popen(dumping, env=self._environment(), stdout=subprocess.PIPE, stderr=said)
                restored = subprocess.run(
                    restoring, env=self._environment(), stdin=dump.stdout, stdout=subprocess.DEVNULL, stderr=said, check=False
                )
            except OSError as error:
                raise ExecutionError(
                    "Somebody is connected to {0}, so it is copied by pg_dump and pg_restore, which this host lacks: {1}".format(
                        self._original.database, error
                    ),
                    recovery="No other database was touched. Install PostgreSQL's client programs.",
                ) from error
            if dump.stdout is not None:
                # So that a dump whose restore has failed ends as well.
                dump.stdout.close()
            if dump.wait() or restored.returncode:
                said.seek(0)
                raise ExecutionError(
                    "The database {0} could not be copied: {1}".format(
                        self._original.database, said.read().decode("utf-8", "replace").strip()
                    ),
                    recovery="The copy was dropped; the database is as it was.",
                )

    def _program(self, name: str) -> str:
        path = os.path.join(_PROGRAMS.format(self._session.connection.server_version // 10000), name)
        return path if os.path.exists(path) else name

    def _environment(self) -> t.Dict[str, str]:
        """libpq's parameters for other programs; a password never stands in their command lines."""
        names = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}
        names.update((each, "PG" + each.upper()) for each in ("host", "port", "user", "password"))
        known = {names[name]: str(value) for name, value in self._original.parameters.items() if value and name in names}
        return dict(os.environ, **known)


def _value(name: str, setting: str) -> str:
    # A list keeps its commas; the catalogue has its parts quoted where they need it.
    return setting or "''" if name in ("search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces") else literal(setting)


@contextlib.contextmanager
def _explained(name: str) -> t.Iterator[None]:
    try:
        yield
    except ServerError as error:
        raise ConnectionFailed(
            "The scratch database {0}: {1} (SQLSTATE {2}).".format(name, str(error).strip(), error.pgcode),
            {"sqlstate": error.pgcode},
            "No other database was touched. The login needs CREATEDB, and to be a member of the role that migrations run as.",
        ) from error
