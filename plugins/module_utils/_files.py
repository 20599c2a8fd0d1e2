# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection: it may change at any time.

"""Text files of a managed host, read whole and replaced in one step."""

from __future__ import annotations

import os
import tempfile
import typing as t

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def read(path: str) -> str:
    """The text of a file; empty if there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except (FileNotFoundError, IsADirectoryError):
        return ""


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Replace a file in one step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, new = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
    module.atomic_move(new, path)


def set_attributes(module: AnsibleModule, path: str, owner: str, mode: str, changed: bool) -> bool:
    """See to a file's owner, group of the same name and mode; whether anything was (or would be) changed, by this or before."""
    changed = module.set_owner_if_different(path, owner, changed)
    changed = module.set_group_if_different(path, owner, changed)
    changed = module.set_mode_if_different(path, mode, changed)
    return bool(changed)


def difference(path: str, before: str, after: str) -> t.Dict[str, str]:
    """What Ansible shows of a file that is replaced."""
    return {"before": before, "after": after, "before_header": path, "after_header": path}
