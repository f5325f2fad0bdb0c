"""The newest entries of all logs that this process writes, on SQLite: a row for each commit, and not for each log in it.

A batch in a row of its own costs a page for each log that had a token, and in a busy turn of the loop those are many: 4 KiB
written, and moved into the database later, for twenty bytes. So a commit appends one row to `log_tail` that holds the batches
of all its logs. A log is *merged* when its oldest batch there is TAIL_ROWS commits old: all it has in the tail becomes one row
of `log_batches`. At the end of an answer, and wherever else a log is written the longer way, it is merged in the same
transaction, so what comes later in a log never stands before the tail's part of it.

A merged log's batches may stand in both tables until the tail's rows are deleted, which waits until all logs in them are
merged. They say the same, and who reads takes each seq once.

The process knows what it has in the tail, so it reads no row of it. Others look through the rows: for logs that are written
elsewhere, and of owners that are gone, whose rows are merged by who takes their logs.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table

from chatapp.database import Base

TAIL = Table(
    "log_tail",
    Base.metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("batches", LargeBinary, nullable=False),  # JSON: [[generation, last seq, [[name, fields], ...]], ...]
)
TAIL_ROWS = 256  # who reads from outside looks through so many, and a process has so many commits in memory
DELETED_AT_ONCE = 64
LARGE_BYTES = 2048  # a batch that would fill half a page is merged at once

APPEND = "INSERT INTO log_tail (owner, batches) VALUES (?, ?)"
MERGE = (
    "INSERT OR IGNORE INTO log_batches (generation_id, last_seq, events) "
    "SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM log_heads WHERE generation_id = ?1)"  # or it was deleted
)
DELETE = "DELETE FROM log_tail WHERE owner = ? AND id <= ?"
WITH = "SELECT batches FROM log_tail WHERE instr(batches, CAST(? AS BLOB)) ORDER BY id"
OF_NOBODY = "SELECT id, batches FROM log_tail WHERE owner NOT IN (SELECT owner FROM log_owners) ORDER BY id"
DELETE_ROW = "DELETE FROM log_tail WHERE id = ?"

Row = tuple[str, int, bytes]  # of log_batches


class Batch(NamedTuple):
    generation_id: str
    after: int
    last_seq: int
    payload: bytes  # JSON: [[name, fields], ...]


class Part:
    """What one log has in the tail, from the row *row* on."""

    __slots__ = ("after", "last_seq", "payloads", "row")

    def __init__(self, row: int, after: int) -> None:
        self.row = row
        self.after = after
        self.last_seq = after
        self.payloads: list[bytes] = []

    def merged(self) -> bytes:
        return joined(self.payloads)


class Change(NamedTuple):
    """What a transaction did to the tail, to be noted once it is committed."""

    row: int | None
    appended: Sequence[Batch]
    merged: Collection[str]
    deleted: int  # rows


NOTHING = Change(None, (), (), 0)


class Tail:
    """What this process has in the tail, as it was committed."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}  # whose oldest batch is the oldest comes first
        self._rows: deque[int] = deque()
        self._owner = ""  # of these rows

    def __len__(self) -> int:
        return len(self._rows)

    def names(self) -> Collection[str]:
        return self._parts.keys()

    def part(self, generation_id: str) -> Part | None:
        return self._parts.get(generation_id)

    # within a writing transaction; nothing of it waits

    def append(self, raw: sqlite3.Connection, owner: str, batches: Sequence[Batch]) -> Change:
        """Write *batches*, merge what is old or large, delete what nobody needs."""
        self._owner = owner
        small = [batch for batch in batches if len(batch.payload) <= LARGE_BYTES]
        rows: list[Row] = []
        merged = set()
        if len(small) < len(batches):
            for batch in batches:
                if len(batch.payload) > LARGE_BYTES:
                    rows.append(self._with(batch))
                    merged.add(batch.generation_id)
        if len(self._rows) >= TAIL_ROWS:
            old = self._rows[-TAIL_ROWS]
            for name, part in self._parts.items():
                if part.row > old:
                    break
                if name not in merged:
                    rows.append((name, part.last_seq, part.merged()))
                    merged.add(name)
        if rows:
            raw.executemany(MERGE, rows)
        row = None
        if small:
            text = b",".join([b'["%b",%d,%b]' % (b[0].encode(), b[2], b[3]) for b in small])
            row = raw.execute(APPEND, (owner, b"[%b]" % text)).lastrowid
        return Change(row, small, merged, self._delete(raw, merged, DELETED_AT_ONCE))

    def merge(self, raw: sqlite3.Connection, generation_ids: Collection[str]) -> Change:
        """Merge *generation_ids*; delete what nobody needs then, if that is all or much."""
        parts = self._parts
        merged = [name for name in generation_ids if name in parts]
        if not merged and (parts or not self._rows):
            return NOTHING
        raw.executemany(MERGE, [(name, parts[name].last_seq, parts[name].merged()) for name in merged])
        at_least = 1 if len(merged) == len(parts) else DELETED_AT_ONCE
        return Change(None, (), merged, self._delete(raw, merged, at_least))

    def _with(self, batch: Batch) -> Row:
        part = self._parts.get(batch.generation_id)
        payload = joined([*part.payloads, batch.payload]) if part else batch.payload
        return batch.generation_id, batch.last_seq, payload

    def _delete(self, raw: sqlite3.Connection, merged: Collection[str], at_least: int) -> int:
        """Delete the rows that hold merged logs only, and return how many."""
        rows = self._rows
        if len(rows) < at_least:
            return 0
        first = next((part.row for name, part in self._parts.items() if name not in merged), None)
        if first is not None and rows[at_least - 1] >= first:
            return 0
        count = len(rows) if first is None else next(n for n, row in enumerate(rows) if row >= first)
        raw.execute(DELETE, (self._owner, rows[count - 1]))
        return count

    # after the commit

    def note(self, change: Change) -> None:
        row, appended, merged, deleted = change
        parts = self._parts
        for name in merged:
            parts.pop(name, None)
        for _ in range(deleted):
            self._rows.popleft()
        if row is None:
            return
        self._rows.append(row)
        for name, after, last_seq, payload in appended:
            part = parts.get(name)
            if part is None:
                part = parts[name] = Part(row, after)
            part.last_seq = last_seq
            part.payloads.append(payload)

    def forget(self) -> None:
        """Take it that others merge what is there."""
        self._parts.clear()
        self._rows.clear()


def joined(payloads: Sequence[bytes]) -> bytes:
    """Return JSON lists as one."""
    return payloads[0] if len(payloads) == 1 else b"[%b]" % b",".join([payload[1:-1] for payload in payloads])


def look(raw: sqlite3.Connection, generation_id: str) -> Iterator[tuple[int, list[Any]]]:
    """Yield what any process has of the log in the tail: the last seq of each batch, and its events."""
    for (batches,) in raw.execute(WITH, (generation_id,)):
        for name, last_seq, events in orjson.loads(batches):
            if name == generation_id:
                yield last_seq, events


def erase(raw: sqlite3.Connection, generation_ids: Collection[str]) -> None:
    """Take logs that are being deleted out of all rows, which stay. Within a writing transaction."""
    for row, batches in raw.execute("SELECT id, batches FROM log_tail").fetchall():
        told = orjson.loads(batches)
        kept = [batch for batch in told if batch[0] not in generation_ids]
        if len(kept) < len(told):
            raw.execute("UPDATE log_tail SET batches = ? WHERE id = ?", (orjson.dumps(kept), row))


def has_any_of_nobody(raw: sqlite3.Connection) -> bool:
    return raw.execute(f"SELECT EXISTS ({OF_NOBODY})").fetchone()[0] == 1


def merge_of_nobody(raw: sqlite3.Connection) -> None:
    """Merge what owners without a lease left in the tail. Within a writing transaction."""
    found: dict[str, tuple[int, list[Any]]] = {}
    rows = raw.execute(OF_NOBODY).fetchall()
    for _, batches in rows:
        for name, last_seq, events in orjson.loads(batches):
            found[name] = last_seq, [*found[name][1], *events] if name in found else events
    raw.executemany(MERGE, [(name, last_seq, orjson.dumps(events)) for name, (last_seq, events) in found.items()])
    raw.executemany(DELETE_ROW, [(row,) for row, _ in rows])
