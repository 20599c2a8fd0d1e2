#!/usr/bin/python
# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration_info
short_description: Tell where a PostgreSQL database stands with its SQL migrations
version_added: 1.0.0
description:
  - Tells what C(sqlx migrate info) tells, and the server's version, extensions, release and fingerprint beside it.
  - Never writes. Works on a standby, for a role that may only read, and before the ledger exists.
author:
  - Schema Registry contributors (@schema-registry)
extends_documentation_fragment:
  - schema_registry.postgresql.connection
options:
  source:
    description:
      - Directories of migration files on the controller, to compare the database with.
        Without them, only what is recorded is told.
    type: list
    elements: str
  remote_src:
    description: Whether O(source) is on the host instead.
    type: bool
    default: false
  ignored_chars:
    description: Characters that checksums leave out, as for M(schema_registry.postgresql.migration).
    type: str
    default: ""
  fingerprint_text:
    description: Whether to return the canonical text of the schema too, and not just its digest.
    type: bool
    default: false
  expected_fingerprint_text:
    description: Such a text, of another database or an earlier day, to be told the difference.
    type: str
  payload:
    description: Set by the action plugin. Not to be used.
    type: str
attributes:
  check_mode:
    description: Changes nothing, with or without check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: N/A
  idempotent:
    description: Changes nothing.
    support: full
  platform:
    description: Where the module runs.
    support: full
    platforms: posix
seealso:
  - module: schema_registry.postgresql.migration
"""

EXAMPLES = r"""
- name: It is known where the database stands
  schema_registry.postgresql.migration_info:
    source: sql/migrations
    login_db: schema_registry
    login_user: schema_registry_readonly
    login_host: db.example.org
    login_password: "{{ vault_readonly_password }}"
  register: standing

- name: Nothing is pending
  ansible.builtin.assert:
    that: standing.pending | length == 0
"""

RETURN = r"""
server_version:
  description: The server's version.
  returned: success
  type: str
  sample: "15.18"
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
extensions:
  description: The extensions of the database.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: pg_trgm
    version:
      description: The version that is installed.
      type: str
      sample: "1.6"
ledger_exists:
  description: Whether there is a ledger.
  returned: success
  type: bool
current_version:
  description: The highest version that is applied, 0 for none.
  returned: success
  type: int
  sample: 20240101000002
migrations:
  description: Every version that is applied or has a file, in order.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: int
    description:
      description: Its name, with spaces.
      type: str
    state:
      description: V(installed), V(pending), V(installed (different checksum)), V(missing) or V(dirty).
      type: str
    checksum:
      description: The recorded checksum, or the file's where it is pending.
      type: str
pending:
  description: Versions of files that are not applied.
  returned: success
  type: list
  elements: int
dirty:
  description: Versions that were begun and not finished.
  returned: success
  type: list
  elements: int
release:
  description: Digest of the files.
  returned: when O(source) is given
  type: str
installed_release:
  description: The same digest over what is applied. Equal to RV(release) where the database stands at exactly these files.
  returned: success
  type: str
stands_for:
  description: Seconds since a migration was last applied or reverted.
  returned: success, where there ever was one
  type: float
proven:
  description: Whether the way to what is applied, and back, was proven on this database by O(schema_registry.postgresql.migration#module:prove).
  returned: success
  type: bool
ways_back:
  description: Digests of the down scripts that were proven here, by version.
  returned: success
  type: dict
measured:
  description:
    - By version, what it took on a copy of this database, as M(schema_registry.postgresql.migration_scratch) has measured it.
    - The seconds (C(duration)), the rows (C(rows)), what was rewritten (C(rewritten)), the bytes of log (C(log)), the bytes that it
      needed meanwhile (C(needs)) and kept (C(grows)), and those of the copy before (C(size)).
  returned: success
  type: dict
known_fingerprints:
  description: What the schema looked like at each installed release that was part of a proof.
  returned: success
  type: dict
fingerprint:
  description: Digest of the schema. Two databases at one release have the same.
  returned: success
  type: str
fingerprint_text:
  description: What was digested, one line an object.
  returned: when O(fingerprint_text) is true
  type: str
fingerprint_difference:
  description: What differs from O(expected_fingerprint_text), as a unified diff. Empty if nothing does.
  returned: when O(expected_fingerprint_text) is given
  type: str
recovery:
  description: What to do.
  returned: failure
  type: str
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import look, records
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import MigrationError


def main() -> None:
    module = AnsibleModule(argument_spec=_arguments.INFO, supports_check_mode=True, no_log=True)
    params = module.params
    request = json.loads(params["payload"] or "{}")
    try:
        target = _arguments.target(params, request.get("controller") or _arguments.this_machine())
        answer = _seen(target, params, request["look"]) if "look" in request else _told(target, params)
    except MigrationError as error:
        module.fail_json(msg=error.text, recovery=error.recovery, **error.failed)
    if not params["fingerprint_text"]:
        answer.pop("fingerprint_text", None)
    module.exit_json(changed=False, **answer)


def _seen(target: records.Target, params: look.Data, request: look.Data) -> look.Data:
    # What the controller makes an answer of, which has the files.
    if request.pop("around", False):
        return look.look_around(target, params["ledger_table"], expected_fingerprint=params["expected_fingerprint_text"], **request)
    return look.look(target, params["ledger_table"], **request)


def _told(target: records.Target, params: look.Data) -> look.Data:
    # Mostly the controller has the files, and nothing of this is loaded.
    from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture, release, source

    compared = None
    if params["source"]:
        compared = release.of(source.read(params["source"], None, params["ignored_chars"], complete=False), (), ())
    seen = look.look_around(target, params["ledger_table"], True, params["expected_fingerprint_text"])
    return picture.told(seen, compared)


if __name__ == "__main__":
    main()
