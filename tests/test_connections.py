"""Who is connected, in all processes together, and what is told to all of them, once and in order."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from flask import Flask

import chatapp.connections
from chatapp import sse
from chatapp.bells import _wire
from chatapp.bells.local import Bell
from chatapp.bells.machine import DATAGRAM_BYTES
from chatapp.connections import Connections
from chatapp.sse import BroadcastTooLarge, Frame, Parser, SSEStream, StreamClosed, create_sse_stream


@pytest.fixture(autouse=True)
def one_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a script does that has made no application."""
    monkeypatch.setattr(sse._connections, "_connections", sse.Connections())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatapp.connections, "STEP_SECONDS", 0.001)
    monkeypatch.setattr(chatapp.connections, "TELL_SECONDS", 0.01)


@pytest.fixture
def here() -> Iterator[Connections]:
    made = Connections(Bell())
    yield made
    made.close()


class Between(Bell):
    """A bell between processes that are all here; the test says which messages it loses, or brings twice."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Callable[[str, dict[str, Any]], int] = lambda topic, message: 1

    def tell(self, topic: str, message: dict[str, Any]) -> None:
        for _ in range(self.times(topic, message)):
            super().tell(topic, message)


def heard(stream: SSEStream) -> list[Frame]:
    """Return what waits in the stream, without the end."""
    return Parser().feed(b"".join(stream._queue))


def said(stream: SSEStream) -> list[Any]:
    return [json.loads(frame.data) for frame in heard(stream)]


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.002)


# within a process


def test_a_broadcast_reaches_all_of_its_key_and_nobody_else() -> None:
    first, second, other = create_sse_stream(), create_sse_stream(), create_sse_stream()
    for stream in (first, second):
        sse.register_connection("user:1", stream)
    sse.register_connection("user:2", other)
    sse.broadcast("user:1", "notification", {"message": "New message received"})
    frame = Frame('{"message":"New message received"}', "notification")
    assert (heard(first), heard(second), heard(other)) == ([frame], [frame], [])
    assert (sse.get_connection_count("user:1"), sse.get_connection_keys()) == (2, ["user:1", "user:2"])
    sse.unregister_connection("user:1", first)
    sse.unregister_connection("user:1", first)
    sse.broadcast("user:1", "notification", "again")
    assert ([len(heard(first)), len(heard(second))], sse.get_connection_count("user:1")) == ([1, 2], 1)


def test_a_function_can_be_registered_too() -> None:
    calls: list[dict[str, Any]] = []
    stream = create_sse_stream()
    sse.register_connection("a", stream.send)
    sse.register_connection("a", lambda **event: calls.append(event))
    sse.broadcast("a", "news", [1])
    assert (said(stream), calls) == ([[1]], [{"event": "news", "data": "[1]"}])
    sse.unregister_connection("a", stream.send)  # a method is made anew each time it is looked up
    assert sse.get_connection_count("a") == 1


def test_a_stream_registered_twice_hears_all_once() -> None:
    stream = create_sse_stream()
    for key in ("a", "a", "b"):
        sse.register_connection(key, stream)
    sse.broadcast("a", "news", 1)
    sse.broadcast("b", "news", 2)
    assert (said(stream), sse.get_connection_count("a")) == ([1, 2], 1)


@pytest.mark.parametrize("end", [SSEStream.close, SSEStream.leave])
def test_a_stream_that_ends_is_nobodys_connection(end: Callable[[SSEStream], None]) -> None:
    stream, other = create_sse_stream(), create_sse_stream()
    for key in ("a", "b"):
        sse.register_connection(key, stream)
    sse.register_connection("b", other)
    end(stream)
    assert (sse.get_connection_keys(), sse.get_connection_count("b")) == (["b"], 1)
    sse.register_connection("c", stream)  # too late
    assert sse.get_connection_keys() == ["b"]
    known = sse._connections.current()
    other.close()
    assert (known._by_key, known._keys_of) == ({}, {})


def test_one_that_is_full_closed_or_broken_hurts_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def broken(**event: object) -> None:
        raise LookupError

    def gone(**event: object) -> None:
        raise StreamClosed("gone")

    full, well = create_sse_stream(max_queued=1), create_sse_stream()
    for one in (broken, gone, full, well):
        sse.register_connection("a", one)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            sse.broadcast("a", "news", number)
    assert (said(well), said(full), full.reason) == ([0, 1, 2], [0], "the reader is too slow")
    assert sse.get_connection_count("a") == 2  # who is broken may be well the next time
    assert caplog.text.count("what is registered under a failed") == 3


@pytest.mark.parametrize("key", ["", "x" * 201, "ü" * 101, "\ud800", 7])
def test_a_key_is_short_text(key: Any) -> None:
    with pytest.raises(ValueError, match=r"a key is text|surrogates"):
        sse.register_connection(key, create_sse_stream())
    with pytest.raises(ValueError, match=r"a key is text|surrogates"):
        sse.broadcast(key, "news", 1)


@pytest.mark.parametrize(
    ("event", "data", "error"),
    [
        ("a\nb", 1, ValueError),
        ("a", "\ud800", ValueError),
        ("a", {1}, TypeError),
        ("a", "x" * 100_000, BroadcastTooLarge),
    ],
)
def test_what_cannot_be_sent_is_sent_to_nobody(
    here: Connections, event: str, data: Any, error: type[Exception]
) -> None:
    stream, told = create_sse_stream(), list[str]()
    here.register("a", stream)
    here._bell.on("broadcast", lambda message: told.append("something"))
    with pytest.raises(error):
        here.broadcast("a", event, data)
    assert (heard(stream), told) == ([], [])


@pytest.mark.parametrize("char", ["x", "ü", "🦊", '"', "\\", "\0", "\x1f", "\x7f", "\x85", "\u2028"])
def test_the_largest_that_is_let_through_fits_between_processes(here: Connections, char: str) -> None:
    lines: list[bytes] = []
    here._bell.on("broadcast", lambda message: lines.append(_wire.line(_wire.TELL, "broadcast", message)))
    for size in (10_000, 16_000, 25_000, 33_000, 50_000, 100_000):
        for data in (char * size, [char * (size // 2)]):
            try:
                here.broadcast("k" * 200, "e", data)
            except BroadcastTooLarge:
                continue
    assert 30_000 < max(map(len, lines)) <= DATAGRAM_BYTES
    assert min(map(len, lines)) > 0


def test_threads_may_come_go_and_tell_at_once() -> None:
    def work() -> None:
        for number in range(300):
            with create_sse_stream() as stream:
                sse.register_connection(f"key {number % 3}", stream)
                sse.broadcast(f"key {number % 3}", "news", number)

    those = [threading.Thread(target=work) for _ in range(6)]
    for one in those:
        one.start()
    for one in those:
        one.join(30)
    assert sse.get_connection_keys() == []


def test_the_functions_speak_to_the_site_in_its_context_and_outside_any() -> None:
    first, second = Flask("first"), Flask("second")
    mine, others = sse.Connections(), sse.Connections()
    sse.use_connections(first, mine)
    sse.use_connections(second, others)
    stream = create_sse_stream()
    with first.app_context():
        sse.register_connection("a", stream)
        assert sse.get_connection_keys() == mine.keys() == ["a"]
    assert sse.get_connection_keys() == others.keys() == []
    with Flask("third").app_context():
        assert sse._connections.current() is others


# between processes


def pair() -> tuple[Between, Connections, Connections]:
    bell = Between()
    return bell, Connections(bell), Connections(bell)


def test_a_broadcast_reaches_other_processes_in_order_and_its_own_once() -> None:
    _, one, two = pair()
    streams = [create_sse_stream() for _ in range(3)]
    one.register("a", streams[0])
    two.register("a", streams[1])
    two.register("b", streams[2])
    for number in range(50):
        (one if number % 2 else two).broadcast("a", "news", number)
    assert [said(stream) for stream in streams] == [list(range(50)), list(range(50)), []]


def test_what_a_bell_brings_twice_is_heard_once() -> None:
    bell, one, two = pair()
    stream = create_sse_stream()
    two.register("a", stream)
    bell.times = lambda topic, message: 3
    for number in range(5):
        one.broadcast("a", "news", number)
    assert said(stream) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("lost", [2, 5], ids=["in the middle", "the last"])
def test_what_a_bell_loses_is_told_to_who_asked(lost: int) -> None:
    bell, one, two = pair()
    stream, gaps = create_sse_stream(), list[str]()
    two.register("a", stream, missed=lambda: gaps.append("gap"))
    bell.times = lambda topic, message: int(topic != "broadcast" or message["number"] != lost)
    for number in range(1, 6):
        one.broadcast("a", "news", number)
    assert said(stream) == [number for number in range(1, 6) if number != lost]
    until(lambda: gaps)
    gevent.sleep(0.05)
    assert gaps == ["gap"]  # once


@pytest.mark.usefixtures("quick")
def test_nothing_is_missed_where_nothing_was_lost() -> None:
    _, one, two = pair()
    gaps: list[str] = []
    for number in range(3):
        one.broadcast("a", "before", number)
    two.register("a", create_sse_stream(), missed=lambda: gaps.append("gap"))
    for number in range(3):
        one.broadcast("b", "after", number)
    gevent.sleep(0.05)
    assert gaps == []


@pytest.mark.usefixtures("quick")
def test_connections_of_other_processes_count_until_they_end() -> None:
    _, one, two = pair()
    streams = {f"key {number}": create_sse_stream() for number in range(1000)}
    for key, stream in streams.items():
        two.register(key, stream)
    here = create_sse_stream()
    one.register("key 7", here)
    until(lambda: len(one.keys()) == 1000)
    assert (one.count("key 7"), one.count("key 8"), one.keys()) == (2, 1, sorted(streams))
    for key, stream in streams.items():
        if key != "key 9":
            stream.close()
    until(lambda: one.keys() == ["key 7", "key 9"])
    until(lambda: two.count("key 7") == 1)


@pytest.mark.usefixtures("quick")
def test_counts_of_which_a_part_was_lost_are_not_taken_for_all() -> None:
    bell, one, two = pair()
    for number in range(1000):
        two.register(f"key {number}", create_sse_stream())
    until(lambda: len(one.keys()) == 1000)
    bell.times = lambda topic, message: int(message.get("page") != 1)
    for number in range(1000):
        two.register(f"other key {number}", create_sse_stream())
    gevent.sleep(0.05)
    assert len(one.keys()) == 1000
    bell.times = lambda topic, message: 1
    until(lambda: len(one.keys()) == 2000)


@pytest.mark.usefixtures("quick")
def test_a_process_that_says_nothing_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    bell, one, two = pair()
    two.register("a", create_sse_stream())
    until(lambda: one.count("a") == 1)
    bell.times = lambda topic, message: 0
    monkeypatch.setattr(chatapp.connections, "FORGET_SECONDS", 0.05)
    until(lambda: one.count("a") == 0)
    assert one.keys() == []


@pytest.mark.usefixtures("quick")
def test_a_process_that_leaves_ends_its_streams_and_counts_no_more() -> None:
    _, one, two = pair()
    stream = create_sse_stream()
    two.register("a", stream)
    until(lambda: one.count("a") == 1)
    two.close()
    assert (stream.closed, one.count("a"), two.keys()) == (True, 0, [])


@pytest.mark.usefixtures("quick")
def test_a_process_without_connections_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatapp.connections, "FORGET_SECONDS", 0.05)
    _, one, two = pair()
    with create_sse_stream() as stream:
        two.register("a", stream)
        one.broadcast("a", "news", 1)
    until(lambda: two._greenlet is not None and two._greenlet.dead and one._greenlet.dead)  # type: ignore[union-attr]


@pytest.mark.parametrize("topic", ["broadcast", "connections"])
@pytest.mark.parametrize(
    "message",
    [
        {},
        {"process": 1, "key": "a", "event": "x", "data": "y", "number": 1},
        {"process": "p", "key": "a", "event": "x", "data": 5, "number": 1},
        {"process": "p", "key": "a", "event": "x", "data": "y", "number": "1"},
        {"process": "p", "counts": [], "page": 0, "number": 0},
        {"process": "p", "counts": {"a": 1}, "page": 3, "last": True, "number": None},
    ],
)
def test_rubbish_on_the_bell_counts_nothing(here: Connections, topic: str, message: dict[str, Any]) -> None:
    stream = create_sse_stream()
    here.register("a", stream)
    here._bell.tell(topic, message)
    assert (heard(stream), here.count("a"), here.keys()) == ([], 1, ["a"])
