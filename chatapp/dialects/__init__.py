"""One wire format a file: event -> frames. Never I/O or a clock.

A member module has `COUNTS`, which says whether its encoder must be fed the log from the start, and a class `Encoder` with
`frames(event)`. Ids are given here: the id of an event's last frame is the event's seq, those before it are `7.1`, `7.2`, so
that a reader cut off between two frames of one event resumes exactly there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
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


class Encoder(Protocol):
    """May also have `token(name, event) -> bytes`: the wire form of a token's one frame with that id, made in one step."""

    def frames(self, event: Event) -> Sequence[Frame]:
        """Return the event's frames, without ids; none where the format has no place for the event."""
        ...


class Dialect(Protocol):
    """A member module of this folder."""

    COUNTS: bool
    Encoder: type[Encoder]


def parse_cursor(text: str | None) -> Cursor | None:
    """Return the cursor that a `Last-Event-ID` names, None for none and for rubbish."""
    match = CURSOR.fullmatch(text or "")
    if match is None:
        return None
    generation, seq, part = match.groups()
    cursor = Cursor(int(seq), int(part or 0), generation)
    return cursor if cursor.seq or not cursor.part else None


def wire(encoder: Encoder, entries: Iterable[Entry], *, cursor: Cursor = START, prefix: str = "") -> bytes:
    """Return the bytes of the entries' frames past *cursor*, each with its id, which begins with *prefix*."""
    blocks: list[bytes] = []
    token = getattr(encoder, "token", None)
    for seq, event in entries:
        if token is not None and type(event) is Token and seq > cursor.seq:
            blocks.append(token(f"{prefix}{seq}", event))
            continue
        parts = encoder.frames(event)
        if len(parts) == 1 and seq > cursor.seq:  # nearly all
            blocks.append(parts[0].encode(f"{prefix}{seq}"))
        else:
            blocks += inner(parts, seq, cursor=cursor, prefix=prefix)
    return b"".join(blocks)


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
