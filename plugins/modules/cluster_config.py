#!/usr/bin/python

# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_config
short_description: Put configuration files of a PostgreSQL cluster in place, if PostgreSQL itself can read them
version_added: 1.0.0
description:
  - Writes drop-ins, C(pg_hba.conf) and C(pg_ident.conf) of a cluster of postgresql-common (Debian, Ubuntu), whole and all together.
  - PostgreSQL's own parser reads the new files before the old ones are replaced. Client authentication is read by a single-user server on a
    throw-away data directory, settings by C(postgres -C), and every library of C(shared_preload_libraries) must exist.
    What it does not accept is never written, so that the running server and its next start are safe at every moment.
  - It does not reload the server. It must run as root.
author:
  - Schema Registry contributors (@schema-registry)
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - The files are checked by PostgreSQL in check mode too, if its programs are installed. A library may be missing then, its package
        would be installed by a task before.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: full
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: debian
options:
  version:
    description:
      - The cluster's major version.
    type: str
    required: true
  cluster:
    description:
      - The cluster's name.
    type: str
    required: true
  files:
    description:
      - The files to write.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Its name in the cluster's configuration directory, V(pg_hba.conf), V(pg_ident.conf) or a file in C(conf.d).
        type: str
        required: true
      content:
        description:
          - Its text. The first line is the mark by which the module knows the file again.
        type: str
        required: true
  backup:
    description:
      - Whether a file that somebody else wrote, one with another first line, is kept beside the new one.
    type: bool
    default: true
seealso:
  - module: schema_registry.postgresql.cluster_info
"""

EXAMPLES = r"""
- name: The cluster has a drop-in
  schema_registry.postgresql.cluster_config:
    version: '17'
    cluster: production
    files:
      - name: conf.d/60-reporting.conf
        content: |
          # Managed by Ansible
          work_mem = '64MB'
"""

RETURN = r"""
written:
  description: The files that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/postgresql/17/production/conf.d/60-reporting.conf]
kept:
  description: The copies of files that somebody else had written.
  returned: always
  type: list
  elements: str
"""

import os
import re
import shutil
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _cluster, _files

# As postgresql-common has it: everybody's psql looks up a cluster's port in the settings.
SETTINGS_MODE = "0644"
AUTHENTICATION_MODE = "0640"
PROBLEMS = """
select 'pg_hba.conf line ' || line_number || ': ' || error from pg_hba_file_rules where error is not null
"""
# Only since PostgreSQL 15.
IDENT_PROBLEMS = """
union all select 'pg_ident.conf line ' || line_number || ': ' || error from pg_ident_file_mappings where error is not null
"""


class Invalid(Exception):
    """PostgreSQL does not accept a file."""


class Scratch:
    """A copy of the configuration in which the new files already are, readable by the server's user."""

    def __init__(self, module: AnsibleModule, root: str, live: str, files: t.Dict[str, str]) -> None:
        self.module = module
        self.version = module.params["version"]
        self.live = live
        self.directory = os.path.join(root, "etc")
        os.makedirs(os.path.join(self.directory, "conf.d"))
        names = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"]
        names += ["conf.d/" + name for name in os.listdir(os.path.join(live, "conf.d"))] if os.path.isdir(os.path.join(live, "conf.d")) else []
        texts = {name: _files.read(os.path.join(live, name)) for name in names}
        for name, text in {**texts, **files}.items():
            if os.path.isdir(os.path.join(live, name)):
                continue
            with open(os.path.join(self.directory, name), "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
        self.data = os.path.join(root, "data")
        os.mkdir(self.data, 0o700)
        for path, _directories, names in os.walk(root):
            for name in ["", *names]:
                shutil.chown(os.path.join(path, name), _cluster.OWNER, _cluster.OWNER)

    def run(self, name: str, *arguments: str, data: t.Optional[str] = None) -> t.Tuple[int, str, str]:
        """Run one of the server's programs."""
        rc, out, err = _cluster.as_owner(self.module, [_cluster.program(self.version, name), *list(arguments)], data)
        return rc, out, err

    def check_settings(self) -> None:
        """Read all settings as the next start of the server would."""
        rc, out, err = self.run("postgres", "-C", "shared_preload_libraries", "-D", self.data, "--config-file=%s/postgresql.conf" % self.directory)
        if rc:
            lines = [re.sub(r"^.*?\[\d+\] *", "", line) for line in err.splitlines()]
            raise Invalid("; ".join(lines).replace(self.directory, self.live))
        if self.module.check_mode:
            return
        directory = self.run("pg_config", "--pkglibdir")[1].strip()
        for library in (entry.strip(' "\n') for entry in out.split(",")):
            path = os.path.join(directory, library.replace("$libdir/", ""))
            if library and not any(os.path.exists(candidate) for candidate in (path, path + ".so")):
                raise Invalid("shared_preload_libraries: %s.so does not exist, the server would not start with it" % path)

    def check_authentication(self) -> None:
        """Let a server on a throw-away data directory read who may connect."""
        arguments = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=reject", "--wal-segsize=1", "-D", self.data]
        rc, out, err = self.run("initdb", *arguments)
        if rc:
            raise Invalid("initdb for the check of pg_hba.conf failed: %s" % (err.strip() or out.strip()))
        settings = ["ssl=on", "hba_file=%s/pg_hba.conf" % self.directory, "ident_file=%s/pg_ident.conf" % self.directory]
        query = PROBLEMS + (IDENT_PROBLEMS if int(self.version) >= 15 else "")
        arguments = ["--single", "-j", "-D", self.data] + [word for setting in settings for word in ("-c", setting)]
        rc, out, err = self.run("postgres", *arguments, "template1", data=query.strip() + ";\n\n")
        problems = re.findall(r'^\t 1: .*? = "(.*)"\t\(typeid', out, re.MULTILINE)
        if rc or problems or " 1: " not in out:
            raise Invalid("; ".join(problems) or err.strip())


def check(module: AnsibleModule, live: str, files: t.Dict[str, str]) -> None:
    """Have PostgreSQL read the files; raises Invalid."""
    root = tempfile.mkdtemp(prefix="ansible-postgresql-")
    try:
        scratch = Scratch(module, root, live, files)
        if any(name.startswith("conf.d/") for name in files) and os.path.exists(os.path.join(live, "postgresql.conf")):
            scratch.check_settings()
        if {"pg_hba.conf", "pg_ident.conf"} & set(files):
            scratch.check_authentication()
    finally:
        shutil.rmtree(root)


def main() -> None:
    """Compare, check, write."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "cluster": {"type": "str", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": {"type": "str", "required": True}, "content": {"type": "str", "required": True}},
            },
            "backup": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    live = _cluster.configuration_directory(module.params["version"], module.params["cluster"])
    wanted = {file["name"]: file["content"] for file in module.params["files"]}
    for name in wanted:
        if not re.match(r"(conf\.d/[^/.][^/]*\.conf|pg_hba\.conf|pg_ident\.conf)$", name):
            module.fail_json(msg="%s is neither pg_hba.conf, pg_ident.conf nor a file in conf.d" % name)
    present = {name: _files.read(os.path.join(live, name)) for name in wanted}
    differing = {name: text for name, text in wanted.items() if present[name] != text}
    changed = bool(differing)

    if differing and os.path.exists(_cluster.program(module.params["version"], "postgres")):
        try:
            check(module, live, differing)
        except Invalid as error:
            module.fail_json(msg="PostgreSQL does not accept the new configuration of %s, nothing was written: %s" % (live, error))

    kept = []
    for name, text in wanted.items():
        path = os.path.join(live, name)
        if name in differing and not module.check_mode:
            foreign = present[name] and present[name].split("\n", 1)[0] != text.split("\n", 1)[0]
            if foreign and module.params["backup"]:
                kept.append(module.backup_local(path))
            _files.write(module, path, text)
        if os.path.exists(path):
            mode = SETTINGS_MODE if name.startswith("conf.d/") else AUTHENTICATION_MODE
            changed = _files.set_attributes(module, path, _cluster.OWNER, mode, changed)

    module.exit_json(
        changed=changed,
        written=[os.path.join(live, name) for name in differing],
        kept=kept,
        diff=[_files.difference(os.path.join(live, name), present[name], text) for name, text in differing.items()],
    )


if __name__ == "__main__":
    main()
