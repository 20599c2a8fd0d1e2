# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module migration_info: it has the files, and sends their manifest along."""

from __future__ import annotations

import typing as t

from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import release
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    _supports_check_mode = True
    _supports_async = False

    def act(self) -> t.Dict[str, t.Any]:
        params = self.arguments(_arguments.INFO)
        request = {}
        if params["source"] and not params["remote_src"]:
            source = self.read(params["source"], None, params["ignored_chars"])
            request["release"] = release.encode(release.of(source, ()))
        return self.execute("migration_info", _arguments.INFO, request)
