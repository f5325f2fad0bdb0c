"""Data-only events told apart by `type`: token, done, error."""

from __future__ import annotations

from collections.abc import Iterator

from chatapp.dialects import Context, Table, by_type
from chatapp.events import Failed, Finished, Token
from chatapp.sse import Frame


def token(context: Context, event: Token) -> Iterator[Frame]:
    yield by_type("token", content=event.content)


def finished(context: Context, event: Finished) -> Iterator[Frame]:
    yield by_type("done")


def failed(context: Context, event: Failed) -> Iterator[Frame]:
    yield by_type("error", message=event.message)


FRAMES: Table = {Token: token, Finished: finished, Failed: failed}
