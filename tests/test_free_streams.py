"""Free streams: what is sent is what is read, in any reader; bounded, and ended for a reason."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatapp.sse import Frame, Parser, SSEStream, StreamClosed, comment, create_sse_stream, sse_response

ONE_LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
).filter(lambda value: not isinstance(value, str))


def read(stream: Iterable[bytes]) -> list[Frame]:
    """Return what a browser would make of a stream that ends."""
    return Parser().feed(b"".join(stream))


def sent(*events: dict[str, Any]) -> bytes:
    with create_sse_stream() as stream:
        for event in events:
            stream.send(**event)
    return b"".join(stream)


def by_our_own(wire: bytes) -> list[tuple[str, str]]:
    return [(frame.event or "message", frame.data) for frame in Parser().feed(wire)]


def by_sseclient(wire: bytes) -> list[tuple[str, str]]:
    sseclient = pytest.importorskip("sseclient")
    chunks = type("Chunks", (list,), {"close": lambda self: None})([wire])
    return [(event.event, event.data) for event in sseclient.SSEClient(chunks).events()]


def by_httpx(wire: bytes) -> list[tuple[str, str]]:
    httpx, httpx_sse = pytest.importorskip("httpx"), pytest.importorskip("httpx_sse")
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=wire)
    return [(event.event, event.data) for event in httpx_sse.EventSource(response).iter_sse()]


def by_python_lines(wire: bytes) -> list[tuple[str, str]]:
    """As `requests` gives lines of text, and as many a short script reads them: these end at U+2028 too."""
    lines = wire.decode().splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    return list(zip(names, (line.removeprefix("data: ") for line in lines if line.startswith("data: ")), strict=True))


READERS: list[Callable[[bytes], list[tuple[str, str]]]] = [by_our_own, by_python_lines, by_sseclient, by_httpx]


@pytest.mark.parametrize("reader", READERS)
def test_json_is_exact_in_every_reader(reader: Callable[[bytes], list[tuple[str, str]]]) -> None:
    @given(data=st.lists(JSON, min_size=1, max_size=3))
    @example(data=[["a\u2028b\u2029c\x85d\x1ee"]])
    @settings(max_examples=40)
    def check(data: list[Any]) -> None:
        heard = reader(sent(*({"event": "chunk", "data": one} for one in data)))
        assert [(name, json.loads(text)) for name, text in heard] == [("chunk", one) for one in data]

    assert reader(b"") == []  # or it is not installed
    check()


@given(data=TEXT, event=st.none() | ONE_LINE, id=st.none() | ONE_LINE)
def test_text_is_sent_as_it_is(data: str, event: str | None, id: str | None) -> None:
    lines = data.replace("\r\n", "\n").replace("\r", "\n")  # of a newline no reader learns which kind it was
    assert Parser().feed(sent({"data": data, "event": event, "id": id})) == [Frame(lines, event, id)]


def test_the_wire_form_is_the_one_in_the_books() -> None:
    wire = sent({"event": "message", "id": 1, "data": {"content": "Hello, world!"}}, {"event": "done", "data": {}})
    assert wire == (
        b'retry: 3000\nid: 1\nevent: message\ndata: {"content":"Hello, world!"}\n\nevent: done\ndata: {}\n\n'
    )
    assert sent({"retry": 250}, {"event": "done"}, {"data": None}) == (
        b"retry: 3000\nretry: 250\n\nevent: done\ndata: \n\ndata: null\n\n"
    )


@dataclass
class Point:
    x: int


def test_what_json_has_no_word_for_is_sent_as_its_plain_form() -> None:
    day, name = datetime(2026, 1, 2, tzinfo=UTC), uuid.UUID(int=7)
    [frame] = Parser().feed(sent({"data": {"day": day, "name": name, "point": Point(1), "big": 2**70}}))
    plain = {"day": "2026-01-02T00:00:00+00:00", "name": str(name), "point": {"x": 1}, "big": 2**70}
    assert json.loads(frame.data) == plain


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({}, ValueError),
        ({"id": "1"}, ValueError),
        ({"data": "x", "id": "a\0b"}, ValueError),
        ({"data": "x", "id": "a\nb"}, ValueError),
        ({"data": "x", "event": "a\r"}, ValueError),
        ({"data": "\ud800"}, ValueError),
        ({"data": ["\ud800"]}, ValueError),
        ({"data": "x", "event": "\udfff"}, ValueError),
        ({"data": float("nan")}, ValueError),
        ({"data": b"bytes"}, TypeError),
        ({"data": {1, 2}}, TypeError),
        ({"retry": -1}, ValueError),
        ({"retry": 1.5}, ValueError),
        ({"retry": True}, ValueError),
    ],
)
def test_what_cannot_be_sent_is_refused_and_the_stream_goes_on(wrong: dict[str, Any], error: type[Exception]) -> None:
    with create_sse_stream() as stream:
        with pytest.raises(error):
            stream.send(**wrong)
        stream.send(data="right")
    assert read(stream) == [Frame("right")]


def test_nothing_can_be_sent_after_the_end_and_a_second_end_does_nothing() -> None:
    ended: list[str | None] = []
    stream = create_sse_stream()
    stream.on_close(lambda one: ended.append(one.reason))
    stream.close()
    stream.close()
    with pytest.raises(StreamClosed, match="the stream was closed"):
        stream.send(data="x")
    stream.on_close(lambda one: ended.append("late"))
    assert (ended, stream.closed) == (["the stream was closed", "late"], True)


@pytest.mark.parametrize(
    ("room", "data"), [({"max_queued": 3}, "x"), ({"max_queued": 10**6, "max_queued_bytes": 3000}, "x" * 990)]
)
def test_a_reader_who_is_too_slow_ends_the_stream_and_gets_what_was_taken(room: dict[str, int], data: str) -> None:
    stream = create_sse_stream(**room)
    for _ in range(3):
        stream.send(data=data)
    with pytest.raises(StreamClosed) as closed:
        stream.send(data=data)
    assert closed.value.reason == stream.reason == "the reader is too slow"
    assert read(stream) == [Frame(data)] * 3


def test_a_sender_who_waits_is_slowed_to_the_pace_of_the_reader() -> None:
    stream = create_sse_stream(max_queued=2)

    def send() -> None:
        with stream:
            for number in range(500):
                stream.send(data=number, wait_seconds=20)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert [frame.data for frame in read(stream)] == [str(number) for number in range(500)]
    sender.join(10)
    assert stream.reason == "the stream was closed"


def test_a_sender_who_waited_in_vain_ends_the_stream_too() -> None:
    stream = create_sse_stream(max_queued=1)
    stream.send(data=1)
    with pytest.raises(StreamClosed, match="too slow"):
        stream.send(data=2, wait_seconds=0.01)


def test_a_reader_who_leaves_frees_a_sender_who_waits() -> None:
    stream = create_sse_stream(max_queued=1)
    stream.send(data=1)
    threading.Timer(0.05, stream.leave).start()
    with pytest.raises(StreamClosed, match="the reader left"):
        stream.send(data=2, wait_seconds=60)


def test_one_event_may_be_larger_than_all_the_room() -> None:
    with create_sse_stream(max_queued_bytes=10) as stream:
        stream.send(data="x" * 100)
    assert read(stream) == [Frame("x" * 100)]


def test_a_reader_who_leaves_ends_the_stream_and_what_waited_is_dropped() -> None:
    stream = create_sse_stream()
    reader = iter(stream)
    next(reader)
    stream.send(data="unread")
    reader.close()  # type: ignore[attr-defined]
    assert (stream.reason, len(stream._queue)) == ("the reader left", 0)
    with pytest.raises(StreamClosed, match="the reader left"):
        stream.send(data="x")


def test_a_second_reader_is_refused() -> None:
    stream = create_sse_stream()
    iter(stream)
    with pytest.raises(RuntimeError, match="one reader"):
        iter(stream)


@pytest.mark.parametrize(
    ("options", "heard"),
    [({}, comment()), ({"heartbeat_event": True}, b"event: heartbeat\ndata: {}\n\n")],
    ids=["comment", "event"],
)
def test_silence_is_made_audible(options: dict[str, Any], heard: bytes) -> None:
    stream = create_sse_stream(heartbeat_seconds=0.01, **options)
    reader = iter(stream)
    assert [next(reader) for _ in range(3)] == [b"retry: 3000\n", heard, heard]
    stream.close()
    assert list(reader) == []


def test_a_reader_who_waits_gets_an_event_at_once_and_the_end() -> None:
    stream = create_sse_stream(heartbeat_seconds=None)
    heard: list[bytes] = []
    came = threading.Semaphore(0)

    def listen() -> None:
        for block in stream:
            heard.append(block)
            came.release()

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    assert came.acquire(timeout=10)
    for number in range(100):
        stream.send(data=number)
        assert came.acquire(timeout=10)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert [frame.data for frame in Parser().feed(b"".join(heard))] == [str(number) for number in range(100)]


def test_what_many_send_at_once_all_arrives() -> None:
    stream = create_sse_stream(max_queued=10**6)

    def send(name: int) -> None:
        for number in range(200):
            stream.send(data=[name, number])

    senders = [threading.Thread(target=send, args=(name,)) for name in range(8)]
    for one in senders:
        one.start()
    reader, heard = iter(stream), b""
    while heard.count(b"data: ") < 8 * 200:
        heard += next(reader)
    for one in senders:
        one.join()
    stream.close()
    pairs = [json.loads(frame.data) for frame in Parser().feed(heard)]
    for name in range(8):
        assert [number for who, number in pairs if who == name] == list(range(200))


# as a response


def app_of(stream: SSEStream) -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: sse_response(stream))
    return app


def test_the_response_has_what_browsers_and_proxies_need() -> None:
    with create_sse_stream() as stream:
        stream.send(event="done", data={})
    with app_of(stream).test_client().get("/") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.data == b"retry: 3000\nevent: done\ndata: {}\n\n"


def test_a_response_that_is_not_read_ends_its_stream() -> None:
    stream = create_sse_stream()
    app_of(stream).test_client().head("/").close()
    assert stream.reason == "the reader left"


def test_a_large_event_is_written_in_pieces() -> None:
    with create_sse_stream(max_queued_bytes=10**7) as stream:
        stream.send(data="x" * 300_000)
    response: Iterator[bytes] = app_of(stream).test_client().get("/", buffered=False).response  # type: ignore[assignment]
    pieces = list(response)
    assert max(map(len, pieces)) <= 64 * 1024
    assert read(pieces) == [Frame("x" * 300_000)]
