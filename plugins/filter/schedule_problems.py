# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils import _schedule

DOCUMENTATION = r"""
name: schedule_problems
short_description: What is wrong with schedules of jobs
version_added: 1.0.0
description:
  - Says of each schedule that is not in cron's words what is wrong with it, so that it can be told before anything is touched.
author:
  - Schema Registry contributors (@schema-registry)
options:
  _input:
    description:
      - Schedules, by what they are for.
    type: dict
    required: true
seealso:
  - plugin: schema_registry.postgresql.on_calendar
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Schedules are right
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join('\n') }}"
  vars:
    problems: "{{ schedules | schema_registry.postgresql.schedule_problems }}"
"""

RETURN = r"""
_value:
  description: A sentence about each that is wrong.
  type: list
  elements: str
  sample: ["report: '0 25 * * *' is no schedule, hour is from 0 to 23, not 25"]
"""


def schedule_problems(schedules: t.Mapping[str, object]) -> t.List[str]:
    """A sentence about each schedule that is wrong."""
    if not isinstance(schedules, t.Mapping):
        raise AnsibleFilterError("schedules are a dictionary, not {0!r}".format(schedules))
    problems = []
    for job, schedule in schedules.items():
        try:
            _schedule.on_calendar(str(schedule))
        except ValueError as error:
            problems.append("{0}: {1!r} is no schedule, {2}".format(job, schedule, error))
    return problems


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"schedule_problems": schedule_problems}
