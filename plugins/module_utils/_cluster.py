# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection: it may change at any time.

"""Where postgresql-common keeps things, and how to speak to them as the operating system user postgres."""

from __future__ import annotations

import glob
import os
import typing as t

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

OWNER = "postgres"

#: What the roles of this collection write below a cluster's configuration directory.
OWNED_FILES = ("pg_hba.conf", "pg_ident.conf", "conf.d/*-schema-registry-*.conf")


def configuration_directory(version: str, cluster: str) -> str:
    """The directory of a cluster's configuration."""
    return "/etc/postgresql/%s/%s" % (version, cluster)


def program(version: str, name: str) -> str:
    """The path of a server program of one major version."""
    return "/usr/lib/postgresql/%s/bin/%s" % (version, name)


def owned_files(directory: str) -> t.List[str]:
    """The files in a configuration directory that this collection owns."""
    return sorted(path for pattern in OWNED_FILES for path in glob.glob(os.path.join(glob.escape(directory), pattern)))


def as_owner(module: AnsibleModule, command: t.List[str], data: t.Optional[str] = None) -> t.Tuple[int, str, str]:
    """Run a command as the operating system user postgres, in a neutral environment.

    Modules of this collection run as root, and the server's programs refuse to. setpriv (util-linux) needs no PAM session.
    """
    setpriv = ["setpriv", "--reuid=" + OWNER, "--regid=" + OWNER, "--init-groups", "--reset-env"]
    rc, out, err = module.run_command(setpriv + command, data=data, cwd="/", environ_update={"LC_ALL": "C", "LANGUAGE": "C"})
    return rc, out, err
