"""A reader over a bare socket, who is cut off at any byte and comes back with the id of the last whole event."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.site import Client

ENDS = {"done", "fail", "error"}
LEAST_BUDGET = 600  # bytes: a head is some 350, an event some 70
PATIENCE, HOPELESS = 6, 26  # connections in a row that may bring nothing
TIMEOUT_SECONDS = 30
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST

STREAMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "native": lambda started: f"/api/generations/{started['generationId']}/events",
    "session": lambda started: f"/api/chat/stream?sessionId={started['sessionId']}",
    "named": lambda started: f"/api/chat/conversations/{started['conversationId']}/stream",
}


class Frame(NamedTuple):
    id: str
    event: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def kind(self) -> str:
        return self.event or str(self.json.get("type"))

    @property
    def text(self) -> str:
        return str(self.json["content"]) if self.kind in ("token", "chunk") else ""


class Wire:
    """The bytes of one response, as far as they came."""

    def __init__(self) -> None:
        self.status = 0
        self.whole = False  # the last chunk came
        self.retries: list[int] = []  # ms
        self._head = b""
        self._raw = b""
        self._left = 0  # of the chunk that is being read, its CRLF included
        self._text = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that are whole now."""
        if not self.status:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return []
            self.status = int(head.split()[1])
            self.headers = head.decode("latin-1").lower()
            self.whole = self.status == 204
        self._raw += data
        self._dechunk()
        *blocks, self._text = self._text.split(b"\n\n")
        fields = [dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line) for block in blocks]
        self.retries += [int(found["retry"]) for found in fields if "retry" in found]
        return [
            Frame(found.get("id", ""), found.get("event", ""), found["data"]) for found in fields if "data" in found
        ]

    def _dechunk(self) -> None:
        while self._raw:
            if self._left > 2:
                taken = self._raw[: self._left - 2]
                self._text += taken
                self._raw, self._left = self._raw[len(taken) :], self._left - len(taken)
            elif self._left:
                taken = self._raw[: self._left]
                self._raw, self._left = self._raw[len(taken) :], self._left - len(taken)
            else:
                size, end, rest = self._raw.partition(b"\r\n")
                if not end:
                    return
                self._raw, self._left = rest, int(size, 16) + 2
                self.whole = self.whole or size == b"0"


@dataclass
class Reader:
    """One reader of one answer. `frames` is all that was shown, in order; `times` is when."""

    address: tuple[str, int]
    path: str
    bearer: str
    frames: list[Frame] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    notes: list[Frame] = field(default_factory=list)  # events without an id: why the stream ended early
    statuses: list[int] = field(default_factory=list)
    last_id: str = ""
    connections: int = 0
    refused: int = 0  # nobody listened, or it was reset
    ended: bool = False
    connect: Callable[[], socket.socket] | None = None  # another way to get a connection
    port: int = 0  # our end of the newest connection
    last: Wire = field(default_factory=Wire)  # what came by it

    @classmethod
    def of(cls, client: Client, path: str) -> Reader:
        url = urlsplit(client.url)
        assert url.hostname
        assert url.port
        return cls((url.hostname, url.port), path, str(client.http.headers.get("Authorization", "")))

    def open_quietly(self) -> socket.socket:
        """Return a connection on which nothing was said yet."""
        raw = self.connect() if self.connect else socket.create_connection(self.address, timeout=TIMEOUT_SECONDS)
        self.port = raw.getsockname()[1]
        return raw

    def open(self) -> socket.socket:
        raw = self.open_quietly()
        cursor = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
        try:
            raw.sendall(f"GET {self.path} HTTP/1.1\r\nHost: x\r\nAuthorization: {self.bearer}\r\n{cursor}\r\n".encode())
        except OSError:  # who took the connection was killed
            raw.close()
            raise
        return raw

    def read(self, budget: int | None = None, *, reset: bool = False, until: float = float("inf")) -> None:
        """Read one connection: to its end, or for *budget* bytes, head and framing included, or until that time."""
        self.connections += 1
        left, wire = budget, Wire()
        try:
            with closing(self.open()) as raw:
                while (left is None or left > 0) and not wire.whole and time.monotonic() < until:
                    data = raw.recv(65536 if left is None else min(left, 65536))
                    if not data:
                        break
                    left = None if left is None else left - len(data)
                    self.take(wire.feed(data))
                if reset:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            self.refused += 1
        self.last = wire
        if wire.status:
            self.statuses.append(wire.status)
        if wire.status == 204:
            self.ended = True

    def take(self, frames: list[Frame]) -> None:
        now = time.monotonic()
        for frame in frames:
            if not frame.id:
                self.notes.append(frame)
                continue
            self.frames.append(frame)
            self.times.append(now)
            self.last_id = frame.id
            self.ended = self.ended or frame.kind in ENDS

    def read_in_pieces(self, dice: random.Random, most_cuts: int | None = None) -> int:
        """Read to the end, cut off at random bytes; return how often. One who gets no further is allowed more and more:
        the last event is as long as the answer.
        """
        cuts = fruitless = 0
        while not self.ended and fruitless < HOPELESS and (most_cuts is None or cuts < most_cuts):
            had = self.last_id
            self.read(dice.randrange(1, LEAST_BUDGET << max(0, fruitless - PATIENCE)), reset=dice.random() < 0.3)
            cuts += not self.ended
            fruitless = 0 if self.last_id != had else fruitless + 1
        return cuts

    def read_to_end(self, seconds: float, pause: float = 0.05) -> None:
        """Read until the answer has ended; come back, after *pause*, each time the connection does not last."""
        deadline = time.monotonic() + seconds
        while not self.ended and time.monotonic() < deadline:
            self.read(until=deadline)
            if not self.ended:
                time.sleep(pause)

    @property
    def text(self) -> str:
        return "".join(frame.text for frame in self.frames)

    def first_after(self, moment: float) -> float | None:
        """Return how many seconds after *moment* the next event came; None if none did."""
        return next((came - moment for came in self.times if came > moment), None)

    def longest_gap(self) -> float:
        return max((b - a for a, b in zip(self.times, self.times[1:], strict=False)), default=0.0)

    def faults(self) -> list[str]:
        """Return what is wrong with the ids of a native stream: they are dense from 1, each once."""
        return [f"{frame.id} in place of {n}" for n, frame in enumerate(self.frames, 1) if frame.id != str(n)][:3]
