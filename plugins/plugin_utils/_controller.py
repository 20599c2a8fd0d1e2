# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins of this collection share. **Private** to the collection."""

from __future__ import annotations

import abc
import json
import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import MigrationError

_VAULT = b"$ANSIBLE_VAULT;"


class ControllerAction(ActionBase):
    """An action that reads migrations here and has its module run there."""

    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None) -> t.Dict[str, t.Any]:
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        self._task_vars = task_vars
        if self._task.check_mode:
            # Answered at once, so that nobody asks after a job.
            self._task.async_val = 0
        try:
            result.update(self.act())
        except MigrationError as error:
            result.update(error.failed, failed=True, msg=error.text, recovery=error.recovery)
        except ValueError as error:
            result.update(failed=True, msg=str(error))
        return result

    @abc.abstractmethod
    def act(self) -> t.Dict[str, t.Any]:
        """What the action does; its result."""

    def arguments(self, spec: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        """The task's arguments, checked and complete."""
        _result, arguments = self.validate_argument_spec(argument_spec=spec)
        return dict(arguments)

    def execute(self, module: str, spec: t.Dict[str, t.Any], request: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        """Run a module of this collection on the host, with those of the task's arguments that it knows and a request of ours."""
        request["controller"] = _arguments.this_machine()
        known = {each for name, option in spec.items() for each in (name, *option.get("aliases", ()))}
        answer = self._execute_module(
            module_name="schema_registry.postgresql." + module,
            module_args=dict({name: value for name, value in self._task.args.items() if name in known}, payload=json.dumps(request)),
            task_vars=self._task_vars,
            wrap_async=bool(self._task.async_val),
        )
        # What was sent is not news, and may be large.
        answer.pop("invocation", None)
        return dict(answer)

    def read(self, directories: t.Sequence[str], verify: t.Optional[str], ignored_chars: str) -> source.Source:
        """Read migrations on the controller.

        :raises SourceError: if they cannot be used.
        """
        return source.read(
            [self._find(directory) for directory in directories],
            self._find(verify) if verify else None,
            ignored_chars,
            self._read_file,
        )

    def _find(self, directory: str) -> str:
        """A directory, found as the files of a role are."""
        directory = os.path.expanduser(directory)
        return directory if os.path.isabs(directory) else str(self._find_needle("files", directory))

    def _read_file(self, path: str) -> bytes:
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(_VAULT):
            with open(self._loader.get_real_file(path), "rb") as file:
                content = file.read()
        return content
