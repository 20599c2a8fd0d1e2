# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at a database: all that a run costs which has nothing to do.

Nothing here can change a database, or imports what could: a host that is only asked receives half of the engine, and has half
of it to compile.
"""

from __future__ import annotations

import base64
import contextlib
import typing as t
import zlib

from . import fingerprint, proofs
from .errors import ConnectionFailed
from .history import read_rows
from .ledger import Ledger
from .records import Target
from .session import ServerError, Session

Data = t.Dict[str, t.Any]


def look(
    target: Target,
    ledger_table: str,
    with_rows: bool = False,
    must_be_writable: bool = False,
    with_proofs: bool = False,
    is_compared: bool = False,
) -> Data:
    """Where a database stands, in three messages; nothing is written.

    :param with_rows: whether every row of the ledger is wanted. Otherwise none travels: who has the files can tell them from
        the ledger's versions and its digest. Unfinished ones always do.
    :param must_be_writable: whether a database that cannot be migrated is an error.
    :param with_proofs: whether to tell what is known of the way back, in two messages more.
    :param is_compared: whether the fingerprint is compared with another database's, and so must be that of what the ledger tells
        even if somebody migrates meanwhile; in a message more.
    :returns: what picture.rows_of understands, and the fingerprint.
    :raises MigrationError: if it cannot be looked at.
    """
    with _looking(target) as session:
        seen, _found, ledger = _look(session, ledger_table, with_rows, must_be_writable, is_compared)
        if with_proofs:
            known = proofs.read(session, ledger)
            begun = proofs.unfinished(known, read_rows(session, ledger)) if known.begun else None
            seen.update(known=proofs.told(known), unfinished=sorted(begun.versions) if begun else [])
        return seen


def look_around(target: Target, ledger_table: str, with_rows: bool = False, expected_fingerprint: t.Optional[str] = None) -> Data:
    """What ``look`` sees, and the server and the text of the fingerprint; a standby or a role that may only read will do.

    :param expected_fingerprint: a fingerprint's text, to be told the difference to it.
    """
    with _looking(target) as session:
        seen, found, ledger = _look(session, ledger_table, with_rows, False, True)
        seen.update(
            fingerprint_text=found.text,
            known=proofs.told(proofs.read(session, ledger)),
            in_recovery=session.in_recovery,
            extensions=[
                {"name": name, "version": version}
                for name, version in session.rows("select extname, extversion from pg_extension order by extname")
            ],
        )
    if expected_fingerprint is not None:
        seen["fingerprint_difference"] = found.difference(expected_fingerprint)
    return seen


def _look(
    session: Session, ledger_table: str, with_rows: bool, must_be_writable: bool, is_compared: bool
) -> t.Tuple[Data, fingerprint.Fingerprint, Ledger]:
    ledger = Ledger(session, ledger_table)
    if must_be_writable:
        session.must_be_writable()
    recorded = _recorded(session, ledger, with_rows)
    while True:
        found = fingerprint.take(session, ledger.name if ledger.exists else None)
        if not is_compared:
            break
        # A migration that was committed in between would be in the schema and not in the ledger, as if the schema had drifted. No snapshot
        # helps, since the functions that tell definitions do not heed it.
        if not ledger.exists:
            ledger.resolve()
        before, recorded = recorded, _recorded(session, ledger, with_rows)
        if recorded == before:
            break
    return {"server_version": session.server_version, "fingerprint": found.digest, **recorded}, found, ledger


def _recorded(session: Session, ledger: Ledger, with_rows: bool) -> Data:
    if not ledger.exists:
        return {"ledger_exists": False, "rows": []}
    summary = None if with_rows else ledger.summary()
    if summary and summary.clean:
        return {"ledger_exists": True, "rows": None, "versions": _pack(summary.versions), "ledger": summary.release}
    rows = [[row.version, row.checksum.hex(), row.success, row.description, row.reverting] for row in read_rows(session, ledger)]
    return {"ledger_exists": True, "rows": rows}


def _pack(versions: bytes) -> str:
    return base64.b64encode(zlib.compress(versions)).decode()


@contextlib.contextmanager
def _looking(target: Target) -> t.Iterator[Session]:
    """A session that only reads.

    :raises ConnectionFailed: also for what the server refuses to show.
    """
    with Session(target) as session:
        try:
            yield session
        except ServerError as error:
            raise ConnectionFailed(
                "{0} cannot be read: {1} (SQLSTATE {2}).".format(target, str(error).strip(), error.pgcode),
                {"sqlstate": error.pgcode},
                "Nothing was changed. The login needs SELECT on the ledger, and USAGE on its schema.",
            ) from error
