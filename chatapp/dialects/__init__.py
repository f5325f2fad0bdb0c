"""One wire format a file: event -> frames. Never I/O or a clock.

A member module is a table, `FRAMES`: for each type of event a function of the `Context` and the event that yields frames. An
event that is not in it has no place in that format. Ids are given here: the id of an event's last frame is the event's seq,
those before it are `7.1`, `7.2`, so that a reader cut off between two frames of one event resumes exactly there.

A member may also have `token_bytes(name, event, context) -> bytes`, the wire form of a token's one frame with the id *name*,
made in one step; and `reset(answer, cursor) -> Frame`, for a reader whose cursor cannot be honoured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from chatapp.events import Entry, Event, Token
from chatapp.sse import Frame

# generation (32 hex digits), seq and part; anything else is rubbish, and rubbish means "from the start"
CURSOR = re.compile(r"(?:([0-9a-f]{32})-)?(0|[1-9][0-9]{0,17})(?:\.([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last frame that a reader has seen; part 0 means the whole event."""

    seq: int = 0
    part: int = 0
    generation: str | None = None

    @property
    def after(self) -> int:
        """Return the seq of the last event that was seen whole."""
        return self.seq - 1 if self.part else self.seq

    def covers(self, seq: int, part: int) -> bool:
        """Say whether the frame *part* of event *seq* was seen; part 0 is the event's last frame."""
        if seq != self.seq:
            return seq < self.seq
        return not self.part or (0 < part <= self.part)


START = Cursor()


@dataclass(frozen=True, slots=True)
class Context:
    """What a stream knows of its answer before the first event, so that no format has to remember anything.

    `message` is the answer's id; `reference` is what the client calls the conversation, as it was given.
    """

    message: str = ""
    conversation: str | None = None
    model: str = ""
    reference: str | int | None = None


NOTHING = Context()
Table = Mapping[type[Event], Callable[[Context, Any], Iterable[Frame]]]


class Dialect(Protocol):
    """A member module of this folder."""

    FRAMES: Table


def parse_cursor(text: str | None) -> Cursor | None:
    """Return the cursor that a `Last-Event-ID` names, None for none and for rubbish."""
    match = CURSOR.fullmatch(text or "")
    if match is None:
        return None
    generation, seq, part = match.groups()
    cursor = Cursor(int(seq), int(part or 0), generation)
    return cursor if cursor.seq or not cursor.part else None


def wire(
    dialect: Dialect, entries: Iterable[Entry], *, context: Context = NOTHING, cursor: Cursor = START, prefix: str = ""
) -> bytes:
    """Return the bytes of the entries' frames past *cursor*, each with its id, which begins with *prefix*."""
    blocks: list[bytes] = []
    token = getattr(dialect, "token_bytes", None)
    for seq, event in entries:
        if token is not None and type(event) is Token and seq > cursor.seq:
            blocks.append(token(f"{prefix}{seq}", event, context))
            continue
        parts = frames(dialect, event, context)
        if len(parts) == 1 and seq > cursor.seq:  # nearly all
            blocks.append(parts[0].encode(f"{prefix}{seq}"))
        else:
            blocks += inner(parts, seq, cursor=cursor, prefix=prefix)
    return b"".join(blocks)


def frames(dialect: Dialect, event: Event, context: Context = NOTHING) -> Sequence[Frame]:
    """Return the event's frames, without ids; none where the format has no place for the event."""
    encode = dialect.FRAMES.get(type(event))
    return tuple(encode(context, event)) if encode else ()


def inner(parts: Sequence[Frame], seq: int, *, cursor: Cursor, prefix: str) -> Iterator[bytes]:
    """Yield the bytes of an event's frames past *cursor*; ids of all but the last have a part."""
    for number, frame in enumerate(parts, 1):
        part = number if number < len(parts) else 0
        if not cursor.covers(seq, part):
            yield frame.encode(f"{prefix}{seq}.{part}" if part else f"{prefix}{seq}")


def json_text(value: Any) -> str:
    """Return *value* as JSON on one line, which is what keeps `data:` exact whatever the text holds."""
    return json_bytes(value).decode()


def json_bytes(value: Any) -> bytes:
    """As `json_text`, in UTF-8."""
    return orjson.dumps(value)


def by_name(name: str, **data: Any) -> Frame:
    """Return a frame with an event's name."""
    return Frame(json_text(data), name)


def by_type(kind: str, **data: Any) -> Frame:
    """Return a frame without a name, whose data tells by `type` what it is."""
    return Frame(json_text({"type": kind, **data}))
