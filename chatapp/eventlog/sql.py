"""Logs in the database: one row for a log's head, one row for a batch.

One greenlet of the process commits for all runners: what has gathered while the last commit ran goes into the next, so
that many answers share one transaction. The head row is the fence: an append that finds another owner, another seq or
an ended log writes nothing.
"""

from __future__ import annotations

import logging
import sqlite3
import weakref
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import gevent
import orjson
from gevent.event import AsyncResult
from gevent.event import Event as Signal
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Select,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session

from chatapp.database import Base, connected, now_seconds, quick_connection, quick_transaction
from chatapp.errors import Overloaded
from chatapp.eventlog import PAGE, Head, LeaseLost, Within
from chatapp.events import Entry, Event, dump, load

logger = logging.getLogger(__name__)

RUNNING = text("ended_at IS NULL")
KEPT = text("NOT expired")
HEADS = Table(
    "log_heads",
    Base.metadata,
    Column("generation_id", String(36), ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("lease_until", Float, nullable=False),  # seconds since 1970, by the database's clock
    Column("last_seq", BigInteger, nullable=False, default=0),
    Column("ended_at", Float),
    Column("expired", Boolean, nullable=False, default=False),
    Column("stop_requested", Boolean, nullable=False, default=False),
)
# the few that run, and those whose entries may go: neither query looks at all the logs that ever were
Index("ix_log_heads_running", HEADS.c.lease_until, sqlite_where=RUNNING, postgresql_where=RUNNING)
Index("ix_log_heads_kept", HEADS.c.ended_at, sqlite_where=KEPT, postgresql_where=KEPT)
BATCHES = Table(
    "log_batches",
    Base.metadata,
    Column("generation_id", String(36), ForeignKey("log_heads.generation_id", ondelete="CASCADE"), primary_key=True),
    Column("last_seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("events", LargeBinary, nullable=False),  # JSON: [[name, fields], ...]
    sqlite_with_rowid=False,
)

ADVANCE = (
    update(HEADS)
    .where(
        HEADS.c.generation_id == bindparam("of"),
        HEADS.c.owner == bindparam("by"),
        HEADS.c.last_seq == bindparam("after"),
        HEADS.c.ended_at.is_(None),
    )
    .values(
        last_seq=bindparam("to"),
        ended_at=case((bindparam("ends", type_=Boolean), now_seconds()), else_=None),
    )
)
WRITE = insert(BATCHES)
# the same two, as SQLite takes them
ADVANCE_SQLITE = (
    "UPDATE log_heads SET last_seq = ?, ended_at = CASE WHEN ? THEN (julianday('now') - 2440587.5) * 86400.0 END "
    "WHERE generation_id = ? AND owner = ? AND last_seq = ? AND ended_at IS NULL"
)
WRITE_SQLITE = "INSERT INTO log_batches (generation_id, last_seq, events) VALUES (?, ?, ?)"
BATCH_AT = select(BATCHES.c.events).where(
    BATCHES.c.generation_id == bindparam("of"), BATCHES.c.last_seq == bindparam("to")
)
READ = (
    select(BATCHES.c.last_seq, BATCHES.c.events)
    .where(BATCHES.c.generation_id == bindparam("of"), BATCHES.c.last_seq > bindparam("after"))
    .order_by(BATCHES.c.last_seq)
)
HEAD = select(HEADS.c.last_seq, HEADS.c.ended_at, HEADS.c.expired).where(HEADS.c.generation_id == bindparam("of"))


APPEND_SECONDS = 90.0  # longer than the longest wait for a lock: only a writer that is gone takes this long


class Append(NamedTuple):
    generation_id: str
    events: Sequence[Event]
    after: int
    owner: str
    within: Within | None
    done: AsyncResult[list[Entry]]


BY_GENERATION = attrgetter("generation_id")


class Store:
    """The logs of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pending: list[Append] = []
        self._wake = Signal()
        self._writer: gevent.Greenlet[..., None] | None = None
        self._quick = quick_connection(engine)
        if self._quick is not None:
            weakref.finalize(self, self._quick.close)

    def create(self, generation_id: str, *, owner: str, lease_seconds: float, session: Session | None = None) -> None:
        assert session is not None, "a stored log begins in the transaction that stores its generation"
        session.flush()
        session.execute(
            insert(HEADS).values(
                generation_id=generation_id, owner=owner, lease_until=now_seconds() + lease_seconds, last_seq=0
            )
        )

    def append(
        self, generation_id: str, events: Sequence[Event], *, after: int, owner: str, within: Within | None = None
    ) -> list[Entry]:
        if self._writer is None or self._writer.dead:
            self._writer = gevent.spawn(self._write_for_ever)
        item = Append(generation_id, events, after, owner, within, AsyncResult())
        self._pending.append(item)
        self._wake.set()
        try:
            entries = item.done.get(timeout=APPEND_SECONDS)
        except gevent.Timeout as error:
            raise Overloaded from error
        assert entries is not None
        return entries

    def _write_for_ever(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            group, self._pending = self._pending, []
            self._commit(sorted(group, key=BY_GENERATION))

    def _commit(self, group: list[Append]) -> None:
        """Commit the group in one transaction; if that fails, each member on its own, so that one cannot fail another."""
        try:
            results = self._quickly(group)
            if results is None:
                with connected(self._engine, writes=True) as connection:
                    # in one order everywhere, since PostgreSQL locks the heads one by one
                    results = [append(connection, item) for item in group]
        except Overloaded as error:  # nobody came so far as to write: all would wait in vain, one after the other
            fail(group, error)
            return
        except Exception as error:
            if len(group) == 1:
                fail(group, error)
            else:
                for item in group:
                    self._commit([item])
            return
        except BaseException as error:
            fail(group, Overloaded(str(error)))
            raise
        for item, result in zip(group, results, strict=True):
            if result is None:
                item.done.set_exception(LeaseLost(item.generation_id))
            else:
                item.done.set(result)

    def _quickly(self, group: list[Append]) -> Sequence[list[Entry] | None] | None:
        """Commit plain appends to SQLite without SQLAlchemy; None, and nothing written, if there is anything unusual."""
        raw = self._quick
        if raw is None or any(item.within is not None for item in group):
            return None
        try:
            with quick_transaction(raw):
                return [append_quickly(raw, item) for item in group]
        except (LeaseLost, sqlite3.Error):
            return None  # the other way tells the members apart, and what is wrong

    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]:
        with connected(self._engine) as connection:
            entries: list[Entry] = []
            # a row holds at least one event
            for last_seq, payload in connection.execute(READ.limit(limit), {"of": generation_id, "after": after}):
                entries += decode(payload, last_seq, after)
                if len(entries) >= limit:
                    break
        return entries[:limit]

    def head(self, generation_id: str) -> Head | None:
        with connected(self._engine) as connection:
            row = connection.execute(HEAD, {"of": generation_id}).first()
        return Head(row.last_seq, row.ended_at is not None, row.expired) if row else None

    def renew(self, generation_ids: Sequence[str], *, owner: str, lease_seconds: float) -> None:
        mine = and_(HEADS.c.generation_id.in_(generation_ids), HEADS.c.owner == owner, HEADS.c.ended_at.is_(None))
        with connected(self._engine, writes=True) as connection:
            renewed = update(HEADS).where(HEADS.c.generation_id.in_(locked(mine, skip=False)))
            connection.execute(renewed.values(lease_until=now_seconds() + lease_seconds))

    def take_expired(self, *, owner: str, lease_seconds: float) -> list[str]:
        orphaned = and_(HEADS.c.ended_at.is_(None), HEADS.c.lease_until < now_seconds())
        with connected(self._engine) as connection:
            if not connection.scalar(select(exists().where(orphaned))):
                return []  # the usual case costs no write lock
        with connected(self._engine, writes=True) as connection:
            taken = update(HEADS).where(
                HEADS.c.generation_id.in_(locked(orphaned, skip=True)), HEADS.c.lease_until < now_seconds()
            )
            values = {"owner": owner, "lease_until": now_seconds() + lease_seconds}
            return list(connection.scalars(taken.values(values).returning(HEADS.c.generation_id)))

    def request_stop(self, generation_id: str) -> None:
        with connected(self._engine, writes=True) as connection:
            connection.execute(update(HEADS).where(HEADS.c.generation_id == generation_id).values(stop_requested=True))

    def stop_requests(self, owner: str) -> list[str]:
        asked = select(HEADS.c.generation_id).where(
            HEADS.c.owner == owner, HEADS.c.stop_requested, HEADS.c.ended_at.is_(None)
        )
        with connected(self._engine) as connection:
            return list(connection.scalars(asked))

    def sweep(self, ended_before_seconds: float) -> int:
        old = and_(~HEADS.c.expired, HEADS.c.ended_at < now_seconds() - ended_before_seconds)
        with connected(self._engine) as connection:
            names = list(connection.scalars(select(HEADS.c.generation_id).where(old)))
        for name in names:  # a transaction each: a thousand logs at once would keep the loop and the lock
            with connected(self._engine, writes=True) as connection:
                connection.execute(update(HEADS).where(HEADS.c.generation_id == name).values(expired=True))
                connection.execute(delete(BATCHES).where(BATCHES.c.generation_id == name))
            gevent.sleep(0)
        return len(names)


def locked(where: ColumnElement[bool], *, skip: bool) -> Select[tuple[str]]:
    """Select the heads that *where* means, locked in the one order in which all lock them, so that none wait in a circle.

    *skip* leaves out those that somebody writes to just now: such a log is no orphan. Renewing must not, or the busiest
    answers would lose their leases.
    """
    chosen = select(HEADS.c.generation_id).where(where).order_by(HEADS.c.generation_id)
    return chosen.with_for_update(skip_locked=skip)


def fail(group: Sequence[Append], error: Exception) -> None:
    for item in group:
        item.done.set_exception(error)


def append(connection: Connection, item: Append) -> list[Entry] | None:
    """Write one batch; None if the fence does not let it through."""
    entries = [Entry(item.after + n, event) for n, event in enumerate(item.events, 1)]
    to = item.after + len(entries)
    payload = encode(item.events)
    fence = {
        "of": item.generation_id,
        "by": item.owner,
        "after": item.after,
        "to": to,
        "ends": item.events[-1].terminal,
    }
    if connection.execute(ADVANCE, fence).rowcount != 1:
        stored = connection.scalar(BATCH_AT, {"of": item.generation_id, "to": to})
        return entries if stored == payload and owns(connection, item) else None
    connection.execute(WRITE, {"generation_id": item.generation_id, "last_seq": to, "events": payload})
    if item.within is not None:
        with Session(connection) as session:
            item.within(session)
            session.flush()
    return entries


def append_quickly(raw: sqlite3.Connection, item: Append) -> list[Entry]:
    """As `append`, for a batch without a `within`. Raises LeaseLost where the fence does not let it through."""
    to = item.after + len(item.events)
    fence = (to, item.events[-1].terminal, item.generation_id, item.owner, item.after)
    if raw.execute(ADVANCE_SQLITE, fence).rowcount != 1:
        raise LeaseLost(item.generation_id)
    raw.execute(WRITE_SQLITE, (item.generation_id, to, encode(item.events)))
    return [Entry(seq, event) for seq, event in enumerate(item.events, item.after + 1)]


def owns(connection: Connection, item: Append) -> bool:
    """Say whether the log is still the appender's: then the batch that stands there is its own, committed before."""
    owner = connection.scalar(select(HEADS.c.owner).where(HEADS.c.generation_id == item.generation_id))
    return bool(owner == item.owner)


def encode(events: Sequence[Event]) -> bytes:
    return orjson.dumps([[event.name, dump(event)] for event in events])


def decode(payload: bytes, last_seq: int, after: int) -> list[Entry]:
    """Return the batch's entries past *after*; *last_seq* is its last one's."""
    rows: list[list[Any]] = orjson.loads(payload)
    first = last_seq - len(rows) + 1
    return [Entry(seq, load(name, values)) for seq, (name, values) in enumerate(rows, first) if seq > after]
