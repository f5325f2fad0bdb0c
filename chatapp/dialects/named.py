"""Named events: typing, progress, sources, chunk, message, done, error."""

from __future__ import annotations

from collections.abc import Iterator

from chatapp.dialects import Context, Table, by_name
from chatapp.events import Failed, Finished, Sources, Started, Status, Token
from chatapp.sse import Frame


def started(context: Context, event: Started) -> Iterator[Frame]:
    yield by_name("typing", isTyping=True)


def status(context: Context, event: Status) -> Iterator[Frame]:
    yield by_name("progress", percent=None, status=event.content)


def sources(context: Context, event: Sources) -> Iterator[Frame]:
    yield by_name("sources", content=event.content, chunks_used=event.chunks_used)


def token(context: Context, event: Token) -> Iterator[Frame]:
    yield by_name("chunk", content=event.content)


def finished(context: Context, event: Finished) -> Iterator[Frame]:
    yield by_name("message", id=event.message["id"], role="assistant", content=event.message["content"])
    yield by_name("done")


def failed(context: Context, event: Failed) -> Iterator[Frame]:
    yield by_name("error", code=event.code, message=event.message)


FRAMES: Table = {
    Started: started,
    Status: status,
    Sources: sources,
    Token: token,
    Finished: finished,
    Failed: failed,
}
