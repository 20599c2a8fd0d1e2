# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins of this collection share. **Private** to the collection."""

from __future__ import annotations

import abc
import gc
import json
import os
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.plugins.action import ActionBase
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _arguments
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations import picture, plan, release, source
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import MigrationError
from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.garbage import uncollected

Data = t.Dict[str, t.Any]

_VAULT = b"$ANSIBLE_VAULT;"


class Sight(t.NamedTuple):
    """What was found on both sides, when a host was asked where its database stands."""

    files: source.Source
    everything: release.Release
    """The same, with what it takes to go forward: of no way back a script is read."""
    seen: Data
    rows: t.List[plan.Row]
    """The ledger's, and none where looking failed."""


class ControllerAction(ActionBase):
    """An action that reads migrations here and has its module run there."""

    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: t.Optional[Data] = None) -> Data:
        result: Data = super().run(tmp, task_vars)
        self._task_vars = task_vars
        self._packed = threading.Event()
        if self._task.check_mode:
            # Answered at once, so that nobody asks after a job.
            self._task.async_val = 0
        try:
            # Packing a module makes a syntax tree of each of its parts.
            with uncollected():
                result.update(self.act())
                # This process is a task's own and ends with it: nothing will be searched for what could go before.
                gc.freeze()
        except MigrationError as error:
            result.update(error.failed, failed=True, msg=error.text, recovery=error.recovery)
        except ValueError as error:
            result.update(failed=True, msg=str(error))
        return result

    @abc.abstractmethod
    def act(self) -> Data:
        """What the action does; its result."""

    def arguments(self, spec: Data) -> Data:
        """The task's arguments, checked and complete."""
        _result, arguments = self.validate_argument_spec(argument_spec=spec)
        return dict(arguments)

    def execute(self, module: str, spec: Data, request: Data) -> Data:
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

    def look(self, params: Data, directories: t.Sequence[str], request: Data) -> Sight:
        """Have the host look at the database, and read the migrations meanwhile.

        :param request: what is asked beside.
        :raises SourceError: if the files cannot be used, whatever was seen.
        """

        def ask(**more: bool) -> Data:
            return self.execute("migration_info", _arguments.INFO, {"look": {**request, **more}})

        # A misspelt directory is an error before anybody is asked.
        self._find_verify(params)
        # Packing a module keeps Python busy, and two threads would hinder each other: the files are read while the host works.
        self._packed.clear()

        def read() -> t.Tuple[source.Source, release.Release]:
            self._packed.wait()
            files = self.read(params, directories, complete=False)
            return files, release.of(files, None, ())

        with ThreadPoolExecutor(1) as aside:
            reading = aside.submit(read)
            try:
                seen = ask()
            finally:
                self._packed.set()
            files, everything = reading.result()
        rows = None if seen.get("failed") else picture.rows_of(seen, everything.files)
        if rows is None and not seen.get("failed"):
            # Something else is in the ledger: a changed file, or one that is not here.
            seen = ask(with_rows=True)
            rows = None if seen.get("failed") else picture.rows_of(seen, ())
        return Sight(files, everything, seen, rows or [])

    def _configure_module(self, *arguments: t.Any, **more: t.Any) -> t.Any:
        packed = super()._configure_module(*arguments, **more)
        self._packed.set()
        return packed

    def read(self, params: Data, directories: t.Sequence[str], complete: bool = True) -> source.Source:
        """Read migrations on the controller.

        :param complete: whether down and verification scripts are read at once.
        :raises SourceError: if they cannot be used.
        """
        return source.read(directories, self._find_verify(params), params["ignored_chars"], self._read_file, complete)

    def directories(self, names: t.Sequence[str]) -> t.List[str]:
        """Directories, found as the files of a role are."""
        return [self._find(name) for name in names]

    def _find_verify(self, params: Data) -> t.Optional[str]:
        return self._find(params["verify"]) if params.get("verify") else None

    def _find(self, directory: str) -> str:
        directory = os.path.expanduser(directory)
        return directory if os.path.isabs(directory) else str(self._find_needle("files", directory))

    def _read_file(self, path: str) -> bytes:
        with open(path, "rb", buffering=0) as file:
            content = file.readall()
        if content.startswith(_VAULT):
            with open(self._loader.get_real_file(path), "rb") as file:
                content = file.read()
        return content
