# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module migration_scratch: it has the files, and sends all of them."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleError
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import release, source
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._controller import ControllerAction, Data


class ActionModule(ControllerAction):
    _supports_check_mode = True
    _supports_async = True

    def act(self) -> Data:
        params = self.arguments(_arguments.SCRATCH)
        files = self.read(params, self.directories(params["source"]))
        samples: t.Dict[int, source.Script] = {}
        directory = self._samples(params)
        if params["action"] == "stairway" and directory:
            samples = source.read_samples(directory, {each.version for each in files.migrations}, self._read_file)
        request = {
            "release": release.encode(release.of(files)),
            "samples": [[version, script.path, script.text] for version, script in samples.items()],
        }
        return self.execute("migration_scratch", _arguments.SCRATCH, request)

    def _samples(self, params: Data) -> t.Optional[str]:
        """The directory of samples, where there is one."""
        if not params["samples"]:
            return None
        try:
            (directory,) = self.directories([params["samples"]])
        except AnsibleError:
            return None
        return directory if os.path.isdir(directory) else None
