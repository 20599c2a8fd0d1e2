#!/usr/bin/python
# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration_lint
short_description: Check migration files before any database is touched
version_added: 1.0.0
description:
  - Reads a release on the controller and says what is wrong with it. No host is connected to.
  - Files that could not be used at all (misnamed, of one version, not UTF-8) always fail.
  - Where Squawk (PyPI C(squawk-cli)) is installed on the controller, its findings are among the problems.
author:
  - Schema Registry contributors (@schema-registry)
options:
  source:
    description: Directories of migration files, as for M(schema_registry.postgresql.migration).
    type: list
    elements: str
    required: true
  verify:
    description: Directory of verification scripts. Where it is given, each migration must have one.
    type: str
  ignored_chars:
    description: Characters that checksums leave out, as for M(schema_registry.postgresql.migration).
    type: str
    default: ""
  rules:
    description:
      - Level of each rule that shall not have its own, V(error), V(warning) or V(ignore).
      - C(missing-down) (error), a migration has no down script.
      - C(missing-verify) (error), a migration has no verification script, and O(verify) is given.
      - C(unreadable) (error), a quote is never closed, or there is a command of psql or a COPY through the client.
      - C(byte-order-mark) (error), PostgreSQL takes one for a syntax error.
      - C(misplaced-marker) (error), C(no-transaction) is written where or so that it has no effect.
      - C(several-statements) (warning), a no-transaction file that sqlx itself could not run.
      - C(unnamed-index) (error), an index that is built concurrently without a name, so that nobody could tell after an
        interruption whether it is there.
      - C(transaction-control) (error), BEGIN, COMMIT and their like.
      - C(outside-transaction) (error), a statement such as CREATE INDEX CONCURRENTLY without the marker.
      - C(session-setting) (warning), SET without LOCAL; in a no-transaction file SET LOCAL, which does nothing there.
      - C(volatile-index) (error), an index on what changes, such as now().
      - C(unpinned-search-path) (error), a SECURITY DEFINER function without a search_path of its own.
      - C(misread-loss) (error), a line of a down script that begins like C(-- data-loss) and does not announce anything that could be read.
      - C(unannounced-loss) (warning), a down script that drops a table or a column or deletes rows, and has no line C(-- data-loss).
      - C(squawk) (warning), everything that Squawk finds.
    type: dict
    default: {}
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
seealso:
  - module: schema_registry.postgresql.migration
"""

EXAMPLES = r"""
- name: The release is fit to be applied
  schema_registry.postgresql.migration_lint:
    source: sql/migrations
    verify: sql/verify
    rules:
      several-statements: error
  delegate_to: localhost
"""

RETURN = r"""
release:
  description: Digest of the files.
  returned: when they can be read
  type: str
versions:
  description: Every version, in order.
  returned: when they can be read
  type: list
  elements: int
ways_back:
  description: Digests of the down scripts, by version, to be compared with those that M(schema_registry.postgresql.migration_info) has as proven.
  returned: when they can be read
  type: dict
problems:
  description: Everything that was found.
  returned: always
  type: list
  elements: dict
  contains:
    rule:
      description: The rule.
      type: str
      sample: missing-down
    level:
      description: V(error) or V(warning).
      type: str
    file:
      description: The file.
      type: str
    line:
      description: The line in it.
      type: int
    message:
      description: What is wrong.
      type: str
"""
