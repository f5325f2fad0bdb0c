"""Bodies that arrive too slowly: gunicorn's gevent worker would wait for one for ever, a greenlet and a connection each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent

from chatapp.errors import ValidationFailed

BYTES_PER_SECOND = 100_000  # what a line must bring at least, once the first seconds are over
TOO_SLOW = "The body of the request did not arrive in time."
Application = Callable[..., Iterable[bytes]]


class Deadline:
    """A WSGI application whose requests have to bring their bodies within *seconds*, and one more per 100 kB."""

    def __init__(self, application: Application, seconds: float) -> None:
        self.application, self.seconds = application, seconds

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        if length != "0" or "HTTP_TRANSFER_ENCODING" in environ:
            more = int(length) / BYTES_PER_SECOND if length.isdecimal() else 0.0
            environ["wsgi.input"] = Body(environ["wsgi.input"], time.monotonic() + self.seconds + more)
        return self.application(environ, start_response)


class Body:
    """A request's input that raises ValidationFailed once its time is over."""

    def __init__(self, stream: Any, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def _read(self, read: Callable[..., Any], *args: Any) -> Any:
        left = max(0.001, self._deadline - time.monotonic())
        with gevent.Timeout(left, ValidationFailed(TOO_SLOW)):
            return read(*args)

    def read(self, *args: Any) -> Any:
        return self._read(self._stream.read, *args)

    def readline(self, *args: Any) -> Any:
        return self._read(self._stream.readline, *args)

    def readlines(self, *args: Any) -> Any:
        return self._read(self._stream.readlines, *args)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line
