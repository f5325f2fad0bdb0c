"""What it costs that each token is committed before it is shown: the same streams on a log that is kept in memory only."""

from __future__ import annotations

import itertools
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from chatapp.bells.local import Bell
from chatapp.eventlog import EventLog, memory, sql
from chatapp.events import Failed, Token
from tests.faults import LONG
from tests.support import world
from tests.support.world import World

END = Failed("x", "The end.", retryable=False)
OWNER = "runner-1"
SECONDS = 10.0 if LONG else 0.8
# streams, tokens a second each, and what a token may come later for being stored: 0.2 ms and 0.3 ms on a quiet machine
CROWDS = [(1, 33, 0.005), (60, 33, 0.025)]
PATIENCE_SECONDS = 60.0


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    fresh = world.make(tmp_path)
    yield fresh
    fresh.close()


def in_memory() -> tuple[EventLog, Callable[[], str]]:
    log = EventLog(memory.Store(), Bell())
    log.store.enter(OWNER, lease_seconds=60)

    def begin() -> str:
        name = str(uuid.uuid4())
        log.create(name, owner=OWNER)
        return name

    return log, begin


def in_the_database(made: World) -> tuple[EventLog, Callable[[], str]]:
    store = sql.Store(made.engine)
    store.enter(OWNER, lease_seconds=60)
    return EventLog(store, Bell()), lambda: made.generation(store=store, owner=OWNER)


def delays(log: EventLog, begin: Callable[[], str], streams: int, rate: float) -> list[float]:
    """Write *streams* logs at once, each with *rate* tokens a second; return how long each token took to its follower."""
    found: list[float] = []

    def write(name: str, after: float) -> None:
        gevent.sleep(after)
        for seq in range(int(SECONDS * rate)):
            log.append(name, [Token(repr(time.monotonic()))], after=seq, owner=OWNER)
            gevent.sleep(1 / rate)
        log.append(name, [END], after=int(SECONDS * rate), owner=OWNER)

    def follow(name: str) -> None:
        for batch in log.follow(name):
            now = time.monotonic()
            found.extend(now - float(entry.event.content) for entry in batch if isinstance(entry.event, Token))

    names = [begin() for _ in range(streams)]
    greenlets = [gevent.spawn(follow, name) for name in names]
    greenlets += [gevent.spawn(write, name, n / streams / rate) for n, name in enumerate(names)]
    gevent.joinall(greenlets, timeout=PATIENCE_SECONDS, raise_error=True)
    assert len(found) == streams * int(SECONDS * rate)
    return found


def costs(made: World, streams: int, rate: float) -> Iterator[float]:
    """Yield the difference of the medians, in seconds, with and without the database: the best of each, of ever more rounds.

    A machine that is busy with other things makes a round slow; what a commit costs is in every one.
    """
    stored, remembered = in_the_database(made), in_memory()
    kept: list[float] = []
    forgotten: list[float] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for medians, log in ((kept, stored), (forgotten, remembered)):
            medians.append(statistics.median(delays(*log, streams, rate)))
        print(f"\n{streams} streams: p50 {1000 * kept[-1]:.2f} ms stored, {1000 * forgotten[-1]:.2f} ms not stored")
        yield min(kept) - min(forgotten)


@pytest.mark.parametrize(("streams", "rate", "limit"), CROWDS)
def test_to_store_each_token_before_it_is_shown_costs_little(
    made: World, streams: int, rate: float, limit: float
) -> None:
    assert any(cost < limit for cost in costs(made, streams, rate))


def test_the_control_a_slow_commit_is_noticed(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = sql.Store._commit

    def slow(self: sql.Store, group: list[sql.Append]) -> None:
        gevent.sleep(0.02)  # what a disk takes that is asked to be sure
        commit(self, group)

    monkeypatch.setattr(sql.Store, "_commit", slow)
    *_, cost = itertools.islice(costs(made, 1, 33), 3)
    assert cost > CROWDS[0][2]
