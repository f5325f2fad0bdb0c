"""Named events: typing, progress, sources, chunk, message, done, error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from chatapp.dialects import json_text
from chatapp.events import Event, Failed, Finished, Sources, Started, Status, Token
from chatapp.sse import Frame

COUNTS = False


def named(name: str, **data: Any) -> Frame:
    return Frame(json_text(data), name)


def started(event: Started) -> Iterator[Frame]:
    yield named("typing", isTyping=True)


def status(event: Status) -> Iterator[Frame]:
    yield named("progress", percent=None, status=event.content)


def sources(event: Sources) -> Iterator[Frame]:
    yield named("sources", content=event.content, chunks_used=event.chunks_used)


def token(event: Token) -> Iterator[Frame]:
    yield named("chunk", content=event.content)


def finished(event: Finished) -> Iterator[Frame]:
    message = event.message
    yield named("message", id=message["id"], role="assistant", content=message["content"])
    yield named("done")


def failed(event: Failed) -> Iterator[Frame]:
    yield named("error", code=event.code, message=event.message)


FRAMES: dict[type[Event], Callable[[Any], Iterable[Frame]]] = {
    Started: started,
    Status: status,
    Sources: sources,
    Token: token,
    Finished: finished,
    Failed: failed,
}


class Encoder:
    def frames(self, event: Event) -> Sequence[Frame]:
        encode = FRAMES.get(type(event))
        return tuple(encode(event)) if encode else ()
