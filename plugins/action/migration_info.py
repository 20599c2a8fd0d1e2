# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module migration_info: it has the files, and reads them while the host looks at the database."""

from __future__ import annotations

from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture
from ansible_collections.schema_registry.postgresql.plugins.plugin_utils._controller import ControllerAction, Data


class ActionModule(ControllerAction):
    _supports_check_mode = True
    _supports_async = False

    def act(self) -> Data:
        params = self.arguments(_arguments.INFO)
        if params["remote_src"] or not params["source"]:
            return self.execute("migration_info", _arguments.INFO, {})
        sight = self.look(params, self.directories(params["source"]), {"around": True})
        if sight.seen.get("failed"):
            return sight.seen
        return picture.told(sight.seen, sight.everything, sight.rows)
