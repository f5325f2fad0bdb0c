"""Frame <-> bytes: exact for any data, cut anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapp import sse
from chatapp.sse import Frame, LineTooLong, Parser

ONE_LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def parse(data: bytes, size: int = 0) -> list[Frame]:
    parser = Parser()
    size = size or max(len(data), 1)
    return [frame for start in range(0, len(data), size) for frame in parser.feed(data[start : start + size])]


@given(data=TEXT, event=st.none() | ONE_LINE, id=st.none() | ONE_LINE, size=st.integers(1, 16))
def test_a_frame_comes_back_as_it_was_written(data: str, event: str | None, id: str | None, size: int) -> None:
    frame = Frame(data, event, id)
    normal = data.replace("\r\n", "\n").replace("\r", "\n")  # a newline of any kind is one line more
    assert parse(frame.encode(), size) == [Frame(normal, event, id)]


@given(text=TEXT)
def test_json_in_data_is_exact_for_any_text(text: str) -> None:
    [frame] = parse(Frame(json.dumps({"content": text})).encode())
    assert json.loads(frame.data) == {"content": text}


@pytest.mark.parametrize("size", range(1, 17))
@pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"])
def test_a_stream_reads_alike_however_it_is_cut(size: int, newline: bytes) -> None:
    lines = [
        "\ufeff: hello",
        "id: 7",
        "event: token",
        "data: grün 🦊",
        "data:",
        "data:  x",
        "",
        "data: y",
        "",
        "data: cut",
    ]
    assert parse(newline.join(line.encode() for line in lines), size) == [
        Frame("grün 🦊\n\n x", "token", "7"),
        Frame("y"),
    ]


@pytest.mark.parametrize(
    ("wire", "frames"),
    [
        (b"data\n\n", [Frame("")]),
        (b"data:\n\n", [Frame("")]),
        (b"event: x\n\n", []),
        (b"id: 1\n\n", []),
        (b":comment\n\n", []),
        (b"Data: x\n\n", []),
        (b"data: a\nid: \0\n\n", [Frame("a")]),
        (b"unknown: x\ndata: a\n\n", [Frame("a")]),
        (b"data: a", []),
        (b"data: \xff\n\n", [Frame("\ufffd")]),
    ],
)
def test_odd_lines_read_as_the_standard_says(wire: bytes, frames: list[Frame]) -> None:
    assert parse(wire) == frames


def test_the_last_id_is_that_of_whole_events_only() -> None:
    parser = Parser()
    parser.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")
    assert parser.last_id == "1"
    parser.feed(b"\n")
    assert parser.last_id == "2"


def test_a_retry_is_read_only_as_digits() -> None:
    parser = Parser()
    parser.feed(b"retry: 12x\nretry: -5\n\n")
    assert parser.retry is None
    parser.feed(sse.retry(3000))
    assert parser.retry == 3000


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_an_id_or_a_name_cannot_smuggle_a_line_in(value: str) -> None:
    with pytest.raises(ValueError, match="newline or NUL"):
        Frame("x", event=value).encode()
    with pytest.raises(ValueError, match="newline or NUL"):
        Frame("x", id=value).encode()
    with pytest.raises(ValueError, match="newline or NUL"):
        sse.comment(value)


@pytest.mark.parametrize("size", [1 << 20, 1000])
def test_an_endless_line_is_refused_at_the_cap(size: int) -> None:
    parser = Parser(max_line_bytes=100_000)

    def feed() -> None:
        for _ in range(200_000_000 // size):
            parser.feed(b"x" * size)

    with pytest.raises(LineTooLong):
        feed()
    assert sum(len(part) for part in parser._parts) <= 100_000


def test_a_comment_is_no_event() -> None:
    assert parse(sse.comment() + sse.comment("still here")) == []
