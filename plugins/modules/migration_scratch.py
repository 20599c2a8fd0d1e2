#!/usr/bin/python
# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration_scratch
short_description: Try SQL migrations in a database that is thrown away
version_added: 1.0.0
description:
  - Makes a scratch database beside O(login_db), tries a release there for real, and drops it, also after a failure. No other database
    is changed, but for a line in the history of O(login_db).
  - With O(action=stairway) the database is empty before. Every version is applied, reverted and applied again, and the schema must be
    the same each time. Samples put data into the tables. What a down script loses is counted, and must be announced in it.
  - "An announcement is a line such as C(-- data-loss: table orders, column items.price, rows of app.log)."
  - With O(action=rehearse) it is a copy of O(login_db), and what is pending is applied to it and measured.
  - Roles belong to the whole server. A migration that makes or drops some does so for every database.
author:
  - Schema Registry contributors (@schema-registry)
extends_documentation_fragment:
  - schema_registry.postgresql.connection
options:
  source:
    description: Directories of migration files on the controller, as for M(schema_registry.postgresql.migration).
    type: list
    elements: str
    required: true
  verify:
    description: Directory of verification scripts, as for M(schema_registry.postgresql.migration).
    type: str
  samples:
    description:
      - Directory of samples on the controller, C(<version>_<name>.sql), each of which runs after its version, once, and inserts rows.
      - A directory that is not there is as good as an empty one.
    type: str
  action:
    description: What is tried.
    type: str
    default: stairway
    choices: [stairway, rehearse]
  version:
    description: With O(action=rehearse), the version to reach, or V(latest).
    type: str
    default: latest
  template:
    description: With O(action=stairway), the database that the scratch database is made from. For extensions that an owner may not create, say.
    type: str
    default: template0
  maintenance_db:
    description: The database to connect to for making another one.
    type: str
    default: postgres
  scratch_host:
    description: The server for the scratch database, if it is another one than that of O(login_db), as O(login_host).
    type: str
    default: ""
  scratch_port:
    description: That server's port.
    type: int
  scratch_unix_socket:
    description: Directory of that server's unix socket.
    type: str
    default: ""
  scratch_of:
    description: With O(action=rehearse), the database on that server that is copied, if it is not called as O(login_db).
    type: str
  record:
    description: Whether a proof, or what was measured, is written down in the history of O(login_db), where it has one.
    type: bool
    default: true
  create_schemas:
    description: Schemas to make before the ledger.
    type: list
    elements: str
    default: []
  lock_timeout:
    description: Seconds that a statement waits for a lock.
    type: float
    default: 2.0
  lock_retries:
    description: How often a transaction is tried again that did not get its locks.
    type: int
    default: 10
  statement_timeout:
    description: Seconds that one statement may take. V(0) is no limit.
    type: float
    default: 0.0
  allow_transaction_control:
    description: Whether files inside a transaction may begin, end or mark transactions themselves.
    type: bool
    default: false
  ignored_chars:
    description: Characters that checksums leave out.
    type: str
    default: ""
  payload:
    description: Set by the action plugin. Not to be used.
    type: str
attributes:
  check_mode:
    description: Makes no database, tries nothing, and says whether something would be written down.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Tries everything again each time. A proof that is written down already is not written down again, and no change.
    support: partial
seealso:
  - module: schema_registry.postgresql.migration
  - module: schema_registry.postgresql.migration_info
"""

EXAMPLES = r"""
- name: Every version of the release can be taken back
  schema_registry.postgresql.migration_scratch:
    source: sql/migrations
    verify: sql/verify
    samples: sql/samples
    login_db: schema_registry
    login_unix_socket: /var/run/postgresql
    session_role: schema_registry_owner
  become: true
  become_user: postgres

- name: It is known what the pending migrations cost
  schema_registry.postgresql.migration_scratch:
    action: rehearse
    source: sql/migrations
    login_db: schema_registry
    session_role: schema_registry_owner
  become: true
  become_user: postgres
  register: tried
"""

RETURN = r"""
scratch:
  description: The name of the scratch database, which is gone.
  returned: success
  type: str
release:
  description: Digest of the files.
  returned: success
  type: str
recorded:
  description: Whether the history of O(login_db) has it now.
  returned: success
  type: bool
stairs:
  description: Every version, in order.
  returned: with O(action=stairway)
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: int
    description:
      description: Its name, with spaces.
      type: str
    proven:
      description: Whether its way back is proven. It is not where it, or a version above it, has no down script.
      type: bool
    up:
      description: Seconds of the way up.
      type: float
    down:
      description: Seconds of the way down, with data in the tables.
      type: float
    sample:
      description: Whether there is a sample for it.
      type: bool
    lost:
      description: What is not there any more after the way back (C(what), C(rows)), all of it announced.
      type: list
      elements: dict
    unseen:
      description: What its down script announces to lose, and was not there to be lost.
      type: list
      elements: str
ways_back:
  description: Digests of the down scripts that are proven, by version.
  returned: with O(action=stairway)
  type: dict
measured:
  description: Every migration that was pending, in order.
  returned: with O(action=rehearse)
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: int
    description:
      description: Its name, with spaces.
      type: str
    duration:
      description: Seconds that it took, its verification included.
      type: float
    rows:
      description: Rows that it inserted, changed or deleted.
      type: int
    rewritten:
      description: Tables and indexes that got new files.
      type: list
      elements: str
    log:
      description: Bytes of write-ahead log that the server wrote meanwhile.
      type: int
    needs:
      description: Bytes that the database was larger at most, measured after each statement. Temporary files of sorts are not among them.
      type: int
    grows:
      description: Bytes that the database is larger afterwards.
      type: int
    statements:
      description: What each statement did, as RV(schema_registry.postgresql.migration#module:rehearsed[].statements).
      type: list
      elements: dict
size:
  description: Bytes of the copy before.
  returned: with O(action=rehearse)
  type: int
copied_by:
  description: V(template) where nobody was connected to the database, V(dump) otherwise.
  returned: with O(action=rehearse)
  type: str
differences:
  description: The objects that are not as they were (C(how), C(what)).
  returned: failure of a way back
  type: list
  elements: dict
lost:
  description: What a down script loses and does not announce (C(what), C(rows)).
  returned: failure of a way back
  type: list
  elements: dict
version:
  description: The version that failed.
  returned: failure
  type: int
file:
  description: The file that failed.
  returned: failure
  type: str
recovery:
  description: What state things are in, and what to do.
  returned: failure
  type: str
"""

import json
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture, records, scratch, session, stairway, trial
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import release as releases
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import ConnectionFailed, MigrationError
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.executor import Options
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.ledger import Ledger
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.source import Script


def main() -> None:
    module = AnsibleModule(argument_spec=_arguments.SCRATCH, supports_check_mode=True, no_log=True)
    request = json.loads(module.params.pop("payload") or "{}")
    if "release" not in request:
        module.fail_json(msg="This module needs its action plugin, which reads the files.")
    try:
        answer = _answer(module, request)
    except ValueError as error:
        module.fail_json(msg=str(error))
    except session.ServerError as error:
        module.fail_json(
            msg="{0} (SQLSTATE {1})".format(" ".join(str(error).split()), error.pgcode),
            recovery="What was tried in a scratch database is dropped; no other database was changed.",
        )
    except MigrationError as error:
        module.fail_json(msg=error.text, recovery=error.recovery, **error.failed)
    module.exit_json(**answer)


def _answer(module: AnsibleModule, request: picture.Data) -> picture.Data:
    params = module.params
    carried = releases.decode(request["release"])
    controller = request.get("controller") or _arguments.this_machine()
    target = _arguments.target(params, controller, lock_timeout=params["lock_timeout"], statement_timeout=params["statement_timeout"])
    is_stairway = params["action"] == "stairway"
    # The database may not exist yet, where only a proof is wanted.
    recorded = _recorded(params, target, carried) if params["record"] else None
    answer: picture.Data = {"changed": False, "release": carried.digest, "recorded": bool(recorded)}
    if module.check_mode:
        return dict(answer, changed=recorded is False)
    with scratch.Scratch(_elsewhere(params, target), params["action"], params["maintenance_db"]) as made:
        if is_stairway:
            made.create(params["template"])
            samples = {version: Script(path, text.encode()) for version, path, text in request["samples"]}
            options = Options(
                params["ledger_table"],
                params["lock_retries"],
                allow_transaction_control=params["allow_transaction_control"],
                controller=controller,
                create_schemas=tuple(params["create_schemas"]),
            )
            answer.update(stairway.run(made.target, carried, samples, options))
        else:
            answer["copied_by"] = made.copy()
            answer.update(
                trial.run(
                    made.target, carried, _arguments.wanted(params["version"]), params["ledger_table"], params["create_schemas"]
                )
            )
        answer["scratch"] = made.name
    if recorded is False:
        with session.Session(target) as here:
            ledger = Ledger(here, params["ledger_table"])
            if is_stairway:
                stairway.record(here, ledger, carried, controller)
                answer.update(changed=True, recorded=True)
            else:
                written = trial.record(here, ledger, carried, controller, answer)
                answer.update(changed=written, recorded=written)
    return answer


def _elsewhere(params: picture.Data, target: records.Target) -> records.Target:
    """Where the scratch database is made."""
    parameters = dict(target.parameters)
    if params["scratch_unix_socket"] or params["scratch_host"]:
        parameters["host"] = params["scratch_unix_socket"] or params["scratch_host"]
    if params["scratch_port"]:
        parameters["port"] = params["scratch_port"]
    of = params["scratch_of"] if params["action"] == "rehearse" else None
    return target._replace(database=of or target.database, parameters=parameters)


def _recorded(params: picture.Data, target: records.Target, carried: releases.Release) -> t.Optional[bool]:
    """Whether the database has it written down; None where there is nothing to write it into."""
    try:
        with session.Session(target) as here:
            here.must_be_writable()
            ledger = Ledger(here, params["ledger_table"])
            is_recorded = stairway.is_recorded(here, ledger, carried)
            if params["action"] == "stairway" or is_recorded is None:
                return is_recorded
            # What is measured of pending migrations is news each time.
            wanted = _arguments.wanted(params["version"])
            applied = {row.version for row in ledger.rows()}
            return all(file.version in applied for file in carried.files if wanted is None or file.version <= wanted)
    except ConnectionFailed:
        return None


if __name__ == "__main__":
    main()
