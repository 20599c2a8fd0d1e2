#!/usr/bin/python

# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: job_timers
short_description: Put the files of regular jobs in place, and have systemd follow them
version_added: 1.0.0
description:
  - Writes the units, scripts and tables of regular jobs, takes away those that are no more, tells systemd about it once, and sees to it that the
    timers are on. All in one round trip, where a task for each file and each timer would take as many as there are.
  - A timer whose file changed is started anew. It must run as root.
author:
  - Schema Registry contributors (@schema-registry)
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: full
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
options:
  files:
    description:
      - The files that shall be there. They are root's.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Where it is.
        type: path
        required: true
      content:
        description:
          - Its text.
        type: str
        required: true
      mode:
        description:
          - Its mode, in octal digits.
        type: str
        default: '0644'
  absent:
    description:
      - Files that shall not be there. A timer is turned off before its file goes.
    type: list
    elements: path
    default: []
  timers:
    description:
      - The names of the timers that shall be enabled and running. This takes a running systemd.
    type: list
    elements: str
    default: []
seealso:
  - module: ansible.builtin.systemd_service
"""

EXAMPLES = r"""
- name: A report is written every night
  schema_registry.postgresql.job_timers:
    files:
      - path: /etc/systemd/system/report.service
        content: |
          [Service]
          Type=oneshot
          ExecStart=/usr/local/bin/report
      - path: /etc/systemd/system/report.timer
        content: |
          [Timer]
          OnCalendar=02:30
          [Install]
          WantedBy=timers.target
    timers: [report.timer]
"""

RETURN = r"""
written:
  description: The files that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/systemd/system/report.timer]
removed:
  description: The files that were taken away, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/systemd/system/old.timer]
started:
  description: The timers that were started, once more or for the first time, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [report.timer]
"""

import contextlib
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _files

OWNER = "root"
# Where sd_booted(3) looks.
RUNNING_SYSTEMD = "/run/systemd/system"


def systemctl(module: AnsibleModule, *arguments: str) -> str:
    """Run systemctl; what it said. A failure ends the module."""
    command = ["systemctl", *arguments]
    rc, out, err = module.run_command(command, environ_update={"LC_ALL": "C", "LANGUAGE": "C"})
    if rc:
        module.fail_json(msg="%s: %s" % (" ".join(command), err.strip() or out.strip()), rc=rc)
    return str(out)


def are_on(module: AnsibleModule, timers: t.List[str]) -> t.Set[str]:
    """Those of the timers that are enabled and running as their files have it; one that systemd does not know is not."""
    if not timers:
        return set()
    blocks = systemctl(module, "show", "--property=UnitFileState,ActiveState,NeedDaemonReload", *timers).strip("\n").split("\n\n")
    wanted = {"UnitFileState=enabled", "ActiveState=active", "NeedDaemonReload=no"}
    return {name for name, block in zip(timers, blocks) if wanted <= set(block.splitlines())}


def main() -> None:
    """Compare, take away, write, tell systemd, start."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
            "absent": {"type": "list", "elements": "path", "default": []},
            "timers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    files, timers = module.params["files"], module.params["timers"]
    systemd = os.path.isdir(RUNNING_SYSTEMD)
    if timers and not systemd:
        module.fail_json(msg="There is no systemd running here that could follow %s." % ", ".join(timers))

    texts = {file["path"]: file["content"] for file in files}
    paths = [*texts, *module.params["absent"]]
    wrong = [path for path in paths if not os.path.isabs(path) or os.path.isdir(path) or paths.count(path) > 1]
    if wrong:
        module.fail_json(
            msg="Nothing was changed. Each path must be absolute, no directory, and stand in files or in absent but not in both: %s" % ", ".join(wrong)
        )
    before = {path: _files.read(path) for path in paths}
    written = [path for path, text in texts.items() if before[path] != text]
    removed = [path for path in module.params["absent"] if os.path.lexists(path)]
    on = are_on(module, timers)
    rewritten = {os.path.basename(path) for path in written}
    started = [name for name in timers if name not in on or name in rewritten]
    changed = bool(written or removed or started)

    if not module.check_mode:
        gone = [os.path.basename(path) for path in removed if path.endswith(".timer")]
        if gone and systemd:
            systemctl(module, "disable", "--now", *gone)
        for path in removed:
            # Another run may have been faster.
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        if written and on:
            # A run that is cut off from here on leaves timers that are not enabled, by which the next one sees that systemd knows only the old files.
            systemctl(module, "disable", *sorted(on))
        for path in written:
            _files.write(module, path, texts[path])
    for file in files:
        if os.path.exists(file["path"]):
            changed = _files.set_attributes(module, file["path"], OWNER, file["mode"], changed)
    if changed and systemd and not module.check_mode:
        systemctl(module, "daemon-reload")
        if timers:
            systemctl(module, "enable", *timers)
        if started:
            systemctl(module, "restart", *started)

    module.exit_json(
        changed=changed,
        written=written,
        removed=removed,
        started=started,
        diff=[_files.difference(path, before[path], texts.get(path, "")) for path in written + removed],
    )


if __name__ == "__main__":
    main()
