"""A model's stream: bytes as they come -> lists of pieces, one for each read, cut anywhere.

A format takes bytes and gives the payloads that they complete; a decoder, one for each API, gives a payload's pieces.
The last piece is End, made of the protocol's own end mark: a connection that closes before it cannot be told from one
that broke, so that answer is interrupted. What came before a fault is given before the fault is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import orjson
import requests

from chatapp import sse
from chatapp.errors import AnswerTooLarge, ProviderError
from chatapp.events import Usage
from chatapp.providers import End, Piece, _body, _failures, _http
from chatapp.providers._http import Api

PLAIN = b"data: "
MAX_CUT_BYTES = 64 * 1024
MAX_UNFINISHED_BYTES = 4 * sse.MAX_LINE_BYTES  # of events without an end, or of comments between two events


class Unreadable(ValueError):
    """A payload is not what the API's documentation says."""


class Format(Protocol):
    content_types: tuple[str, ...]

    def feed(self, data: bytes) -> Iterable[str | bytes]: ...


class Lines:
    """Newline-delimited JSON: a payload is a line. Any kind of newline ends it, since none stands raw in JSON."""

    content_types = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/json")
    end = b"\n"

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the unfinished line; joined once, when its end comes
        self._size = 0
        self._first = True

    def feed(self, data: bytes) -> list[str | bytes]:
        """Return the lines that *data* completes, without empty ones. Raises LineTooLong past the cap."""
        *ends, rest = data.replace(b"\r", b"\n").split(b"\n")
        lines: list[str | bytes] = []
        for part in ends:
            self._keep(part)
            line = b"".join(self._parts)
            self._parts, self._size = [], 0
            if self._first:
                self._first, line = False, line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                lines.append(line)
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > sse.MAX_LINE_BYTES:
            raise sse.LineTooLong
        if part:
            self._parts.append(part)


class Events:
    """Server-sent events: a payload is an event's data."""

    content_types = ("text/event-stream",)
    end = b"\n\n"

    def __init__(self) -> None:
        self._parser = sse.Parser()
        self._cut = b""  # the beginning of a plain event
        self._unfinished = 0

    def feed(self, data: bytes) -> list[str | bytes]:
        """Return the payloads that *data* completes. Raises LineTooLong past the caps."""
        size = len(data)
        payloads, rest = self._plain(self._cut + data)
        if not rest or (
            len(rest) < MAX_CUT_BYTES and rest.startswith(PLAIN) and b"\n" not in rest and b"\r" not in rest
        ):
            self._cut = rest
        else:
            self._cut = b""
            payloads += [frame.data for frame in self._parser.feed(rest)]
        self._unfinished = 0 if payloads else self._unfinished + size
        if self._unfinished > MAX_UNFINISHED_BYTES:
            raise sse.LineTooLong
        return payloads

    def _plain(self, data: bytes) -> tuple[list[str | bytes], bytes]:
        """Return the payloads of whole events that are one line of data each, as nearly all are, and what follows them."""
        end = data.rfind(b"\n\n")
        if end < 0 or not data.startswith(PLAIN) or not self._parser.skip():
            return [], data
        payloads: list[str | bytes] = list(data[len(PLAIN) : end].split(b"\n\n" + PLAIN))
        if data.count(b"\n", 0, end) != 2 * len(payloads) - 2 or data.find(b"\r", 0, end) >= 0:
            return [], data
        return payloads, data[end + 2 :]


class Reader:
    """Bytes in, pieces out, up to End or the first fault, which `failure` holds then."""

    def __init__(
        self, api: Api, stream_format: Lines | Events, decode: Callable[[str | bytes], Iterable[Piece]], max_bytes: int
    ) -> None:
        self.ended = False
        self.failure: ProviderError | None = None
        self.unreadable = False
        self.content_types = stream_format.content_types
        self._api = api
        self._format = stream_format
        self._decode = decode
        self._left = max_bytes

    def read(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        try:
            for payload in self._format.feed(data):
                for piece in self._decode(payload):
                    if type(piece) is End:
                        self.ended = True
                        return [*pieces, piece]
                    if type(piece) is not Usage:
                        content: str = piece.content  # type: ignore[union-attr]
                        self._left -= len(content) if content.isascii() else len(content.encode())
                        if self._left < 0:
                            raise self._too_large()
                    pieces.append(piece)
        except ProviderError as failure:
            self.failure = failure
        except sse.LineTooLong:
            self.failure = self._too_large()
        except Unreadable:
            self.unreadable = True
            self.failure = _http.unreadable(self._api)
        return pieces

    def last(self) -> list[Piece]:
        """Return what an ended body holds without its newline, which some servers forget at the end."""
        pieces = self.read(self._format.end)
        if self.unreadable:
            self.failure = None  # it broke off inside a payload
        return pieces

    def _too_large(self) -> AnswerTooLarge:
        return AnswerTooLarge(f"{self._api.title} sent more than this site takes for one answer.", retryable=False)


class Asked:
    """An iterator over what each read of a model's answer brings; it asks once, at the first step.

    After that it may be polled, if `poll_descriptor` gives a descriptor to watch. Either way the last list ends with End,
    and what came before a fault is given before the fault is raised. It is closed by any way out, and by `close`.
    """

    def __init__(self, call: AbstractContextManager[requests.Response], reader: Reader, api: Api, model: str) -> None:
        self._call = call
        self._reader = reader
        self._api = api
        self._model = model
        self._opened = self._ended = False
        self._body: _body.Body | None = None
        self._blocks: Iterator[bytes] = iter(())

    def __iter__(self) -> Iterator[list[Piece]]:
        return self

    def __next__(self) -> list[Piece]:
        try:
            if not self._opened:
                self._open()
            while True:
                self._raise_what_is_left()
                time.sleep(0)  # lets others run: a read that never has to wait never gives way
                pieces = self._pieces(self._wait())
                if pieces:
                    return pieces
        except BaseException:
            self.close()
            raise

    def poll_descriptor(self) -> int | None:
        """Return the descriptor that is readable when `poll` brings something; None where only iterating does."""
        return self._body.fileno() if self._body is not None else None

    def poll(self) -> list[Piece]:
        """Return what one read brings now, an empty list for nothing. Never waits; raises as iterating does."""
        assert self._body is not None
        self._raise_what_is_left()
        try:
            block = self._body.poll()
        except (OSError, _body.Broken) as error:
            raise _http.interrupted(self._api) from error
        return [] if block == b"" else self._pieces(block)

    @property
    def more(self) -> bool:
        """Whether the next `poll` raises, though nothing more is to be read."""
        return self._ended or self._reader.failure is not None

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        if self._opened:
            self._opened, self._body = False, None
            self._call.__exit__(None, None, None)
        self._ended = True

    def __del__(self) -> None:
        self.close()

    def _open(self) -> None:
        if self._ended:
            raise StopIteration
        response = self._call.__enter__()
        self._opened = True
        check_type(self._api, response, self._reader.content_types, self._model)
        self._body = _body.of(response)
        if self._body is None:
            self._blocks = _http.blocks(self._api, response)

    def _wait(self) -> bytes | None:
        """Return the next block, None at the end. Raises ProviderError."""
        if self._body is None:
            return next(self._blocks, None)
        try:
            return self._body.wait()
        except TimeoutError as error:
            raise _http.silent(self._api) from error
        except (OSError, _body.Broken) as error:
            raise _http.interrupted(self._api) from error

    def _pieces(self, block: bytes | None) -> list[Piece]:
        if block is not None:
            return self._reader.read(block)
        self._ended = True
        return self._reader.last()

    def _raise_what_is_left(self) -> None:
        reader = self._reader
        if reader.failure:
            raise reader.failure
        if reader.ended:
            raise StopIteration
        if self._ended:
            raise _http.interrupted(self._api)


def ask(
    api: Api,
    path: str,
    body: dict[str, Any],
    *,
    model: str,
    stream_format: Lines | Events,
    decode: Callable[[str | bytes], Iterable[Piece]],
    max_bytes: int,
) -> Asked:
    """Return what will ask the model once; iterating raises ProviderError."""
    reader = Reader(api, stream_format, decode, max_bytes)
    return Asked(_http.call(api, path, body, model=model), reader, api, model)


def check_type(api: Api, response: Any, allowed: tuple[str, ...], model: str) -> None:
    """Raise ProviderError unless the response is of an *allowed* type; a missing header is taken for good."""
    kind = response.headers.get("Content-Type", allowed[0]).partition(";")[0].strip().lower()
    if kind in allowed:
        return
    if kind == "application/json":  # an error with a status of 200
        record = parsed(_http.error_body(api, response), default={})
        if record.get("error"):
            raise _failures.from_stream(api, record, model=model)
    page = "a web page" if kind == "text/html" else "something else"
    raise ProviderError(
        f"{api.title} at {api.where} sent {page} instead of a stream. {api.check_address}", retryable=False
    )


def parsed(payload: str | bytes, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the payload's JSON object. Raises Unreadable, or returns *default*, where it is none."""
    try:
        record = orjson.loads(payload)
    except orjson.JSONDecodeError:
        record = tolerantly(payload)
    if isinstance(record, dict):
        return record
    if default is None:
        raise Unreadable
    return default


def tolerantly(payload: str | bytes) -> Any:
    """Return the JSON of what is no UTF-8, read as the events' parser does; None where it is no JSON either."""
    try:
        return orjson.loads(payload.decode("utf-8", "replace")) if isinstance(payload, bytes) else None
    except orjson.JSONDecodeError:
        return None


def mapping(value: Any) -> dict[str, Any]:
    """Return *value*, an empty one for null. Raises Unreadable for anything that is no object."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unreadable
    return value


def listing(value: Any) -> list[Any]:
    """Return *value*, an empty one for null. Raises Unreadable for anything that is no list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable
    return value


def text(value: Any) -> str:
    """Return *value*, "" for null. Raises Unreadable for what is no string: to leave it out would make a hole."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable
    return value


def count(value: Any) -> int | None:
    """Return *value* if it can be a number of tokens."""
    return value if type(value) is int and value >= 0 else None


def usage(prompt: Any, completion: Any, total: Any = None) -> Usage | None:
    """Return what the API counted; None unless it told both."""
    prompt, completion = count(prompt), count(completion)
    if prompt is None or completion is None:
        return None
    return Usage(prompt, completion, count(total) or prompt + completion, estimated=False)
