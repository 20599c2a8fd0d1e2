# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the modules of this collection are told where a database is. **Private** to the collection."""

from __future__ import annotations

import getpass
import os
import socket
import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.records import Policy, Target

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

MIGRATION: t.Dict[str, t.Any] = dict(
    CONNECTION,
    source={"type": "list", "elements": "str", "required": True},
    remote_src={"type": "bool", "default": False},
    verify={"type": "str"},
    version={"type": "str", "default": "latest"},
    allow_revert={"type": "bool", "default": False},
    baseline={"type": "int"},
    repair={"type": "list", "elements": "int", "default": []},
    out_of_order={"type": "str", "default": "warn", "choices": ["warn", "fail"]},
    missing={"type": "str", "default": "fail", "choices": ["fail", "ignore"]},
    transaction={"type": "str", "default": "each", "choices": ["each", "all"]},
    rehearse={"type": "bool", "default": False},
    create_schemas={"type": "list", "elements": "str", "default": []},
    lock_timeout={"type": "float", "default": 2.0},
    lock_retries={"type": "int", "default": 10},
    statement_timeout={"type": "float", "default": 0.0},
    advisory_lock_timeout={"type": "float", "default": 120.0},
    end_idle_lock_holder={"type": "float", "default": 0.0},
    allow_transaction_control={"type": "bool", "default": False},
    ignored_chars={"type": "str", "default": ""},
    assume_empty={"type": "bool", "default": False},
    prove={"type": "bool", "default": False},
    undo={"type": "list", "elements": "int"},
    return_on_failure={"type": "bool", "default": False},
    ways_back={"type": "dict", "default": {}},
    known_fingerprints={"type": "dict", "default": {}},
    # From the action plugin to the module: what is asked, and the SQL that may have to run.
    payload={"type": "str", "no_log": False},
)

INFO: t.Dict[str, t.Any] = dict(
    CONNECTION,
    source={"type": "list", "elements": "str"},
    remote_src={"type": "bool", "default": False},
    ignored_chars={"type": "str", "default": ""},
    fingerprint_text={"type": "bool", "default": False},
    expected_fingerprint_text={"type": "str"},
    payload={"type": "str", "no_log": False},
)

SCRATCH: t.Dict[str, t.Any] = dict(
    CONNECTION,
    source={"type": "list", "elements": "str", "required": True},
    verify={"type": "str"},
    samples={"type": "str"},
    action={"type": "str", "default": "stairway", "choices": ["stairway", "rehearse"]},
    version={"type": "str", "default": "latest"},
    template={"type": "str", "default": "template0"},
    maintenance_db={"type": "str", "default": "postgres"},
    scratch_host={"type": "str", "default": ""},
    scratch_port={"type": "int"},
    scratch_unix_socket={"type": "str", "default": ""},
    scratch_of={"type": "str"},
    record={"type": "bool", "default": True},
    create_schemas={"type": "list", "elements": "str", "default": []},
    lock_timeout={"type": "float", "default": 2.0},
    lock_retries={"type": "int", "default": 10},
    statement_timeout={"type": "float", "default": 0.0},
    allow_transaction_control={"type": "bool", "default": False},
    ignored_chars={"type": "str", "default": ""},
    payload={"type": "str", "no_log": False},
)


def wanted(version: str) -> t.Optional[int]:
    """The parameter ``version`` as a number; None is the newest.

    :raises ValueError: if it is neither.
    """
    if version == "latest":
        return None
    try:
        return int(version)
    except ValueError:
        raise ValueError("version: {0!r} is neither 'latest' nor a version such as 20240101000001".format(version)) from None


def policy(params: t.Mapping[str, t.Any]) -> Policy:
    """What a module's parameters allow the plan."""
    return Policy(
        params["allow_revert"],
        params["out_of_order"],
        params["missing"],
        frozenset(params["repair"]),
        params["baseline"],
        params["transaction"],
        None if params["undo"] is None else frozenset(params["undo"]),
    )


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
