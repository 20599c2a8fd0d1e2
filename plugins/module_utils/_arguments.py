# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the modules of this collection are told where a database is. **Private** to the collection."""

from __future__ import annotations

import getpass
import os
import socket
import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.session import Target

CONNECTION: t.Dict[str, t.Any] = {
    "login_db": {"type": "str", "required": True},
    "login_user": {"type": "str", "default": ""},
    "login_password": {"type": "str", "default": "", "no_log": True},
    "login_host": {"type": "str", "default": ""},
    "login_port": {"type": "int", "default": 5432},
    "login_unix_socket": {"type": "str", "default": ""},
    "ssl_mode": {
        "type": "str",
        "default": "prefer",
        "choices": ["allow", "disable", "prefer", "require", "verify-ca", "verify-full"],
    },
    "ca_cert": {"type": "path", "aliases": ["ssl_rootcert"]},
    "ssl_cert": {"type": "path"},
    "ssl_key": {"type": "path"},
    "connect_params": {"type": "dict", "default": {}},
    "session_role": {"type": "str"},
    "ledger_table": {"type": "str", "default": "_sqlx_migrations"},
}


def target(params: t.Mapping[str, t.Any], controller: str, **timeouts: float) -> Target:
    """Where to connect, from a module's parameters.

    :param controller: who started this, for ``application_name``.
    :param timeouts: ``lock_timeout`` and ``statement_timeout``, in seconds.
    """
    parameters = {
        "host": params["login_unix_socket"] or params["login_host"],
        "port": params["login_port"],
        "user": params["login_user"],
        "password": params["login_password"],
        "sslmode": params["ssl_mode"],
        "sslrootcert": params["ca_cert"],
        "sslcert": params["ssl_cert"],
        "sslkey": params["ssl_key"],
    }
    parameters.update(params["connect_params"])
    return Target(params["login_db"], parameters, params["session_role"], "schema_registry.postgresql from " + controller, **timeouts)


def this_machine() -> str:
    """User and host that a run is started from: ``anna@control``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        user = str(os.getuid())
    return "{0}@{1}".format(user, socket.gethostname())
