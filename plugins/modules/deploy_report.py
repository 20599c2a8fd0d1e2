#!/usr/bin/python
# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deploy_report
short_description: Write what a deployment did to a file on the controller
version_added: 1.0.0
description:
  - Writes a file on the controller, whole or not at all, and makes the directory that it is in.
  - No host is connected to and no module started, so that a run without changes does not pay for its report.
author:
  - Schema Registry contributors (@schema-registry)
options:
  path:
    description: The file.
    type: path
    required: true
  content:
    description: What is to be in it.
    type: str
    required: true
attributes:
  check_mode:
    description: Writes nothing in check mode.
    support: full
  diff_mode:
    description: The report is not what is deployed, so it is not shown.
    support: none
  idempotent:
    description: Always answers that nothing was changed, since nothing that is deployed was.
    support: full
seealso:
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
- name: What was done is written down
  schema_registry.postgresql.deploy_report:
    path: reports/deploy.json
    content: "{{ summary | to_nice_json }}"
"""

RETURN = r"""
path:
  description: The file that was written.
  returned: always
  type: str
  sample: /srv/registry/reports/deploy.json
"""
