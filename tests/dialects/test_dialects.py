"""Every dialect: the bytes that it writes, and the law of resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chatapp.dialects
from chatapp import registry
from chatapp.dialects import START, Context, Cursor, Dialect, frames, parse_cursor, wire
from chatapp.events import Event, load
from chatapp.sse import Frame, Parser
from tests.support import logs
from tests.support.logs import LOGS, entries

DIALECTS: dict[str, Dialect] = registry.load(chatapp.dialects)  # type: ignore[assignment]
CASES = sorted((Path(__file__).parent.parent / "data" / "dialects").glob("*/*.json"))
CONTEXT = Context(logs.MESSAGE, logs.CONVERSATION, "openai/echo", "chat-1")
PREFIX = "6f1c9a5233a14b9e8f0e0d8c1b7a4e21-"


def seen_in(data: bytes) -> tuple[list[Frame], str]:
    """Return what a browser would have dispatched, and the id that it would come back with."""
    parser = Parser()
    return parser.feed(data), parser.last_id


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("name", DIALECTS)
def test_a_stream_cut_at_any_byte_resumes_to_the_same_frames(name: str, log: str, prefix: str) -> None:
    dialect, told = DIALECTS[name], entries(LOGS[log])
    whole = wire(dialect, told, context=CONTEXT, prefix=prefix)
    expected, _ = seen_in(whole)
    for cut in range(len(whole) + 1):
        seen, last_id = seen_in(whole[:cut])
        cursor = parse_cursor(last_id) or START
        rest, _ = seen_in(wire(dialect, told, context=CONTEXT, cursor=cursor, prefix=prefix))
        assert seen + rest == expected


def test_the_control_a_cursor_that_is_ignored_breaks_the_law() -> None:
    dialect, told = DIALECTS["native"], entries(LOGS["plain"])
    whole = wire(dialect, told)
    expected, _ = seen_in(whole)
    half, _ = seen_in(whole[: len(whole) // 2])
    assert half + seen_in(wire(dialect, told))[0] != expected


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_can_begin_anywhere(name: str) -> None:
    told = entries(LOGS["finished"])
    whole = wire(DIALECTS[name], told, context=CONTEXT)
    for n in range(len(told) + 1):
        assert whole.endswith(wire(DIALECTS[name], told[n:], context=CONTEXT))


@pytest.mark.parametrize("name", DIALECTS)
def test_every_end_can_be_told(name: str) -> None:
    for events in LOGS.values():
        assert frames(DIALECTS[name], events[-1])


@pytest.mark.parametrize("name", DIALECTS)
def test_an_event_of_a_later_version_breaks_no_dialect(name: str) -> None:
    for kind in LOGS["finished"]:
        frames(DIALECTS[name], kind, CONTEXT)

    class Novel(Event):
        name = "novel"

    assert not frames(DIALECTS[name], Novel())


@pytest.mark.parametrize("name", DIALECTS)
def test_ids_grow_and_are_short_ascii(name: str) -> None:
    told = entries(LOGS["finished"])
    ids = [frame.id for frame in Parser().feed(wire(DIALECTS[name], told, context=CONTEXT, prefix=PREFIX))]
    cursors = [parse_cursor(one) for one in ids]
    assert all(one and one.isascii() and len(one) <= 40 for one in ids)
    assert len(set(ids)) == len(ids)
    assert [cursor.seq for cursor in cursors if cursor] == sorted(cursor.seq for cursor in cursors if cursor)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.parent.name}-{case.stem}" for case in CASES])
def test_the_wire_is_as_recorded(case: Path) -> None:
    """A case is a file: events in, wire bytes out. A bug report becomes a file."""
    told = json.loads(case.read_text())
    events = [load(event.pop("event"), event) for event in told["events"]]
    dialect, context = DIALECTS[case.parent.name], Context(**told.get("context", {}))
    assert wire(dialect, entries(events), context=context, prefix=told.get("prefix", "")).decode() == "".join(
        told["wire"]
    )


def test_every_dialect_has_a_recorded_case() -> None:
    assert {case.parent.name for case in CASES} == set(DIALECTS)


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("7", Cursor(7)),
        ("0", Cursor(0)),
        ("7.2", Cursor(7, 2)),
        (PREFIX + "7.1", Cursor(7, 1, PREFIX[:-1])),
        *[
            (rubbish, None)
            for rubbish in ("", "-1", "1,2", "7.0", "0.1", "07", "7.", "x", "1e3", " 7", "7\n", "7\0", "٧")
        ],
        ("1" + "0" * 30, None),
        ("9" * 8000, None),
        ("x-7", None),
        (None, None),
    ],
)
def test_a_cursor_is_read_strictly(text: str | None, cursor: Cursor | None) -> None:
    assert parse_cursor(text) == cursor


@given(st.text())
def test_rubbish_never_raises(text: str) -> None:
    cursor = parse_cursor(text)
    assert cursor is None or cursor.seq >= 0
