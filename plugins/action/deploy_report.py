# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All of deploy_report: it writes on the controller, so no host is asked, and no module started."""

from __future__ import annotations

import os
import typing as t

from ansible.plugins.action import ActionBase

_SPEC = {"path": {"type": "path", "required": True}, "content": {"type": "str", "required": True}}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: t.Any = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        _checked, params = self.validate_argument_spec(argument_spec=_SPEC)
        path = os.path.abspath(os.path.expanduser(params["path"]))
        # What is written is not what is deployed.
        result.update(changed=False, path=path)
        if not self._task.check_mode:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                # Whoever reads it meanwhile sees the old one or the new one.
                with open(path + ".new", "w", encoding="utf-8") as file:
                    file.write(params["content"])
                os.replace(path + ".new", path)
            except OSError as error:
                result.update(failed=True, msg="The report cannot be written: {0}".format(error))
        return result
