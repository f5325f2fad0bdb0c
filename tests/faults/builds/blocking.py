"""A site that waits for SQLite's lock as SQLite does by itself."""

from __future__ import annotations

import sqlite3

from wsgi import app  # first: it patches

from chatapp import database  # isort: skip

__all__ = ["app"]


def wait(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA busy_timeout = 30000")
    raw.execute("BEGIN IMMEDIATE")


for name in ("_begin_immediate", "_begin_when_free"):
    if hasattr(database, name):
        setattr(database, name, wait)
