"""Logs in the database: one row for a log's head, one row for a batch, one row for each process that writes.

On SQLite the newest batches of all logs that a process writes share rows at first: see `_tail`.

One greenlet of the process commits for all runners: what has gathered while the last commit ran goes into the next, so
that many answers share one transaction.

The invariant: a log is written by its owner alone. An owner is a process, which holds a lease as long as it renews its
row in `log_owners`. Every writing transaction looks for that row first, and holds it; who takes an owner's logs over deletes
it first, and leaves an owner alone whose row is held (on SQLite writers wait for each other). So an owner that was presumed
dead and wakes up finds that it owns nothing, and writes nothing. Within a process, `_seqs` says where each log ends.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

import gevent
import orjson
from gevent.event import Event as Signal
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from chatapp import failpoints
from chatapp.database import (
    Base,
    Prepared,
    connected,
    glance,
    lease_clock,
    now_seconds,
    of_sqlalchemy,
    quick_connection,
    quick_transaction,
    sqlite_under,
)
from chatapp.errors import Overloaded
from chatapp.eventlog import PAGE, Done, Head, LeaseLost, Within, _tail
from chatapp.eventlog._tail import Tail
from chatapp.events import Entry, Event, Token, dump, load

logger = logging.getLogger(__name__)

RUNNING = text("ended_at IS NULL")
KEPT = text("NOT expired")
OWNERS = Table(
    "log_owners",
    Base.metadata,
    Column("owner", String(36), primary_key=True),
    Column("lease_until", Float, nullable=False),  # seconds, by `lease_clock`
)
HEADS = Table(
    "log_heads",
    Base.metadata,
    Column("generation_id", String(36), ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("taken", Integer, nullable=False, default=0, server_default="0"),  # how often its owner was presumed dead
    Column("last_seq", BigInteger, nullable=False, default=0),  # written with the terminal entry
    Column("ended_at", Float),
    Column("expired", Boolean, nullable=False, default=False),
    Column("stop_requested", Boolean, nullable=False, default=False),
)
# the few that run, and those whose entries may go: neither query looks at all the logs that ever were
Index("ix_log_heads_running", HEADS.c.owner, sqlite_where=RUNNING, postgresql_where=RUNNING)
Index("ix_log_heads_kept", HEADS.c.ended_at, sqlite_where=KEPT, postgresql_where=KEPT)
BATCHES = Table(
    "log_batches",
    Base.metadata,
    Column("generation_id", String(36), ForeignKey("log_heads.generation_id", ondelete="CASCADE"), primary_key=True),
    Column("last_seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("events", LargeBinary, nullable=False),  # JSON: [[name, fields], ...]
    sqlite_with_rowid=False,
)

# FOR KEY SHARE: a renewal need not wait for it, and nobody can delete the row meanwhile
FENCE = Prepared(
    select(OWNERS.c.owner).where(OWNERS.c.owner == bindparam("by")).with_for_update(read=True, key_share=True)
)
FENCE_SQLITE = "SELECT 1 FROM log_owners WHERE owner = ?"
OWNED_SQLITE = "SELECT 1 FROM log_heads WHERE generation_id = ? AND owner = ? AND ended_at IS NULL"
VERSION_SQLITE = "PRAGMA data_version"  # changes when another connection has committed
BEGIN = Prepared(insert(HEADS))
WRITE = Prepared(insert(BATCHES))
END = Prepared(
    update(HEADS)
    .where(HEADS.c.generation_id == bindparam("of"), HEADS.c.owner == bindparam("by"), HEADS.c.ended_at.is_(None))
    .values(last_seq=bindparam("to"), ended_at=now_seconds())
)
BATCH_AT = select(BATCHES.c.events).where(
    BATCHES.c.generation_id == bindparam("of"), BATCHES.c.last_seq == bindparam("to")
)
READ = Prepared(
    select(BATCHES.c.last_seq, BATCHES.c.events)
    .where(BATCHES.c.generation_id == bindparam("of"), BATCHES.c.last_seq > bindparam("after"))
    .order_by(BATCHES.c.last_seq)
    .limit(bindparam("most", type_=Integer))
)
NEWEST = (
    select(func.coalesce(func.max(BATCHES.c.last_seq), 0))
    .where(BATCHES.c.generation_id == HEADS.c.generation_id)
    .scalar_subquery()
)
HEAD = Prepared(
    select(
        case((HEADS.c.ended_at.is_(None), NEWEST), else_=HEADS.c.last_seq).label("last_seq"),
        HEADS.c.ended_at,
        HEADS.c.expired,
        HEADS.c.owner,
        HEADS.c.taken,
    ).where(HEADS.c.generation_id == bindparam("of"))
)
NEW = {"taken": 0, "last_seq": 0, "ended_at": None, "expired": False, "stop_requested": False}

NOBODY = ""
PROMPT_SECONDS = 0.25  # who gets the lock later than that may be the first of many who waited for it
MAX_LEASE_SECONDS = 120.0  # a lease that goes on for longer was given before the machine's last start
DEAD = or_(OWNERS.c.lease_until < lease_clock(), OWNERS.c.lease_until > lease_clock() + MAX_LEASE_SECONDS)
# one that is being written under is not dead, or frozen: nobody waits for it
BURY = delete(OWNERS).where(
    OWNERS.c.owner.in_(select(OWNERS.c.owner).where(DEAD).order_by(OWNERS.c.owner).with_for_update(skip_locked=True))
)
ORPHANED = and_(HEADS.c.ended_at.is_(None), HEADS.c.owner.not_in(select(OWNERS.c.owner)))
ANY_ORPHANS = select(or_(exists().where(DEAD), exists().where(ORPHANED)))
TAKE = (
    update(HEADS)
    # in one order everywhere, so that none wait for each other in a circle
    .where(
        HEADS.c.generation_id.in_(
            select(HEADS.c.generation_id)
            .where(ORPHANED)
            .order_by(HEADS.c.generation_id)
            .with_for_update(skip_locked=True)
        )
    )
    .values(owner=bindparam("by"), taken=HEADS.c.taken + case((HEADS.c.owner == NOBODY, 0), else_=1))
    .returning(HEADS.c.generation_id)
)


class Append(NamedTuple):
    generation_id: str
    events: Sequence[Event]
    after: int
    to: int
    owner: str
    within: Within | None
    done: Done


class Row(NamedTuple):
    """A log's head as it is stored."""

    last_seq: int
    ended_at: float | None
    expired: bool
    owner: str
    taken: int


BY_GENERATION = attrgetter("generation_id")


class Store:
    """The logs of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pending: list[Append] = []
        self._wake = Signal()
        self._writer: gevent.Greenlet[..., None] | None = None
        self._seqs: dict[str, int] = {}  # where the logs end that this process writes, as far as it committed them
        self._forgotten: set[str] = set()  # owners that this process was
        self._tail = Tail()
        self._version: int | None = None
        self._sure: set[str] = set()  # owners and logs that are what they should be as of that version
        self._quick = quick_connection(engine)
        if self._quick is not None:
            weakref.finalize(self, self._quick.close)

    # logs

    def create(
        self, generation_id: str, *, owner: str, session: Session | None = None, events: Sequence[Event] = ()
    ) -> None:
        assert session is not None, "a stored log begins in the transaction that stores its generation"
        session.flush()
        connection = session.connection()
        check_lease(connection, owner)
        BEGIN.change(connection, generation_id=generation_id, owner=owner, **NEW)
        if events:
            WRITE.change(connection, generation_id=generation_id, last_seq=len(events), events=encode(events))

    def append_soon(
        self,
        generation_id: str,
        events: Sequence[Event],
        *,
        after: int,
        owner: str,
        done: Done,
        within: Within | None = None,
    ) -> None:
        if self._writer is None or self._writer.dead:
            self._writer = gevent.spawn(self._write_for_ever)
        self._pending.append(Append(generation_id, events, after, after + len(events), owner, within, done))
        self._wake.set()

    def writes(self, generation_id: str) -> bool:
        return generation_id in self._seqs

    def _write_for_ever(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            group, self._pending = self._pending, []
            others = [item for item in group if item.within is not None]
            plain = [item for item in group if item.within is None] if others else group
            for part in (plain, others):
                if part:
                    self._commit(part)

    def _commit(self, group: list[Append]) -> None:
        """Commit the group in one transaction; if that fails, each member on its own, so that one cannot fail another."""
        try:
            if not self._quickly(group):
                with self._merging([item.generation_id for item in group]) as connection:
                    # in one order everywhere, since PostgreSQL locks the heads one by one
                    for item in sorted(group, key=BY_GENERATION):
                        self._append(connection, item)
        except Overloaded as error:  # nobody came so far as to write: all would wait in vain, one after the other
            fail(group, error)
        except Exception as error:
            if len(group) == 1:
                self._seqs.pop(group[0].generation_id, None)  # who comes next asks the database
                fail(group, LeaseLost(group[0].generation_id) if isinstance(error, IntegrityError) else error)
            else:
                for item in group:
                    self._commit([item])
        except BaseException as error:
            fail(group, Overloaded(str(error)))
            raise
        else:
            failpoints.reach("after-end" if group[0].within else "after-commit")
            for item in group:
                self._committed(item)

    def _committed(self, item: Append) -> None:
        if item.events[-1].terminal or item.owner in self._forgotten:
            self._seqs.pop(item.generation_id, None)
        else:
            self._seqs[item.generation_id] = item.to
        events = item.events
        if len(events) == 1:  # nearly all
            entries = [Entry(item.to, events[0])]
        else:
            entries = [Entry(seq, event) for seq, event in enumerate(events, item.after + 1)]
        try:
            item.done(entries, None)
        except Exception:  # one who listens must not keep the others from hearing
            logger.exception("generation %s: what was stored could not be told", item.generation_id)

    def _quickly(self, group: list[Append]) -> bool:
        """Commit plain appends to SQLite's tail; False, and nothing written, if there is anything unusual."""
        raw = self._quick
        if raw is None:
            return False
        for item in group:
            if item.within is not None or item.events[-1].terminal:
                return False
        batches = [_tail.Batch(item.generation_id, item.after, item.to, encode(item.events)) for item in group]
        owner = group[0].owner
        try:
            with quick_transaction(raw):
                if not self._may_write(raw, owner, group):
                    return False
                change = self._tail.append(raw, owner, batches)
                failpoints.reach("before-commit")
        except sqlite3.Error:
            return False  # the other way tells the members apart, and what is wrong
        self._tail.note(change)
        return True

    def _may_write(self, raw: sqlite3.Connection, owner: str, group: list[Append]) -> bool:
        """Say whether all logs of *group* are *owner*'s, who has its lease, and end where their batches begin.

        What was found stays true until somebody else has written, since nobody can while this transaction goes on.
        """
        version = raw.execute(VERSION_SQLITE).fetchone()[0]
        if version != self._version:
            self._version = version
            self._sure.clear()
        sure, seqs = self._sure, self._seqs
        if owner not in sure:
            if raw.execute(FENCE_SQLITE, (owner,)).fetchone() is None:
                return False
            sure.add(owner)
        for item in group:
            name = item.generation_id
            if seqs.get(name) != item.after or item.owner != owner:
                return False
            if name not in sure:
                if raw.execute(OWNED_SQLITE, (name, owner)).fetchone() is None:
                    return False
                sure.add(name)
        return True

    @contextmanager
    def _merging(self, generation_ids: Collection[str] | None = None) -> Iterator[Connection]:
        """A writing transaction before which *generation_ids*, or all logs, are merged."""
        change = None
        with connected(self._engine, writes=True) as connection:
            raw = sqlite_under(connection)
            if raw is not None:
                names = self._tail.names() if generation_ids is None else generation_ids
                try:
                    change = self._tail.merge(raw, names)
                except sqlite3.Error as error:
                    raise of_sqlalchemy(error) from error
            yield connection
        if change is not None:
            self._tail.note(change)

    def _append(self, connection: Connection, item: Append) -> None:
        """Write one batch. Raises LeaseLost if the fence does not let it through."""
        check_lease(connection, item.owner)
        payload = encode(item.events)
        if self._seqs.get(item.generation_id) != item.after and not self._follows(connection, item, payload):
            return  # it is there already
        if item.within is not None:  # first the message, then the log, as a deleted conversation does
            item.within(connection)
        WRITE.change(connection, generation_id=item.generation_id, last_seq=item.to, events=payload)
        if item.events[-1].terminal and END.change(connection, of=item.generation_id, by=item.owner, to=item.to) != 1:
            raise LeaseLost(item.generation_id)
        failpoints.reach("before-end" if item.within is not None else "before-commit")

    def _follows(self, connection: Connection, item: Append, payload: bytes) -> bool:
        """Say whether the batch comes next; False if it is the last one, committed before. Raises LeaseLost."""
        found = HEAD.first(connection, of=item.generation_id)
        head = Row(*found) if found else None
        if head is None or head.owner != item.owner:
            raise LeaseLost(item.generation_id)
        if head.last_seq == item.after and head.ended_at is None:
            return True
        stored = connection.scalar(BATCH_AT, {"of": item.generation_id, "to": item.to})
        if head.last_seq == item.to and stored == payload:
            return False
        raise LeaseLost(item.generation_id)

    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]:
        part = self._tail.part(generation_id)
        newest = [] if part is None else decode(part.merged(), part.last_seq, after)
        if part is not None and after >= part.after:
            return newest[:limit]
        with glance(self._engine) as connection:
            entries = read_batches(connection, generation_id, after, limit)
            if len(entries) >= limit or (entries and entries[-1].event.terminal):
                return entries[:limit]
            if generation_id not in self._seqs:
                # what is merged now is in the batches that are looked at then
                newest = [*read_tail(connection, generation_id), *newest]
                entries += read_batches(connection, generation_id, last(entries, after), limit)
        return with_newest(entries, newest, after)[:limit]

    def head(self, generation_id: str) -> Head | None:
        with glance(self._engine) as connection:
            found = HEAD.first(connection, of=generation_id)
            last_seq = self._seqs.get(generation_id)
            if found and last_seq is None and Row(*found).ended_at is None:
                last_seq = last(read_tail(connection, generation_id), 0)
                found = HEAD.first(connection, of=generation_id)  # it may have been merged
        row = Row(*found) if found else None
        return Head(max(row.last_seq, last_seq or 0), row.ended_at is not None, row.expired, row.taken) if row else None

    # owners

    def enter(self, owner: str, *, lease_seconds: float) -> None:
        with connected(self._engine, writes=True) as connection:
            connection.execute(insert(OWNERS).values(owner=owner, lease_until=lease_clock() + lease_seconds))

    def hold(self, owner: str, *, lease_seconds: float) -> bool:
        held = update(OWNERS).where(OWNERS.c.owner == owner).values(lease_until=lease_clock() + lease_seconds)
        with connected(self._engine, writes=True) as connection:
            return connection.execute(held).rowcount == 1

    def leave(self, owner: str) -> None:
        self._seqs.clear()
        with self._merging() as connection:
            mine = and_(HEADS.c.owner == owner, HEADS.c.ended_at.is_(None))
            connection.execute(update(HEADS).where(mine).values(owner=NOBODY))  # which is no death
            connection.execute(delete(OWNERS).where(OWNERS.c.owner == owner))

    def adopt(self, generation_id: str, last_seq: int) -> None:
        self._seqs[generation_id] = last_seq

    def forget(self, owner: str) -> None:
        self._forgotten.add(owner)
        self._seqs.clear()
        self._tail.forget()

    def release(self, generation_ids: Sequence[str], *, owner: str) -> None:
        mine = and_(HEADS.c.generation_id.in_(generation_ids), HEADS.c.owner == owner)
        with self._merging(generation_ids) as connection:
            connection.execute(update(HEADS).where(mine).values(owner=NOBODY, taken=HEADS.c.taken + 1))
        for generation_id in generation_ids:
            self._seqs.pop(generation_id, None)

    def has_orphans(self) -> bool:
        with connected(self._engine) as connection:
            return bool(connection.scalar(ANY_ORPHANS))

    def take_orphans(self, owner: str) -> list[str]:
        begun = time.monotonic()
        with connected(self._engine, writes=True) as connection:
            if time.monotonic() - begun > PROMPT_SECONDS:
                return []  # the others could not renew their leases either
            check_lease(connection, owner)
            connection.execute(BURY)
            raw = sqlite_under(connection)
            if raw is not None:
                _tail.merge_of_nobody(raw)
            return list(connection.scalars(TAKE, {"by": owner}))

    def erase(self, generation_ids: Collection[str], *, session: Session | None = None) -> None:
        raw = sqlite_under(session.connection()) if session is not None else None
        if raw is not None and generation_ids:
            _tail.erase(raw, set(generation_ids))

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
        self._sweep_tail()
        return len(names)

    def _sweep_tail(self) -> None:
        """Merge what stands in the tail for long: what owners left who are gone, and where this process is silent."""
        if self._quick is None:
            return
        with glance(self._engine) as connection:
            raw = sqlite_under(connection)
            left = raw is not None and _tail.has_any_of_nobody(raw)
        if left or len(self._tail):
            with self._merging() as connection:
                raw = sqlite_under(connection)
                assert raw is not None
                _tail.merge_of_nobody(raw)


def check_lease(connection: Connection, owner: str) -> None:
    """Raise LeaseLost unless *owner* holds its lease, and keep it from being taken until the transaction ends."""
    if FENCE.first(connection, by=owner) is None:
        raise LeaseLost(owner)


def fail(group: Sequence[Append], error: Exception) -> None:
    for item in group:
        item.done(None, error)


def encode(events: Sequence[Event]) -> bytes:
    if len(events) == 1 and type(events[0]) is Token:  # nearly all
        return b'[["token",{"content":%b}]]' % orjson.dumps(events[0].content)
    return orjson.dumps([[event.name, dump(event)] for event in events])


def read_batches(
    connection: Connection | sqlite3.Connection, generation_id: str, after: int, limit: int
) -> list[Entry]:
    """Return the entries past *after* that stand in batches of their own, at least *limit* if there are so many."""
    entries: list[Entry] = []
    # a row holds at least one event; what was merged twice is taken once
    for last_seq, payload in READ.each(connection, of=generation_id, after=after, most=limit):
        entries += decode(payload, last_seq, last(entries, after))
        if len(entries) >= limit:
            break
    return entries


def read_tail(connection: Connection | sqlite3.Connection, generation_id: str) -> list[Entry]:
    """Return the entries that any process has of the log in the tail."""
    raw = sqlite_under(connection)
    if raw is None:
        return []
    found = _tail.look(raw, generation_id)
    return [entry for last_seq, rows in found for entry in numbered(rows, last_seq, 0)]


def with_newest(entries: list[Entry], newest: Sequence[Entry], after: int) -> list[Entry]:
    """Return *entries* and what follows them without a gap of *newest*, which is in order too."""
    seq = last(entries, after)
    for entry in newest:
        if entry.seq == seq + 1:
            entries.append(entry)
            seq += 1
    return entries


def last(entries: Sequence[Entry], after: int) -> int:
    """Return the seq of the last of *entries*, which begin past *after*."""
    return entries[-1].seq if entries else after


def decode(payload: bytes, last_seq: int, after: int) -> list[Entry]:
    """Return the batch's entries past *after*; *last_seq* is its last one's."""
    return numbered(orjson.loads(payload), last_seq, after)


def numbered(rows: list[list[Any]], last_seq: int, after: int) -> list[Entry]:
    first = last_seq - len(rows) + 1
    return [Entry(seq, load(name, values)) for seq, (name, values) in enumerate(rows, first) if seq > after]
