"""The engine in a process of its own: to run many at once, and to be killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from typing import Any, Dict, Optional

from ansible_collections.schema_registry.postgresql.plugins.module_utils._migrations.errors import MigrationError

from .migrations import Release


class RunError(AssertionError):
    """A run did not end in time, or by an error that the engine did not raise on purpose."""


class Run:
    """`Release.migrate`, begun; the arguments are its own. Leaving the context ends it in any case."""

    def __init__(self, release: Release, version: Optional[int] = None, **arguments: Any) -> None:
        task = pickle.dumps((release, version, arguments)).hex()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "support.process", task]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        self._was_killed = False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_unused: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def kill(self) -> None:
        self._was_killed = True
        self._process.send_signal(signal.SIGKILL)

    def answer(self, timeout: float) -> Dict[str, Any]:
        """What it says at its end, `failed` and the rest of an error included; nothing where it was killed.

        :raises RunError: if it does not end in so many seconds, or by itself.
        """
        try:
            output, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RunError(f"a run is not done after {timeout:.0f} s") from None
        if self._was_killed:
            return {}
        if self._process.returncode:
            raise RunError(f"a run ended by itself with {self._process.returncode}:\n{errors}")
        answer: Dict[str, Any] = json.loads(output)
        return answer


def _main(task: str) -> None:
    release, version, arguments = pickle.loads(bytes.fromhex(task))
    try:
        answer = release.migrate(version, **arguments)
    except MigrationError as error:
        answer = {"failed": error.text, **error.failed}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1])
