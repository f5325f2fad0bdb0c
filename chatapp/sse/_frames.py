"""Server-sent events: Frame <-> bytes, both ways, exact (WHATWG HTML 9.2.5 and 9.2.6). Never a socket.

The encoder only writes what every browser reads alike: ids and names are single lines without NUL, and data is split at
every kind of newline. The parser is incremental: bytes go in as they come, cut anywhere; frames come out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NEWLINE = re.compile(r"\r\n|\r|\n")
MAX_LINE_BYTES = 1024 * 1024  # a longer line is an attack or a bug; without a cap it costs quadratic time


class LineTooLong(ValueError):
    """A line of the stream is longer than the parser takes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event; `retry` in milliseconds. A frame with neither data, id nor retry writes an empty event."""

    data: str = ""
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def encode(self, name: str | None = None) -> bytes:
        """Return the wire form, with the id *name* if it has none of its own.

        Raises ValueError if the id or the event's name holds a newline or NUL.
        """
        name = name if self.id is None else self.id
        head = f"retry: {self.retry:d}\n" if self.retry is not None else ""
        if name is not None:
            head += f"id: {single_line(name)}\n"
        if self.event is not None:
            head += f"event: {single_line(self.event)}\n"
        data = self.data
        if "\n" in data or "\r" in data:
            data = "\ndata: ".join(NEWLINE.split(data))
        return f"{head}data: {data}\n\n".encode()


def comment(text: str = "") -> bytes:
    """Return a comment line, which readers ignore: silence made audible."""
    return f": {single_line(text)}\n\n".encode() if text else b":\n\n"


def retry(milliseconds: int) -> bytes:
    """Return the field that tells a reader how long to wait before it comes back."""
    return b"retry: %d\n\n" % milliseconds


def single_line(value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("a newline or NUL in an event's id or name would change the stream")
    return value


class Parser:
    """Bytes in, frames out. `last_id` is the last event id, as a browser would send it when it comes back.

    An event that was not ended by a blank line is dropped, and its id does not count (WHATWG HTML 9.2.6).
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._max = max_line_bytes
        self._parts: list[bytes] = []  # the unfinished line; joined once, when its end comes
        self._size = 0
        self._after_cr = False
        self._first = True
        self._data: list[str] = []
        self._event: str | None = None
        self._id: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that *data* completes. Raises LineTooLong past the cap."""
        frames = []
        for line in self._lines(data):
            frame = self._line(line)
            if frame is not None:
                frames.append(frame)
        return frames

    def skip(self) -> bool:
        """Say whether whole events can be read past the parser now, and count the stream's beginning as read if so."""
        if self._size or self._data or self._event or self._after_cr:
            return False
        self._first = False
        return True

    def _lines(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]
        if not data:
            return []
        self._after_cr = data[-1:] == b"\r"
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        head, *rest = data.split(b"\n")
        if not rest:
            self._keep(head)
            return []
        self._keep(head)
        lines = [b"".join(self._parts), *rest[:-1]]
        if any(len(line) > self._max for line in rest):
            raise LineTooLong(f"a line is longer than {self._max} bytes")
        self._parts, self._size = [], 0
        self._keep(rest[-1])
        if self._first:
            self._first = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max:
            raise LineTooLong(f"a line is longer than {self._max} bytes")
        if part:
            self._parts.append(part)

    def _line(self, line: bytes) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value or None
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return None

    def _dispatch(self) -> Frame | None:
        self.last_id = self._id if self._id is not None else self.last_id
        frame = Frame("\n".join(self._data), self._event, self._id) if self._data else None
        self._data, self._event, self._id = [], None, None
        return frame
