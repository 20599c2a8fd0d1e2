# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of migration files, read whole and checked before anything is connected to."""

from __future__ import annotations

import functools
import os
import typing as t

from . import checksum, names
from .errors import SourceError
from .garbage import uncollected

# sqlx-core/src/migrate/migration.rs: a plain prefix test at byte 0.
NO_TRANSACTION = b"-- no-transaction"


class Script:
    """One SQL file; its content is read when it is first wanted, and checked.

    :param read: how the bytes are had, where they are not at hand.
    """

    __slots__ = ("_content", "_read", "path")

    def __init__(self, path: str, content: t.Optional[bytes] = None, read: t.Optional[t.Callable[[], bytes]] = None) -> None:
        self.path = path
        self._content = content
        self._read = read

    def read(self) -> bytes:
        """The raw bytes, which are UTF-8 without a NUL.

        :raises SourceError: if they are not, or cannot be read.
        """
        if self._content is None:
            self._content = b"" if self._read is None else _checked(self.path, self._read)
        return self._content

    @property
    def content(self) -> bytes:
        return self.read()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Script) and (self.path, self.content) == (other.path, other.content)

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return "Script({0!r})".format(self.path)

    @property
    def no_transaction(self) -> bool:
        return self.content.startswith(NO_TRANSACTION)

    @property
    def text(self) -> str:
        return self.content.decode()


class Migration(t.NamedTuple):
    """One version: the script that makes it, the one that takes it back, the one that proves it."""

    version: int
    description: str
    checksum: bytes
    """SHA-384 of the up script, as in the ledger."""
    up: Script
    down: t.Optional[Script] = None
    verify: t.Optional[Script] = None

    def script(self, reverting: bool) -> Script:
        """The script that goes this way.

        :raises SourceError: if it is not there; no plan goes that way.
        """
        script = self.down if reverting else self.up
        if script is None:
            raise SourceError("{0}: there is no down script.".format(self.up.path))
        return script


class Source(t.NamedTuple):
    """All migrations of a release, in order of version."""

    migrations: t.Tuple[Migration, ...]
    only_down: t.FrozenSet[int] = frozenset()
    """Versions of which only a down file is there: sqlx does not count them as missing, and never applies them."""

    @property
    def release(self) -> str:
        return checksum.release((each.version, each.checksum) for each in self.migrations)


def _checked(path: str, read: t.Callable[[], bytes]) -> bytes:
    problem = ""
    try:
        content = read()
        if not content.isascii():
            content.decode()
    except OSError as error:
        problem = "{0}: {1}".format(path, error.strerror)
    except UnicodeDecodeError as error:
        problem = "{0}, line {1}: not UTF-8".format(path, content.count(b"\n", 0, error.start) + 1)
    else:
        if b"\0" in content:
            line = content.count(b"\n", 0, content.index(b"\0")) + 1
            problem = "{0}, line {1}: a NUL byte, which PostgreSQL cannot take".format(path, line)
    if problem:
        raise _unusable([problem])
    return content


def _unusable(problems: t.List[str]) -> SourceError:
    return SourceError("The migration files cannot be used:\n  " + "\n  ".join(problems), {"problems": problems})


def _read_file(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def is_small(directories: t.Sequence[str], limit: int) -> bool:
    """Whether all SQL files of some directories together hold no more than so many bytes."""
    size = 0
    for directory in directories:
        try:
            with os.scandir(directory) as listed:
                for entry in listed:
                    size += entry.stat().st_size if entry.name.endswith(".sql") else 0
                    if size > limit:
                        return False
        except OSError:
            # Whoever reads them says what is wrong.
            continue
    return True


@uncollected()
def read(
    directories: t.Sequence[str],
    verify: t.Optional[str] = None,
    ignored_chars: str = "",
    read_file: t.Callable[[str], bytes] = _read_file,
    complete: bool = True,
) -> Source:
    """Read the migrations of one or more directories, and their verification scripts.

    :param directories: where the migrations are; sub-directories are not entered.
    :param verify: directory of verification scripts, ``<version>_<name>.sql``.
    :param ignored_chars: characters that checksums leave out.
    :param read_file: how a file's bytes are had (the controller decrypts vaulted ones).
    :param complete: whether down and verification scripts are read at once, and not only when they are wanted.
    :raises SourceError: with every problem that was found, not just the first.
    """
    problems: t.List[str] = []
    found: t.Dict[str, t.Dict[int, t.Tuple[names.FileName, Script]]] = {names.UP: {}, names.DOWN: {}}
    for directory in directories:
        for name, script in _scripts(directory, read_file, problems):
            _place(found[names.DOWN if name.kind == names.DOWN else names.UP], name, script, problems)
            if complete or name.kind != names.DOWN:
                _try(script, problems)
    ups, downs = found[names.UP], found[names.DOWN]
    if not ups and not problems:
        problems.append("{0}: no migration is here".format(", ".join(directories)))

    proofs: t.Dict[int, t.Tuple[names.FileName, Script]] = {}
    if verify:
        every_up = not problems  # otherwise a file of `ups` may be lacking
        proofs = _companions(verify, ("a verification script", "verifies"), ups if every_up else None, read_file, problems, complete)
    if problems:
        raise _unusable(problems)

    def script_of(scripts: t.Dict[int, t.Tuple[names.FileName, Script]], version: int) -> t.Optional[Script]:
        return scripts[version][1] if version in scripts else None

    return Source(
        tuple(
            Migration(
                version,
                name.description,
                checksum.of(up.content, ignored_chars),
                up,
                script_of(downs, version),
                script_of(proofs, version),
            )
            for version, (name, up) in sorted(ups.items())
        ),
        frozenset(downs).difference(ups),
    )


def read_samples(directory: str, versions: t.Container[int], read_file: t.Callable[[str], bytes] = _read_file) -> t.Dict[int, Script]:
    """What puts data into the tables after a version, where there is such a file.

    :param versions: those that there are.
    :raises SourceError: with every problem that was found.
    """
    problems: t.List[str] = []
    found = _companions(directory, ("a sample", "belongs to"), versions, read_file, problems, True)
    if problems:
        raise _unusable(problems)
    return {version: script for version, (_name, script) in found.items()}


def _companions(
    directory: str,
    words: t.Tuple[str, str],
    versions: t.Optional[t.Container[int]],
    read_file: t.Callable[[str], bytes],
    problems: t.List[str],
    complete: bool,
) -> t.Dict[int, t.Tuple[names.FileName, Script]]:
    """Scripts that go with migrations, one for a version.

    :param words: what such a script is, and does with a version.
    :param versions: those that there are; None: not known.
    """
    found: t.Dict[int, t.Tuple[names.FileName, Script]] = {}
    for name, script in _scripts(directory, read_file, problems):
        _place(found, name, script, problems)
        if complete:
            _try(script, problems)
        if name.kind != names.SIMPLE:
            problems.append("{0}: {1} is named <version>_<name>.sql".format(script.path, words[0]))
        if versions is not None and name.version not in versions:
            problems.append("{0}: {1} version {2}, which has no migration".format(script.path, words[1], name.version))
    return found


def _try(script: Script, problems: t.List[str]) -> None:
    try:
        script.read()
    except SourceError as error:
        problems += error.failed["problems"]


def _place(
    taken: t.Dict[int, t.Tuple[names.FileName, Script]], name: names.FileName, script: Script, problems: t.List[str]
) -> None:
    # sqlx would apply the first and fail on the second, in the middle of a deployment.
    other = taken.setdefault(name.version, (name, script))[1]
    if other is not script:
        problems.append("{0}: version {1} is also in {2}".format(script.path, name.version, other.path))


def _scripts(
    directory: str, read_file: t.Callable[[str], bytes], problems: t.List[str]
) -> t.Iterator[t.Tuple[names.FileName, Script]]:
    try:
        with os.scandir(directory) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        problems.append("{0}: {1}".format(directory, error.strerror))
        return
    for entry in entries:
        if not entry.name.lower().endswith(".sql") or _is_directory(entry):
            continue
        # Bytes that are no UTF-8 can be opened, but not shown.
        name = entry.name if entry.name.isascii() else os.fsencode(entry.name).decode("utf-8", "replace")
        shown = entry.path if name == entry.name else os.path.join(directory, name)
        try:
            parsed = names.parse(name)
        except ValueError as error:
            problems.append("{0}: {1}".format(shown, error))
            continue
        if parsed is None:
            # sqlx passes such a file over in silence; nobody who put it here wants that.
            problems.append("{0}: misnamed, it would never run; a name is <version>_<name>[.up|.down].sql".format(shown))
            continue
        yield parsed, Script(shown, read=functools.partial(read_file, entry.path))


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    # Without a question to the system, but for links, which may also lead nowhere.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
