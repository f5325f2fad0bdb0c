"""Data-only events of a question to documents: start, status, sources, chunk, metadata, done, error."""

from __future__ import annotations

from collections.abc import Iterator

from chatapp.dialects import Context, Table, by_type
from chatapp.events import Failed, Finished, Sources, Started, Status, Token
from chatapp.sse import Frame

TOLD = ("confidence", "hallucination", "search_mode")


def started(context: Context, event: Started) -> Iterator[Frame]:
    yield by_type("start", session_id=context.reference, model=event.model)


def status(context: Context, event: Status) -> Iterator[Frame]:
    yield by_type("status", content=event.content)


def sources(context: Context, event: Sources) -> Iterator[Frame]:
    yield by_type("sources", content=event.content, chunks_used=event.chunks_used)


def token(context: Context, event: Token) -> Iterator[Frame]:
    yield by_type("chunk", content=event.content)


def finished(context: Context, event: Finished) -> Iterator[Frame]:
    told = {name: event.metadata.get(name) for name in TOLD}
    metadata = {"model": context.model, **told, "total_response": event.message["content"]}
    yield by_type("metadata", content=metadata)
    yield by_type("done")


def failed(context: Context, event: Failed) -> Iterator[Frame]:
    yield by_type("error", content=event.message)


FRAMES: Table = {
    Started: started,
    Status: status,
    Sources: sources,
    Token: token,
    Finished: finished,
    Failed: failed,
}
