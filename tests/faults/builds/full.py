"""A site whose database may not grow while there is a file `full` in its data folder, as on a full disk."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

FULL = Path(os.environ["CHATAPP_DATA_DIR"]) / "full"
MANY = 2**31
connect = sqlite3.connect


class Connection(sqlite3.Connection):
    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement.startswith("BEGIN IMMEDIATE"):
            super().execute(f"PRAGMA max_page_count = {1 if FULL.exists() else MANY}")  # 1: as many as there are
        return super().execute(statement, *parameters)


def opened(*args: Any, **options: Any) -> sqlite3.Connection:
    return connect(*args, **{"factory": Connection, **options})


sqlite3.connect = sqlite3.dbapi2.connect = opened  # type: ignore[assignment, attr-defined]

from tests.faults.builds.hasty import app  # noqa: E402

__all__ = ["app"]
