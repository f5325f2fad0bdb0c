"""Named events about one message: message-start, message-chunk, message-complete, error."""

from __future__ import annotations

from collections.abc import Iterator

from chatapp.dialects import Context, Table, by_name
from chatapp.events import Failed, Finished, Started, Token
from chatapp.sse import Frame


def started(context: Context, event: Started) -> Iterator[Frame]:
    yield by_name("message-start", messageId=event.message)


def token(context: Context, event: Token) -> Iterator[Frame]:
    yield by_name("message-chunk", messageId=context.message, content=event.content, done=False)


def finished(context: Context, event: Finished) -> Iterator[Frame]:
    yield by_name("message-complete", messageId=context.message, fullContent=event.message["content"])


def failed(context: Context, event: Failed) -> Iterator[Frame]:
    yield by_name("error", message=event.message)


FRAMES: Table = {Started: started, Token: token, Finished: finished, Failed: failed}
