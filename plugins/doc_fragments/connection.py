# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  login_db:
    description: The database.
    type: str
    required: true
  login_user:
    description: The role to log in as. Empty means what libpq takes, the operating system's user.
    type: str
    default: ""
  login_password:
    description: The password of O(login_user). Not needed over the unix socket with peer authentication.
    type: str
    default: ""
  login_host:
    description: The server's host name or address. Empty means the local socket.
    type: str
    default: ""
  login_port:
    description: The server's port.
    type: int
    default: 5432
  login_unix_socket:
    description: Directory of the server's unix socket. Wins over O(login_host).
    type: str
    default: ""
  ssl_mode:
    description: Whether the connection is encrypted and the server's certificate checked, as libpq's C(sslmode).
    type: str
    default: prefer
    choices: [allow, disable, prefer, require, verify-ca, verify-full]
  ca_cert:
    description: File with the certificates of the authorities that may sign the server's.
    type: path
    aliases: [ssl_rootcert]
  ssl_cert:
    description: File with the client's certificate.
    type: path
  ssl_key:
    description: File with the key of O(ssl_cert).
    type: path
  connect_params:
    description: Further parameters of libpq, such as C(target_session_attrs). They win over the others.
    type: dict
    default: {}
  session_role:
    description:
      - Role to become after logging in (C(SET ROLE)), so that what migrations make belongs to it.
      - Commonly the database's owner, of which O(login_user) is a member.
    type: str
  ledger_table:
    description:
      - The bookkeeping table, as sqlx 0.9's C(table-name). May carry its schema, and may be quoted.
    type: str
    default: _sqlx_migrations
requirements:
  - psycopg2 2.8 or later, on the host that the module runs on (Debian's C(python3-psycopg2))
"""
