"""Under load the loop turns less often; else it is left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.socket import socketpair, wait_read

from chatapp import pace
from chatapp.pace import Pace


@pytest.fixture
def counted() -> Iterator[list[int]]:
    count = [0]
    made = Pace(lambda: count[0])
    made.keep()
    yield count
    made.stop()


def turns(counted: list[int], batches_a_turn: int, seconds: float = 0.3) -> float:
    """Return how many turns a second the loop makes that always has something to do."""
    begun, made = time.monotonic(), 0
    one, other = socketpair()
    with one, other:
        one.sendall(b"x")  # there is always something to read
        while time.monotonic() < begun + seconds:
            wait_read(other.fileno())
            counted[0] += batches_a_turn
            made += 1
    return made / seconds


def test_a_busy_loop_turns_less_often_than_an_idle_one(counted: list[int]) -> None:
    alone = turns(counted, 0)
    turns(counted, 50, seconds=3 * pace.SAMPLE_SECONDS)
    busy = turns(counted, 50)
    assert busy < 1.5 / pace.TURN_SECONDS
    assert busy < alone / 2


def test_what_was_busy_is_left_alone_again(counted: list[int]) -> None:
    alone = turns(counted, 0)
    turns(counted, 50)
    turns(counted, 0, seconds=2 * pace.SAMPLE_SECONDS)
    assert turns(counted, 0) > min(alone / 2, 3 / pace.TURN_SECONDS)  # a busy machine may be slow at one of both


def test_callbacks_that_are_due_are_run_before_the_pause(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what was just read would wait for a whole turn before it is stored."""
    order: list[str] = []
    turns(counted, 50)
    monkeypatch.setattr(pace, "really_sleep", lambda seconds: order.append("pause"))
    loop = gevent.get_hub().loop
    for _ in range(20):
        gevent.sleep(0.00001)
        counted[0] += 50
        timer = loop.timer(0.0005)
        timer.start(lambda: (order.append("read"), loop.run_callback(order.append, "stored")))
        gevent.sleep(0.001)
        timer.close()
    assert order.count("read") > 10
    assert "pause" in order
    for n, word in enumerate(order[:-1]):
        if word == "read":
            assert order[n + 1] == "stored"
