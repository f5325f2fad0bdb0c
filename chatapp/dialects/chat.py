"""Data-only events of a chat in a project: conversationId, token, complete, error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from chatapp.dialects import Context, Table, by_type
from chatapp.events import Failed, Finished, Started, Token
from chatapp.schemas import rfc3339
from chatapp.sse import Frame


def started(context: Context, event: Started) -> Iterator[Frame]:
    yield by_type("conversationId", conversationId=context.conversation)


def token(context: Context, event: Token) -> Iterator[Frame]:
    yield by_type("token", content=event.content)


def finished(context: Context, event: Finished) -> Iterator[Frame]:
    metadata = {"model": context.model, "conversationId": context.conversation}
    yield by_type("complete", timestamp=ended_at(event), metadata=metadata)


def failed(context: Context, event: Failed) -> Iterator[Frame]:
    yield by_type("error", message=event.message, code=event.code)


def ended_at(event: Finished) -> str:
    """Return when the answer was complete, the same however often it is told: RFC 3339 in UTC."""
    made: Any = event.message["created_at"]
    begun = datetime.fromisoformat(made) if isinstance(made, str) else made
    return rfc3339(begun + timedelta(milliseconds=event.metadata.get("duration_ms") or 0))


FRAMES: Table = {Started: started, Token: token, Finished: finished, Failed: failed}
