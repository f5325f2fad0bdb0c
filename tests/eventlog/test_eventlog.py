"""What every log does, whatever it is kept in."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gevent
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

import chatapp.eventlog
from chatapp.bells.local import Bell
from chatapp.database import connected
from chatapp.eventlog import EventLog, Head, LeaseLost, LogExpired, LogGone, memory, sql
from chatapp.events import Entry, Event, Failed, Status, Token
from tests.support import world
from tests.support.world import World

OWNER = "runner-1"
END = Failed("x", "The end.", retryable=False)


class Logs:
    """A log of one backend, and how to begin one in it."""

    def __init__(self, log: EventLog, begin_as: Callable[..., str], bell: Bell, world: World | None = None) -> None:
        self.log, self.begin_as, self.bell, self.world = log, begin_as, bell, world

    def begin(self) -> str:
        return self.begin_as(OWNER)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Logs]:
    bell = Bell()
    if request.param == "memory":
        store = memory.Store()
        store.enter(OWNER, lease_seconds=60)
        log = EventLog(store, bell)

        def begin(owner: str, events: Sequence[Event] = ()) -> str:
            name = str(uuid.uuid4())
            log.create(name, owner=owner, events=events)
            return name

        yield Logs(log, begin, bell)
        return
    made = world.make(tmp_path, request.getfixturevalue("new_database")() if request.param == "postgresql" else "")
    store = sql.Store(made.engine)
    log = EventLog(store, bell)
    store.enter(OWNER, lease_seconds=60)
    yield Logs(log, lambda owner, events=(): made.generation(store=store, owner=owner, events=events), bell, made)
    made.close()


def words(*texts: str) -> list[Event]:
    return [Token(one) for one in texts]


def test_entries_are_numbered_from_one_without_gaps(logs: Logs) -> None:
    name = logs.begin()
    first = logs.log.append(name, words("a", "b"), after=0, owner=OWNER)
    second = logs.log.append(name, words("c"), after=2, owner=OWNER)
    told = [Entry(1, Token("a")), Entry(2, Token("b")), Entry(3, Token("c"))]
    assert first + second == told == logs.log.read(name) == logs.log.read_all(name)


@pytest.mark.parametrize("after", range(5))
def test_reading_begins_after_any_cursor(logs: Logs, after: int) -> None:
    name = logs.begin()
    logs.log.append(name, words("a", "b", "c"), after=0, owner=OWNER)
    logs.log.append(name, words("d"), after=3, owner=OWNER)
    assert [entry.seq for entry in logs.log.read(name, after)] == list(range(after + 1, 5))
    assert [entry.seq for entry in logs.log.read(name, after, limit=1)] == list(range(after + 1, 5))[:1]


def test_a_runner_without_the_lease_writes_nothing(logs: Logs) -> None:
    name = logs.begin()
    with pytest.raises(LeaseLost):
        logs.log.append(name, words("stolen"), after=0, owner="runner-2")
    assert logs.log.read_all(name) == []


def test_a_second_writer_of_the_same_seq_is_refused(logs: Logs) -> None:
    name = logs.begin()
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    with pytest.raises(LeaseLost):
        logs.log.append(name, words("b"), after=0, owner=OWNER)
    assert logs.log.read_all(name) == [Entry(1, Token("a"))]


def test_nothing_follows_the_terminal_entry(logs: Logs) -> None:
    name = logs.begin()
    logs.log.append(name, [Token("a"), END], after=0, owner=OWNER)
    with pytest.raises(LeaseLost):
        logs.log.append(name, words("b"), after=2, owner=OWNER)
    head = logs.log.head(name)
    assert head is not None
    assert (head.last_seq, head.ended) == (2, True)


def test_a_log_that_never_was_is_gone(logs: Logs) -> None:
    name = str(uuid.uuid4())
    assert logs.log.head(name) is None
    with pytest.raises(LeaseLost):
        logs.log.append(name, words("a"), after=0, owner=OWNER)
    with pytest.raises(LogGone):
        next(logs.log.follow(name))


@pytest.mark.parametrize("cursor", range(6))
def test_a_follower_gets_what_is_past_its_cursor_live_or_late(logs: Logs, cursor: int) -> None:
    name = logs.begin()
    logs.log.append(name, words("a", "b"), after=0, owner=OWNER)

    def write() -> None:
        for seq, text_ in enumerate("cd", 2):
            gevent.sleep(0.01)
            logs.log.append(name, words(text_), after=seq, owner=OWNER)
        gevent.sleep(0.01)
        logs.log.append(name, [END], after=4, owner=OWNER)

    writer = gevent.spawn(write)
    heard = [entry for batch in logs.log.follow(name, min(cursor, 4)) for entry in batch]
    writer.get(timeout=10)
    assert heard == logs.log.read_all(name)[min(cursor, 4) :]


def test_many_followers_get_the_same(logs: Logs) -> None:
    name = logs.begin()
    followers = [gevent.spawn(lambda: [e for b in logs.log.follow(name) for e in b]) for _ in range(8)]
    for seq in range(20):
        gevent.sleep(0)
        logs.log.append(name, words(str(seq)), after=seq, owner=OWNER)
    logs.log.append(name, [END], after=20, owner=OWNER)
    told = logs.log.read_all(name)
    assert [one.get(timeout=10) for one in followers] == [told] * 8


def test_what_a_follower_sees_is_committed(logs: Logs) -> None:
    if logs.world is None:
        pytest.skip("a log in memory commits nothing")
    name, seen = logs.begin(), 0
    other = world.engine_for(logs.world.settings)
    outside = sql.Store(other)  # sees only what is committed

    def check(generation_id: str, entries: object) -> None:
        nonlocal seen
        assert outside.read(name)[-1] == entries[-1]  # type: ignore[index]
        seen += 1

    logs.bell.listen(check)
    for seq in range(5):
        logs.log.append(name, words("x"), after=seq, owner=OWNER)
    other.dispose()
    assert seen == 5


def test_a_lost_bell_costs_time_and_no_entry(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatapp.eventlog, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(logs.bell, "ring", lambda generation_id, entries: None)
    monkeypatch.setattr(logs.log.store, "writes", lambda generation_id: False)  # as if another process wrote it
    name = logs.begin()
    follower = gevent.spawn(lambda: [e for b in logs.log.follow(name) for e in b])
    gevent.sleep(0)
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    gevent.sleep(0.1)
    logs.log.append(name, [Token("b"), END], after=1, owner=OWNER)
    assert [entry.seq for entry in follower.get(timeout=10)] == [1, 2, 3]


def test_after_a_lost_bell_nobody_starves_behind_another(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one follower looks into the store for all; it may be one that is further on than the others."""
    monkeypatch.setattr(chatapp.eventlog, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(logs.bell, "ring", lambda generation_id, entries: None)
    monkeypatch.setattr(logs.log.store, "writes", lambda generation_id: False)  # as if another process wrote it
    name = logs.begin()
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    heard: list[int] = []
    behind = gevent.spawn(lambda: [heard.append(e.seq) for b in logs.log.follow(name) for e in b])
    gevent.sleep(0.01)
    logs.log.append(name, words("b"), after=1, owner=OWNER)
    ahead = gevent.spawn(lambda: [e for b in logs.log.follow(name, 1) for e in b])
    gevent.sleep(0.05)
    assert heard == [1, 2]  # the newcomer looked, and what it found woke the other
    logs.log.append(name, [END], after=2, owner=OWNER)
    gevent.joinall([behind, ahead], timeout=10, raise_error=True)


def test_a_bell_that_skips_leaves_no_hole(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = logs.bell.ring
    monkeypatch.setattr(logs.bell, "ring", lambda name, entries: ring(name, entries) if entries[0].seq != 2 else None)
    name = logs.begin()
    follower = gevent.spawn(lambda: [e for b in logs.log.follow(name) for e in b])
    for seq, word in enumerate("abc"):
        gevent.sleep(0)
        logs.log.append(name, words(word), after=seq, owner=OWNER)
    logs.log.append(name, [END], after=3, owner=OWNER)
    assert [entry.seq for entry in follower.get(timeout=10)] == [1, 2, 3, 4]


def test_a_bell_that_rings_twice_repeats_nothing(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = logs.bell.ring

    def twice(name: str, entries: object) -> None:
        ring(name, entries)  # type: ignore[arg-type]
        ring(name, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(logs.bell, "ring", twice)
    name = logs.begin()
    follower = gevent.spawn(lambda: [e for b in logs.log.follow(name) for e in b])
    for seq, word in enumerate("abc"):
        gevent.sleep(0)
        logs.log.append(name, words(word), after=seq, owner=OWNER)
    logs.log.append(name, [END], after=3, owner=OWNER)
    assert [entry.seq for entry in follower.get(timeout=10)] == [1, 2, 3, 4]


def test_silence_is_told(logs: Logs) -> None:
    name = logs.begin()
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    batches = logs.log.follow(name, heartbeat_seconds=0.02)
    assert [next(batches) for _ in range(3)] == [[Entry(1, Token("a"))], [], []]
    batches.close()  # type: ignore[attr-defined]


def test_a_slow_follower_costs_no_memory_and_delays_nobody(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatapp.eventlog._channel, "TAIL_ENTRIES", 10)
    name = logs.begin()
    slow = logs.log.follow(name)
    logs.log.append(name, words("first"), after=0, owner=OWNER)
    assert next(slow)[0].seq == 1
    quick = gevent.spawn(lambda: [e.seq for b in logs.log.follow(name) for e in b])
    gevent.sleep(0)
    for seq in range(1, 200):
        logs.log.append(name, words("x"), after=seq, owner=OWNER)
    logs.log.append(name, [END], after=200, owner=OWNER)
    assert quick.get(timeout=10) == list(range(1, 202))
    [channel] = logs.log._channels._open.values()
    assert len(channel._entries) <= 20
    assert [entry.seq for batch in slow for entry in batch] == list(range(2, 202))


def test_a_channel_is_closed_with_its_last_follower(logs: Logs) -> None:
    name = logs.begin()
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    one, two = logs.log.follow(name), logs.log.follow(name)
    next(one), next(two)
    one.close()  # type: ignore[attr-defined]
    assert len(logs.log._channels) == 1
    two.close()  # type: ignore[attr-defined]
    assert len(logs.log._channels) == 0


def test_an_expired_log_says_so_and_is_no_hole(logs: Logs) -> None:
    name, kept = logs.begin(), logs.begin()
    logs.log.append(name, [Token("a"), END], after=0, owner=OWNER)
    logs.log.append(kept, words("a"), after=0, owner=OWNER)
    gevent.sleep(0.01)
    assert logs.log.store.sweep(0) == 1
    head = logs.log.head(name)
    assert head is not None
    assert head == Head(2, ended=True, expired=True)
    with pytest.raises(LogExpired):
        next(logs.log.follow(name, 0))
    assert logs.log.read_all(kept) == [Entry(1, Token("a"))]
    assert logs.log.store.sweep(0) == 0


def test_only_an_expired_lease_can_be_taken(logs: Logs) -> None:
    lost, store = logs.begin(), logs.log.store
    logs.log.append(lost, words("a"), after=0, owner=OWNER)
    store.enter("runner-2", lease_seconds=60)
    assert not store.has_orphans()
    assert store.take_orphans("runner-2") == []
    assert store.hold(OWNER, lease_seconds=-1)
    assert store.has_orphans()
    assert store.take_orphans("runner-2") == [lost]
    assert store.take_orphans("runner-2") == []
    assert not store.has_orphans()
    head = store.head(lost)
    assert head is not None
    assert (head.last_seq, head.taken) == (1, 1)
    with pytest.raises(LeaseLost):
        logs.log.append(lost, words("b"), after=1, owner=OWNER)
    logs.log.append(lost, words("c"), after=1, owner="runner-2")


def test_an_owner_that_lost_its_lease_owns_nothing_more(logs: Logs) -> None:
    """Not even a log that nobody took: whoever is presumed dead stays so."""
    logs.begin()
    store = logs.log.store
    store.enter("runner-2", lease_seconds=60)
    store.hold(OWNER, lease_seconds=-1)
    store.take_orphans("runner-2")
    assert not store.hold(OWNER, lease_seconds=60)
    with pytest.raises(LeaseLost):
        logs.begin_as(OWNER)


def test_a_lease_that_was_given_back_leaves_orphans_at_once(logs: Logs) -> None:
    name, store = logs.begin(), logs.log.store
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    store.leave(OWNER)
    store.enter("runner-2", lease_seconds=60)
    assert store.take_orphans("runner-2") == [name]


def test_a_released_log_is_an_orphan_and_the_others_are_not(logs: Logs) -> None:
    name, kept, store = logs.begin(), logs.begin(), logs.log.store
    store.release([name], owner="runner-2")
    assert not store.has_orphans()
    store.release([name], owner=OWNER)
    assert store.take_orphans(OWNER) == [name]
    logs.log.append(name, words("a"), after=0, owner=OWNER)
    logs.log.append(kept, words("a"), after=0, owner=OWNER)


def test_a_log_can_begin_with_what_was_said_before(logs: Logs) -> None:
    name = logs.begin_as(OWNER, words("so", " far"))
    assert [entry.seq for entry in logs.log.read_all(name)] == [1, 2]
    logs.log.append(name, words("on"), after=2, owner=OWNER)
    assert logs.log.head(name) == Head(3, ended=False)


def test_a_stop_request_reaches_the_owner_until_the_end(logs: Logs) -> None:
    name = logs.begin()
    assert logs.log.store.stop_requests(OWNER) == []
    logs.log.store.request_stop(name)
    assert logs.log.store.stop_requests(OWNER) == [name]
    assert logs.log.store.stop_requests("runner-2") == []
    logs.log.append(name, [END], after=0, owner=OWNER)
    assert logs.log.store.stop_requests(OWNER) == []


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12), data=st.data())
def test_any_batching_reads_back_as_one_dense_log(logs: Logs, sizes: list[int], data: st.DataObject) -> None:
    name, seq = logs.begin(), 0
    for size in sizes:
        seq += len(logs.log.append(name, words(*"abcdef"[:size]), after=seq, owner=OWNER))
    after, limit = data.draw(st.integers(0, seq)), data.draw(st.integers(1, 50))
    assert [entry.seq for entry in logs.log.read(name, after, limit)] == list(range(1, seq + 1))[after : after + limit]


# what only a database can lose


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[World, EventLog, sql.Store]]:
    made = world.make(tmp_path, request.getfixturevalue("new_database")() if request.param == "postgresql" else "")
    store = sql.Store(made.engine)
    bell = Bell()
    log = EventLog(store, bell)
    store.enter(OWNER, lease_seconds=60)
    yield made, log, store
    made.close()


Stored = tuple[World, EventLog, sql.Store]


def test_what_is_written_within_an_append_is_committed_with_it_or_not_at_all(stored: Stored) -> None:
    made, log, store = stored
    name = made.generation(store=store, owner=OWNER)

    def fail(session: object) -> None:
        session.execute(text("update messages set content = 'half'"))  # type: ignore[attr-defined]
        raise RuntimeError("a planted failure")

    with pytest.raises(RuntimeError):
        log.append(name, [END], after=0, owner=OWNER, within=fail)
    assert made.message(name).content == ""
    assert log.read_all(name) == []
    log.append(
        name, [END], after=0, owner=OWNER, within=lambda s: s.execute(text("update messages set content='whole'"))
    )
    assert made.message(name).content == "whole"


def test_one_failing_append_of_a_group_fails_alone(stored: Stored) -> None:
    made, log, store = stored
    names = [made.generation(store=store, owner=OWNER) for _ in range(4)]

    def fail(session: object) -> None:
        raise RuntimeError("a planted failure")

    appends = [
        gevent.spawn(
            log.append, name, words("a"), after=0, owner=OWNER if n != 1 else "thief", within=fail if n == 2 else None
        )
        for n, name in enumerate(names)
    ]
    gevent.joinall(appends, timeout=10)
    assert [type(one.exception) for one in appends] == [type(None), LeaseLost, RuntimeError, type(None)]
    assert [len(log.read_all(name)) for name in names] == [1, 0, 0, 1]


def test_appends_that_gather_share_a_transaction(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    made, log, store = stored
    names = [made.generation(store=store, owner=OWNER) for _ in range(10)]
    groups: list[int] = []
    commit = store._commit
    monkeypatch.setattr(store, "_commit", lambda group: (groups.append(len(group)), commit(group)))
    gevent.joinall([gevent.spawn(log.append, name, words("a"), after=0, owner=OWNER) for name in names], timeout=10)
    assert sum(groups) == 10
    assert len(groups) < 5


def test_a_batch_whose_commit_was_in_doubt_can_be_appended_again(stored: Stored) -> None:
    made, log, store = stored
    name = made.generation(store=store, owner=OWNER)
    for _ in range(3):
        assert log.append(name, words("a", "b"), after=0, owner=OWNER) == [Entry(1, Token("a")), Entry(2, Token("b"))]
    assert len(log.read_all(name)) == 2
    with pytest.raises(LeaseLost):
        log.append(name, words("a", "c"), after=0, owner=OWNER)


def test_a_deleted_conversation_takes_its_log_along(stored: Stored) -> None:
    made, log, store = stored
    name = made.generation(store=store, owner=OWNER)
    log.append(name, words("a"), after=0, owner=OWNER)
    follower = log.follow(name)
    next(follower)
    with connected(made.engine, writes=True) as connection:
        connection.execute(delete(world.Conversation.__table__))
    with connected(made.engine) as connection:
        left = [
            connection.scalar(text(f"select count(*) from {table}"))
            for table in ("log_heads", "log_batches", "messages")
        ]
    assert left == [0, 0, 0]
    with pytest.raises(LeaseLost):
        log.append(name, words("b"), after=1, owner=OWNER)
    with pytest.raises(LogGone):
        next(follower)


def test_no_connection_is_held_while_a_follower_waits(stored: Stored) -> None:
    made, log, store = stored
    name = made.generation(store=store, owner=OWNER)
    followers = [gevent.spawn(lambda: [e for b in log.follow(name) for e in b]) for _ in range(50)]
    gevent.sleep(0.05)
    assert made.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    log.append(name, [Status("x"), END], after=0, owner=OWNER)
    assert [len(one.get(timeout=10)) for one in followers] == [2] * 50


def test_many_silent_followers_look_into_the_store_together(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    made, log, store = stored
    monkeypatch.setattr(chatapp.eventlog, "SILENCE_SECONDS", 0.1)
    name = made.generation(store=store, owner=OWNER)
    reads, read = 0, store.read

    def counted(*args: object) -> list[Entry]:
        nonlocal reads
        reads += 1
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "read", counted)
    followers = [gevent.spawn(lambda: [e for b in log.follow(name) for e in b]) for _ in range(30)]
    with gevent.Timeout(30):
        while reads < 30:  # all have looked once
            gevent.sleep(0.01)
    begun, before = time.monotonic(), reads
    while time.monotonic() < begun + 0.5:
        gevent.sleep(0.05)
    looks = (time.monotonic() - begun) / 0.1
    log.append(name, [END], after=0, owner=OWNER)
    gevent.joinall(followers, timeout=10)
    assert reads - before <= looks + 3  # a look that was on its way
