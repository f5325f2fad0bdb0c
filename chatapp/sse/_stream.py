"""A free stream: somebody sends, one reader reads, and between them is a bounded queue.

It works where threads do, and so in gevent's greenlets too, once gevent has patched `threading`. Invariants: what `send`
has taken is read in that order, up to the end; a stream ends once, and says why; nobody waits but the reader, and a
sender that wants to.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition
from types import TracebackType
from typing import Any

import orjson

from chatapp.sse._frames import Frame, comment, retry

RETRY_MS = 3000
HEARTBEAT_SECONDS = 15.0  # WHATWG HTML 9.2.7
MAX_QUEUED = 1000  # events that a reader may be behind
MAX_QUEUED_BYTES = 1024 * 1024
CLOSED, LEFT, FULL = "the stream was closed", "the reader left", "the reader is too slow"
NOTHING: Any = object()  # where no data is given: None is data, and is sent as null
# these end a line for some readers, which follow Python's splitlines; within JSON, they can be written in another way
ESCAPED = str.maketrans({char: f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"})


class StreamClosed(Exception):
    """Nothing can be sent any more; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Nothing was sent: {reason}.")


class SSEStream:
    """A stream with one reader, who iterates over it and gets bytes; `sse_response` makes a response of it.

    First comes `retry:`, in silence a comment. A reader who falls behind by more than *max_queued* events or
    *max_queued_bytes* ends the stream: it gets what was taken until then, and the sender learns it.
    """

    def __init__(
        self,
        *,
        retry: int | None = RETRY_MS,
        heartbeat_seconds: float | None = HEARTBEAT_SECONDS,
        heartbeat_event: bool = False,
        max_queued: int = MAX_QUEUED,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        """*heartbeat_event* makes a heartbeat an event of that name, which a page can hear; None is no heartbeat."""
        # no blank line follows: some readers take one for an event without data
        self._opening = b"" if retry is None else encoded(retry=retry).removesuffix(b"\n")
        self._heartbeat_seconds = heartbeat_seconds
        self._heartbeat = encoded(event="heartbeat", data={}) if heartbeat_event else comment()
        self._max_queued, self._max_bytes = max_queued, max_queued_bytes
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._changed = Condition()
        self._reason: str | None = None
        self._has_reader = False
        self._on_close: dict[Callable[[SSEStream], object], None] = {}

    # for the sender

    def send(
        self,
        *,
        event: str | None = None,
        data: Any = NOTHING,
        id: str | int | None = None,
        retry: int | None = None,
        wait_seconds: float = 0.0,
    ) -> None:
        """Queue one event, for the reader to take; wait at most *wait_seconds* for room.

        Text is sent as it is, anything else as JSON. *retry* alone tells the reader how many milliseconds to wait before
        it comes back. Raises StreamClosed where nobody will read it; ValueError, TypeError for what cannot be sent.
        """
        block = encoded(event=event, data=data, id=id, retry=retry)
        with self._changed:
            if wait_seconds:
                self._changed.wait_for(lambda: self._reason is not None or not self._is_full(block), wait_seconds)
            if self._reason is None and not self._is_full(block):
                self._queue.append(block)
                self._bytes += len(block)
                self._changed.notify_all()
                return
        self._end(FULL)  # unless it has ended before
        raise StreamClosed(self._reason or FULL)

    def close(self) -> None:
        """End the stream after what was sent; a second time does nothing."""
        self._end(CLOSED)

    @property
    def closed(self) -> bool:
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why the stream ended; None while it has not."""
        return self._reason

    def on_close(self, act: Callable[[SSEStream], object]) -> None:
        """Call *act* with the stream when it ends, once; now, if it has ended."""
        with self._changed:
            if self._reason is None:
                self._on_close[act] = None
                return
        act(self)

    def __enter__(self) -> SSEStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # for the reader

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks of whole events until the end; a reader that stops early has left.

        Raises RuntimeError for a second reader.
        """
        with self._changed:
            if self._has_reader:
                raise RuntimeError("A stream has one reader: two would each get a part of it.")
            self._has_reader = True
        return self._blocks()

    def leave(self) -> None:
        """Say that nobody reads any more: what waits is dropped, and the sender learns it."""
        self._end(LEFT)
        with self._changed:
            self._queue.clear()
            self._bytes = 0

    def _blocks(self) -> Iterator[bytes]:
        try:
            if self._opening:
                yield self._opening
            while block := self._next():
                yield block
        finally:
            self.leave()

    def _next(self) -> bytes:
        """Return what waits, or a heartbeat after a silence, or nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._reason, self._heartbeat_seconds)
            block = b"".join(self._queue)
            if block:
                self._queue.clear()
                self._bytes = 0
                self._changed.notify_all()
            if block or self._reason:
                return block
        return self._heartbeat

    def _is_full(self, block: bytes) -> bool:
        # one that is larger than all the room is taken where nothing else waits, or it could never be sent
        return len(self._queue) >= self._max_queued or (
            bool(self._queue) and self._bytes + len(block) > self._max_bytes
        )

    def _end(self, reason: str) -> None:
        with self._changed:
            if self._reason is not None:
                return
            self._reason = reason
            acts, self._on_close = list(self._on_close), {}
            self._changed.notify_all()
        for act in acts:
            act(self)


def create_sse_stream(**options: Any) -> SSEStream:
    """Return a new stream; *options* are those of `SSEStream`."""
    return SSEStream(**options)


def encoded(
    *, event: str | None = None, data: Any = NOTHING, id: str | int | None = None, retry: int | None = None
) -> bytes:
    """Return the bytes of one event. Raises ValueError, TypeError for what cannot be sent."""
    if retry is not None and (type(retry) is not int or retry < 0):
        raise ValueError(f"retry is a whole number of milliseconds, not {retry!r}")
    if data is NOTHING and event is None:
        if id is not None:
            raise ValueError("an id without data moves the place to resume from in some browsers only")
        if retry is None:
            raise ValueError("there is nothing to send")
        return retry_field(retry)
    frame = Frame("" if data is NOTHING else text_of(data), event, None if id is None else str(id), retry)
    try:
        return frame.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair cannot be sent") from error


retry_field = retry  # `retry` is an argument's name here


def text_of(data: Any) -> str:
    """Return *data* as an event carries it: text as it is, anything else as JSON. Raises TypeError, ValueError."""
    if isinstance(data, str):
        return data
    text = JSON.encode(data)
    return text if text.isascii() else text.translate(ESCAPED)


def plain(value: Any) -> Any:
    """Return what JSON has for a date, a UUID, a dataclass. Raises TypeError for what it has nothing for."""
    return orjson.loads(orjson.dumps(value))


JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain)
