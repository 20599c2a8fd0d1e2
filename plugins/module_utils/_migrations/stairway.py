# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that every version can be taken back: up, down and up again, stair by stair, with data in the tables.

On the way up, each version is applied, reverted and applied again, and then its sample of data is put in. On the way down,
with all samples in the tables, what each down script takes with it is counted.
"""

from __future__ import annotations

import json
import typing as t
import zlib

from . import announced, census, checksum, differences, fingerprint, plan
from .errors import ExecutionError, MigrationError
from .executor import Executor, Options
from .failure import Where, describe
from .history import DONE, STAIRWAY, History, table_for
from .ledger import Ledger
from .losses import Lost
from .picture import Data
from .records import Target
from .release import Release
from .sender import Sender
from .session import ServerError, Session, create_schemas, literal
from .source import Script

_DROPPED = "This was tried in a scratch database, which is dropped; no other database was touched. "
_AGAIN = "Mend {0}, and run the stairway again."


class Stair(t.NamedTuple):
    """One version."""

    version: int
    description: str
    up: float
    """Seconds of the way up, the second time."""
    down: t.Optional[float] = None
    """Seconds of the way down, with its data; None where there is no down script."""
    lost: t.Tuple[Lost, ...] = ()
    """What is not there any more after the way back."""
    unseen: t.Tuple[str, ...] = ()
    """What its down script announces to lose, and no sample had."""


class Stairway:
    """All stairs of one release, in one database that is empty before.

    :param target: the scratch database.
    :param release: with the SQL of everything.
    :param samples: by version, what puts data into the tables.
    """

    def __init__(self, target: Target, release: Release, samples: t.Mapping[int, Script], options: Options) -> None:
        self._session = Session(target)
        self._release = release
        self._samples = samples
        self._options = options
        self._schemas: t.Dict[int, bytes] = {}
        self._lost: t.Dict[int, t.List[Lost]] = {}

    def climb(self) -> t.List[Stair]:
        """Up and down all of it.

        :raises MigrationError: at the first stair that does not hold.
        """
        try:
            self._session.run(self._session.reset + create_schemas(self._options.create_schemas))
            stairs = {file.version: self._up(file) for file in self._release.files}
            for file in reversed(self._release.files):
                if not file.reversible:
                    break
                stairs[file.version] = self._down(stairs[file.version])
            return list(stairs.values())
        except MigrationError as error:
            error.recovery = _DROPPED + error.recovery.replace("Nothing was changed. ", "")
            raise
        finally:
            self._session.close()

    # Up

    def _up(self, file: plan.File) -> Stair:
        version = file.version
        before, stock = self._schema(), self._census(contents=True)
        taken = self._apply(version)
        made = self._schema()
        if file.reversible:
            self._revert(version)
            self._must_be(version, before, "the way back of {0} does not restore what was there before it".format(_named(file)))
            self._lost[version] = census.lost(stock, self._census(contents=True))
            taken = self._apply(version)
            self._must_be(version, made, "{0} made something else the second time than the first".format(_named(file)))
        self._schemas[version] = zlib.compress(before.encode(), 1)
        if version in self._samples:
            self._fill(version, made)
        return Stair(version, file.description, taken)

    def _fill(self, version: int, made: str) -> None:
        script = self._samples[version]
        sender = Sender(self._session, self._options.lock_retries)
        try:
            sender.in_turn("begin", script.text, "commit")
        except ServerError as error:
            found = describe(error, Where(plan.Step(plan.APPLY, version), script), sender, 0.0, False)
            raise ExecutionError(found.message, found.details, _AGAIN.format("the sample")) from error
        finally:
            sender.close()
        self._session.run(self._session.reset)
        self._must_be(version, made, "a sample is data, and this one changes the schema", script)

    # Down

    def _down(self, stair: Stair) -> Stair:
        version = stair.version
        stock = self._census()
        taken = self._revert(version)
        before = zlib.decompress(self._schemas[version]).decode()
        self._must_be(version, before, "with data in the tables, the way back of {0} restores something else".format(_named(stair)))
        lost = _merged(self._lost[version], census.lost(stock, self._census()))
        script = self._script(version)
        says = announced.read(script.text)
        untold = [each for each in lost if not says.covers(each.what)]
        if untold:
            self._refuse_losses(version, script, untold)
        seen = {each.what for each in lost}
        return stair._replace(down=taken, lost=tuple(lost), unseen=tuple(sorted(
            each for each in says.things - seen if not each.startswith("view ")
        )))

    def _refuse_losses(self, version: int, script: Script, untold: t.Sequence[Lost]) -> None:
        raise ExecutionError(
            "{0}: the way back of {1} loses data, and the file does not announce it:\n{2}".format(
                script.path, version, "\n".join("  {0}, {1} {2}".format(each.what, each.rows, "row" if each.rows == 1 else "rows") for each in untold)
            ),
            {"version": version, "file": script.path, "lost": [each._asdict() for each in untold]},
            "Keep the data, or announce the loss in a line of the file:\n-- data-loss: {0}".format(
                ", ".join(each.what for each in untold)
            ),
        )

    # Both

    def _apply(self, version: int) -> float:
        return self._run(version, plan.Policy())

    def _revert(self, version: int) -> float:
        return self._run(None, plan.Policy(undo=frozenset([version])))

    def _run(self, wanted: t.Optional[int], policy: plan.Policy) -> float:
        executor = Executor(self._session, self._release, wanted, policy, self._options)
        try:
            return sum(done.seconds for done in executor.run().done)
        finally:
            self._session = executor.session

    def _schema(self) -> str:
        ledger = self._ledger()
        return fingerprint.take(self._session, ledger.name if ledger.exists else None).text

    def _census(self, contents: bool = False) -> census.Census:
        ledger = self._ledger()
        return census.take(self._session, [ledger.name, table_for(ledger.name)] if ledger.exists else [], contents)

    def _ledger(self) -> Ledger:
        return Ledger(self._session, self._options.ledger_table)

    def _script(self, version: int) -> Script:
        return self._release.migrations[version].script(True)

    def _must_be(self, version: int, expected: str, otherwise: str, script: t.Optional[Script] = None) -> None:
        differing = differences.between(expected, self._schema())
        if differing:
            script = script or self._script(version)
            raise ExecutionError(
                "{0}: {1}:\n{2}".format(script.path, otherwise, differences.told(differing)),
                {
                    "version": version,
                    "file": script.path,
                    "differences": [{"how": each.how, "what": each.what} for each in differing],
                },
                _AGAIN.format("it"),
            )


def run(target: Target, release: Release, samples: t.Mapping[int, Script], options: Options) -> Data:
    """Climb it.

    :returns: what is told of it.
    """
    stairs = Stairway(target, release, samples, options).climb()
    ways = ways_back(release)
    return {
        "stairs": [
            {
                "version": each.version,
                "description": each.description,
                "up": round(each.up, 6),
                "down": None if each.down is None else round(each.down, 6),
                "lost": [lost._asdict() for lost in each.lost],
                "unseen": list(each.unseen),
                "sample": each.version in samples,
                "proven": each.down is not None,
            }
            for each in stairs
        ],
        "release": release.digest,
        "ways_back": {str(each.version): ways[each.version] for each in stairs if each.down is not None},
    }


def ways_back(release: Release) -> t.Dict[int, str]:
    """The digests of the down scripts that a whole stairway proves: those above the newest version that has none."""
    ways: t.Dict[int, str] = {}
    for file in reversed(release.files):
        down = release.migrations[file.version].down
        if down is None:
            break
        ways[file.version] = checksum.way_back(down.content)
    return ways


def is_recorded(session: Session, ledger: Ledger, release: Release) -> t.Optional[bool]:
    """Whether the newest stairway that the history of a database tells of is this one; None where there is no history."""
    if not ledger.exists or not History(session, ledger, "", "").exists:
        return None
    newest = session.rows(
        "select detail from {0} where action = {1} order by at desc limit 1".format(table_for(ledger.name).sql, literal(STAIRWAY))
    )
    return newest == [(_detail(release),)]


def record(session: Session, ledger: Ledger, release: Release, controller: str) -> None:
    """Write down in a database's history that the stairway of a release holds."""
    newest = max(file.version for file in release.files)
    history = History(session, ledger, release.digest, controller)
    session.run(history.record(newest, STAIRWAY, DONE, detail=_detail(release)))


def _detail(release: Release) -> str:
    return json.dumps({"release": release.digest, "ways_back": ways_back(release)}, sort_keys=True)


def _merged(one: t.Iterable[Lost], other: t.Iterable[Lost]) -> t.List[Lost]:
    """Both, each thing once, with the greater number."""
    rows: t.Dict[str, int] = {}
    for each in (*one, *other):
        rows[each.what] = max(rows.get(each.what, 0), each.rows or 0)
    return [Lost(what, count) for what, count in sorted(rows.items())]


def _named(what: t.Any) -> str:
    return "{0} ({1})".format(what.version, what.description)
