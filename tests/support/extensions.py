"""The optional extensions: those that this machine has packages of."""

from __future__ import annotations

from pathlib import Path
from typing import List

# In the order in which they want to be loaded.
OPTIONAL = ("timescaledb", "pg_cron", "pg_stat_statements")


def available(major: int) -> List[str]:
    """The optional extensions that the server of this major version has files of."""
    return [name for name in OPTIONAL if Path(f"/usr/share/postgresql/{major}/extension/{name}.control").exists()]
