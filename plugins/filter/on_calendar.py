# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils import _schedule

DOCUMENTATION = r"""
name: on_calendar
short_description: A schedule in cron's words, in those of systemd
version_added: 1.0.0
description:
  - What a timer of systemd needs as C(OnCalendar) to run when cron would. Each value adds its times; there are two where both the day of the month
    and the day of the week are restricted, since cron takes them as alternatives.
author:
  - Schema Registry contributors (@schema-registry)
options:
  _input:
    description:
      - Five words as in a crontab - minute, hour, day of the month, month and day of the week - or one such as V(@daily).
    type: str
    required: true
seealso:
  - plugin: schema_registry.postgresql.schedule_problems
    plugin_type: filter
"""

EXAMPLES = r"""
- name: On the first day of a month and on Sundays
  ansible.builtin.debug:
    msg: "{{ '30 4 1 * 0' | schema_registry.postgresql.on_calendar }}"
"""

RETURN = r"""
_value:
  description: Values of C(OnCalendar).
  type: list
  elements: str
  sample: ['*-*-01 04:30:00', 'Sun *-*-* 04:30:00']
"""


def on_calendar(schedule: object) -> t.List[str]:
    """A schedule in systemd's words."""
    try:
        return _schedule.on_calendar(str(schedule))
    except ValueError as error:
        raise AnsibleFilterError("{0!r} is no schedule, {1}".format(schedule, error)) from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"on_calendar": on_calendar}
