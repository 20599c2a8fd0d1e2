#!/usr/bin/python
# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration
short_description: Bring a PostgreSQL database to a version of its SQL migrations
version_added: 1.0.0
description:
  - Applies and reverts versioned SQL files, in the exact format of C(sqlx-cli). Ansible, C(sqlx migrate) and an application that
    calls C(sqlx::migrate!) can take turns on one database.
  - The wanted version is declared. Where the database stands there already, nothing changes.
  - Each migration is one transaction, together with its row in the ledger and its verification. It happens whole or not at all.
  - Everything is checked before anything is touched. Files are C(<version>_<name>.sql), or pairs of C(<version>_<name>.up.sql) and
    C(<version>_<name>.down.sql), in UTF-8. Those that were applied must not have changed.
  - A file whose first bytes are C(-- no-transaction) runs statement by statement outside of a transaction. The ledger says
    C(success = false) meanwhile. After an interruption it continues with the statement where it stopped.
  - What was done, by whom and when, is kept in a table beside the ledger, named after it with C(_history) behind.
author:
  - Schema Registry contributors (@schema-registry)
extends_documentation_fragment:
  - schema_registry.postgresql.connection
options:
  source:
    description:
      - Directories of migration files on the controller, found as the files of a role are. The raw bytes count; nothing is templated.
        Files encrypted with ansible-vault are decrypted first.
      - Sub-directories are not entered.
    type: list
    elements: str
    required: true
  remote_src:
    description: Whether O(source) and O(verify) are directories on the host instead.
    type: bool
    default: false
  verify:
    description:
      - Directory of verification scripts, C(<version>_<name>.sql). A migration that has one is committed only if it raises no error.
      - It runs inside the migration's transaction, behind a savepoint that is rolled back again.
        For a C(-- no-transaction) file it runs afterwards, read-only.
    type: str
  version:
    description:
      - Where the database shall stand. V(latest), a version that is among the files, or V(0) for nothing above version 0.
    type: str
    default: latest
  allow_revert:
    description: Whether versions above O(version) may be reverted by their down scripts. Otherwise that is refused.
    type: bool
    default: false
  baseline:
    description:
      - Adopt an existing database. Everything up to this version is recorded as applied and does not run.
      - Only into an empty ledger. Once that was done, the parameter changes nothing any more.
    type: int
  repair:
    description:
      - Applied versions whose recorded checksum may be replaced by that of the file. The history keeps the old one.
      - Of a version that was left unfinished the row is removed, so that its file runs again from its beginning.
    type: list
    elements: int
    default: []
  out_of_order:
    description: What to do about files that are not applied, but below the newest applied version. They are applied with V(warn).
    type: str
    default: warn
    choices: [warn, fail]
  missing:
    description: What to do about applied versions that have no file.
    type: str
    default: fail
    choices: [fail, ignore]
  transaction:
    description:
      - With V(each), every migration is a transaction of its own, as with sqlx.
      - With V(all), everything that is pending is one transaction, all of it or nothing.
        Refused if a file is marked C(-- no-transaction).
    type: str
    default: each
    choices: [each, all]
  rehearse:
    description:
      - Run everything that is pending and can run in a transaction for real, observe it, and roll it back. See RV(rehearsed).
      - Changes nothing. Sequences that were advanced are put back only if nobody else is connected to the database, since a value
        that somebody else took must not be given out again.
    type: bool
    default: false
  create_schemas:
    description: Schemas to make before the ledger, where they are missing, as sqlx 0.9's C(create-schemas).
    type: list
    elements: str
    default: []
  lock_timeout:
    description: Seconds that a statement waits for a lock, and thereby holds up others. The transaction is tried again after a pause.
    type: float
    default: 2.0
  lock_retries:
    description: How often a transaction is tried again that did not get its locks. The pauses grow from half a second to five.
    type: int
    default: 10
  statement_timeout:
    description: Seconds that one statement may take. With V(0) there is no limit, whatever the role's or the database's own says.
    type: float
    default: 0.0
  advisory_lock_timeout:
    description: Seconds to wait for another run of migrations on this database, sqlx's included.
    type: float
    default: 120.0
  end_idle_lock_holder:
    description:
      - Seconds after which a session is ended that holds the lock of migrations and does nothing. V(0) ends none.
      - An application whose migration through sqlx failed may keep the lock in its pool for ever. Such a session is idle, which a run
        at work is for a few seconds at most, so a minute is safe. Needs the rights of that session's role, or C(pg_signal_backend).
    type: float
    default: 0.0
  allow_transaction_control:
    description:
      - Whether files inside a transaction may begin, end or mark transactions themselves, as sqlx lets them.
      - A rehearsal leaves such files out, since they would make it real.
    type: bool
    default: false
  ignored_chars:
    description:
      - Characters that checksums leave out, as sqlx 0.9's C(ignored-chars). What runs still has them.
      - Must be what every other user of the database has set.
    type: str
    default: ""
  assume_empty:
    description:
      - In check mode, plan for an empty database without connecting. For a host whose server or database does not exist yet.
    type: bool
    default: false
  prove:
    description:
      - Prove the way back of what this run applies. It is applied, reverted, applied again, and the schema compared each time with what it
        was before. The history remembers it.
      - A proof that was cut off by an accident is finished by the next run, also where nothing is pending any more.
    type: bool
    default: false
  undo:
    description:
      - Revert exactly these versions, where they are applied, and apply nothing. Later ones stay. With an empty list nothing is done.
      - For taking back what one run applied.
    type: list
    elements: int
  return_on_failure:
    description:
      - Whether a run that fails reverts what it applied before, newest first. It does so only if O(ways_back) has every one of them, and
        touches nothing more otherwise. See RV(returned).
    type: bool
    default: false
  ways_back:
    description: Digests of down scripts that are proven, by version, as RV(ways_back) of M(schema_registry.postgresql.migration_info) has them.
    type: dict
    default: {}
  known_fingerprints:
    description:
      - What the schema looks like elsewhere, digests by installed release, as RV(known_fingerprints) of
        M(schema_registry.postgresql.migration_info) has them.
      - A database that stands at one of these releases and looks otherwise is refused, before anything is done. The same is compared
        afterwards.
    type: dict
    default: {}
  payload:
    description: Set by the action plugin. Not to be used.
    type: str
attributes:
  check_mode:
    description: Says which versions would be applied or reverted, and changes nothing.
    support: full
  diff_mode:
    description: Shows the SQL that runs or would run.
    support: full
  idempotent:
    description: Running the task again changes nothing.
    support: full
  async:
    description: Can run in the background.
    support: full
  platform:
    description: Where the module runs.
    support: full
    platforms: posix
seealso:
  - module: schema_registry.postgresql.migration_info
  - module: community.postgresql.postgresql_script
  - name: sqlx-cli
    description: The other tool that works on the same files and the same ledger.
    link: https://github.com/transact-rs/sqlx/tree/main/sqlx-cli
"""

EXAMPLES = r"""
- name: The database stands at the newest version
  schema_registry.postgresql.migration:
    source: sql/migrations
    verify: sql/verify
    login_db: schema_registry
    login_user: schema_registry_migrator
    login_unix_socket: /var/run/postgresql
    session_role: schema_registry_owner
  become: true
  become_user: postgres

- name: The database stands at an earlier version again
  schema_registry.postgresql.migration:
    source: sql/migrations
    version: "20240101000001"
    allow_revert: true
    login_db: schema_registry
    login_host: db.example.org
    login_user: schema_registry_migrator
    login_password: "{{ vault_migrator_password }}"
    ssl_mode: verify-full
    session_role: schema_registry_owner

- name: A database that was made by hand is adopted at its first version
  schema_registry.postgresql.migration:
    source: sql/migrations
    baseline: 20240101000001
    login_db: schema_registry
  become: true
  become_user: postgres
"""

RETURN = r"""
from_version:
  description: The highest version that was applied before.
  returned: success
  type: int
  sample: 20240101000001
to_version:
  description: The highest version that is applied now. In check mode, that would be.
  returned: success
  type: int
  sample: 20240101000002
applied:
  description: The migrations that were applied, in order.
  returned: success
  type: list
  elements: dict
  contains: &entry
    version:
      description: Its version.
      type: int
      sample: 20240101000002
    description:
      description: Its name, with spaces.
      type: str
      sample: indexes optimization
    checksum:
      description: SHA-384 of the up script, hexadecimal.
      type: str
    duration:
      description: Seconds that it took.
      type: float
      sample: 0.022
    notices:
      description: What the server said on the side.
      type: list
      elements: str
    statements:
      description: How many statements its script has. Absent where no script runs.
      type: int
      sample: 4
    sqlx_cli_can_run:
      description: Whether sqlx-cli could run it as well. It cannot run several statements where one of them runs in no transaction.
      type: bool
reverted:
  description: The migrations that were reverted, newest first.
  returned: success
  type: list
  elements: dict
  contains: *entry
baselined:
  description: The migrations that were recorded without running.
  returned: success
  type: list
  elements: dict
  contains: *entry
repaired:
  description: The migrations whose row was corrected.
  returned: success
  type: list
  elements: dict
  contains: *entry
pending:
  description: Files that are still not applied, being above O(version).
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: Its version.
      type: int
    description:
      description: Its name, with spaces.
      type: str
    checksum:
      description: SHA-384 of the up script, hexadecimal.
      type: str
    statements:
      description: How many statements its script has.
      type: int
    sqlx_cli_can_run:
      description: Whether sqlx-cli could run it as well.
      type: bool
release:
  description: Digest of the files. SHA-256 over every version (8 bytes, big-endian) and its checksum, in order.
  returned: success
  type: str
fingerprint:
  description: Digest of the schema as it is now. Two databases at one release have the same.
  returned: success, except in check mode where something would change
  type: str
fingerprint_before:
  description: The same before anything was done.
  returned: success
  type: str
dirty:
  description: Versions that were begun and not finished.
  returned: success
  type: list
  elements: int
rehearsed:
  description: What was rehearsed, in order.
  returned: when O(rehearse) is true and something is pending
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: int
    description:
      description: Its name, with spaces.
      type: str
    action:
      description: V(apply) or V(revert).
      type: str
    not_rehearsed:
      description: Why it was not rehearsed. Empty if it was.
      type: str
    duration:
      description: Seconds that its statements took.
      type: float
    statements:
      description:
        - What each statement did. Its file, line and text, its duration in seconds, the number of rows that it changed, the strongest
          lock that it took on each relation, the tables and indexes that it rewrote, and what the server said.
      type: list
      elements: dict
    way_back:
      description: Digest of the down script, where it is one that ran.
      type: str
    lost:
      description:
        - The data that a down script takes with it. RV(rehearsed[].lost[].what) names a table, a column, or the rows of a table,
          RV(rehearsed[].lost[].rows) counts up to 100000 and says 100001 for more.
        - Without a number it cannot be known, since the script runs outside of transactions.
      type: list
      elements: dict
      contains:
        what:
          description: What is lost.
          type: str
          sample: table public.schemas
        rows:
          description: How many rows of it.
          type: int
waited_for:
  description: Seconds spent waiting for another run.
  returned: success
  type: float
messages:
  description: How many messages were sent to the server.
  returned: when something was done
  type: int
file:
  description: The file that could not be run.
  returned: failure of a statement
  type: str
line:
  description: The line in it.
  returned: failure of a statement
  type: int
column:
  description: The column in that line, where the server told.
  returned: failure of a statement
  type: int
statement:
  description: The statement that failed.
  returned: failure of a statement
  type: str
sqlstate:
  description: PostgreSQL's code of the error.
  returned: failure of a statement
  type: str
  sample: 42P01
message:
  description: PostgreSQL's message.
  returned: failure of a statement
  type: str
blocked_by:
  description: Sessions that stood in the way (pid, user, application, client, state, since, query).
  returned: failure to get a lock
  type: list
  elements: dict
installed_release:
  description: The digest RV(release) over what is applied. Equal to it where the database stands at exactly these files.
  returned: with O(prove), O(return_on_failure) or O(known_fingerprints)
  type: str
server_version:
  description: The server's version.
  returned: with O(prove), O(return_on_failure) or O(known_fingerprints)
  type: str
  sample: "15.18"
proven:
  description: Whether the way to what is applied, and back, is proven on this database.
  returned: with O(prove)
  type: bool
proved:
  description: The versions whose way back this run has proven.
  returned: with O(prove), when something was to be proven
  type: list
  elements: int
irreversible:
  description: The versions without a down script, because of which there is no way back to be proven.
  returned: with O(prove), when something was to be proven
  type: list
  elements: int
stands_for:
  description: Seconds since a migration was last applied or reverted.
  returned: with O(prove)
  type: float
ways_back:
  description: Digests of the proven down scripts, by version.
  returned: with O(prove)
  type: dict
measured:
  description:
    - By version, what it took on a copy of this database, as M(schema_registry.postgresql.migration_scratch) has measured it.
    - The seconds (C(duration)), the rows (C(rows)), what was rewritten (C(rewritten)), the bytes of log (C(log)), the bytes that it
      needed meanwhile (C(needs)) and kept (C(grows)), and those of the copy before (C(size)).
  returned: with O(prove)
  type: dict
known_fingerprints:
  description: What the schema looked like at each installed release that was part of a proof.
  returned: with O(prove)
  type: dict
partial:
  description: What was committed before the failure and not taken back, with the keys of a success.
  returned: failure while running
  type: dict
returned:
  description: What became of what was applied before the failure.
  returned: failure, with O(return_on_failure)
  type: dict
  contains:
    complete:
      description: Whether the schema is what it was before this run.
      type: bool
    reverted:
      description: The versions that were reverted, newest first.
      type: list
      elements: int
    fingerprint:
      description: Digest of the schema afterwards, where something was reverted.
      type: str
    why:
      description: Why nothing more was touched, or what is not as before.
      type: str
recovery:
  description: What state the database is in, whether it is safe to run again, and what to do otherwise.
  returned: failure
  type: str
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture, prediction, release, scripts, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import MigrationError
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.look import look


def main() -> None:
    # The SQL must reach no log, and must not be masked in what comes back; connections are logged by the server anyway.
    module = AnsibleModule(argument_spec=_arguments.MIGRATION, supports_check_mode=True, no_log=True)
    # What was sent is not news: it must not come back among the arguments.
    request = json.loads(module.params.pop("payload") or "{}")
    try:
        answer = _answer(module, request)
    except ValueError as error:
        module.fail_json(msg=str(error))
    except MigrationError as error:
        module.fail_json(msg=error.text, recovery=error.recovery, **error.failed)
    for warning in answer.pop("warnings", ()):
        module.warn(warning)
    module.exit_json(**answer)


def _answer(module: AnsibleModule, request: picture.Data) -> picture.Data:
    params = module.params
    version = _arguments.wanted(params["version"])
    controller = request.get("controller") or _arguments.this_machine()
    target = _arguments.target(params, controller, lock_timeout=params["lock_timeout"], statement_timeout=params["statement_timeout"])
    files_are_here = "release" not in request
    carried = _here(params) if files_are_here else release.decode(request["release"])
    policy = _arguments.policy(params)
    explain = picture.explainer(carried.migrations.values())
    answer: picture.Data = {}
    is_due = True
    if module.check_mode or request.get("look_first"):
        seen = prediction.NOTHING
        if not (module.check_mode and params["assume_empty"]):
            is_compared = bool(params["prove"] or params["known_fingerprints"])
            seen = look(target, params["ledger_table"], True, True, params["prove"], is_compared)
        rows = picture.rows_of(seen, ()) or []
        foreseen = prediction.foresee(
            *(carried, seen, rows, version, policy, explain), params["allow_transaction_control"], params["known_fingerprints"]
        )
        answer, is_due = foreseen.answer, foreseen.is_due
        if params["rehearse"]:
            # Which changes nothing, whatever is due.
            answer.update(picture.standing(carried, rows, seen["fingerprint"]))
    if is_due and not module.check_mode:
        # Most runs have nothing to do, and do not load it.
        from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import engine, rollout
        from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.executor import Options

        options = Options(
            params["ledger_table"],
            params["lock_retries"],
            params["advisory_lock_timeout"],
            params["allow_transaction_control"],
            controller,
            tuple(params["create_schemas"]),
            params["end_idle_lock_holder"],
        )
        if params["rehearse"]:
            return {"changed": False, "rehearsed": engine.rehearse(target, carried, version, policy, options, explain)}
        terms = rollout.Terms(
            params["prove"],
            params["return_on_failure"],
            {int(known): digest for known, digest in params["ways_back"].items()},
            params["known_fingerprints"],
        )
        if any(terms):
            answer = rollout.Rollout(target, carried, version, policy, options, terms, explain).run()
        else:
            answer = engine.migrate(target, carried, version, policy, options, explain)
    if files_are_here:
        scripts.annotate(answer, carried)
        if module._diff:
            answer["diff"] = picture.diff(carried, answer)
    return answer


def _here(params: picture.Data) -> release.Release:
    return release.of(source.read(params["source"], params["verify"], params["ignored_chars"]))


if __name__ == "__main__":
    main()
