"""Streams that are watched from outside: what came, and when."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

from urllib3.exceptions import HTTPError

from chatapp import sse
from tests.support.site import Client


def text_of(frames: Iterable[sse.Frame]) -> str:
    return "".join(json.loads(frame.data)["content"] for frame in frames if frame.event == "token")


def whole_text(number: int) -> str:
    """Return what the model `count-NUMBER` answers."""
    return " ".join(map(str, range(1, number + 1)))


class Watched:
    """A stream that is read in a thread; comments count as something that came."""

    def __init__(self, client: Client, path: str) -> None:
        self.frames: list[sse.Frame] = []
        self.ended = False
        self._times: list[float] = []
        self._token_times: list[float] = []
        self._client = Client(client.url)
        self._client.http.headers.update(client.http.headers)
        self._response: Any = None
        self._closing = False
        self._thread = threading.Thread(target=self._read, args=(path,), daemon=True)
        self._thread.start()

    def _read(self, path: str) -> None:
        parser = sse.Parser()
        with suppress(OSError, HTTPError):  # a connection that breaks is an end too; requests' errors are OSErrors
            self._response = self._client.http.get(self._client.url + path, stream=True, timeout=60)
            while not self._closing and (data := self._response.raw.read1(65536)):
                self._times.append(time.monotonic())
                came = parser.feed(data)
                self.frames += came
                if any(frame.event == "token" for frame in came):
                    self._token_times.append(time.monotonic())
        self._times.append(time.monotonic())
        self.ended = True
        if self._response is not None:
            self._response.close()

    @property
    def blocks(self) -> int:
        return len(self._times)

    def longest_gap(self) -> float:
        """Return the longest time in which nothing came, no comment either."""
        return max((b - a for a, b in pairwise(self._times)), default=0.0)

    def longest_pause(self) -> float:
        """Return the longest time between two tokens."""
        return max((b - a for a, b in pairwise(self._token_times)), default=0.0)

    def pauses(self, seconds: float = 1.0) -> bool:
        """Say whether no token came for a while."""
        return bool(self._token_times) and time.monotonic() - self._token_times[-1] > seconds

    def text(self) -> str:
        return text_of(list(self.frames))

    def close(self) -> None:
        """Leave at the next thing that comes."""
        self._closing = True
        self._thread.join(5)
