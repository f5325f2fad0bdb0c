"""Data-only events told apart by `type`: token, done, error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from chatapp.dialects import json_text
from chatapp.events import Event, Failed, Finished, Token
from chatapp.sse import Frame

COUNTS = False


def typed(kind: str, **data: Any) -> Frame:
    return Frame(json_text({"type": kind, **data}))


def token(event: Token) -> Iterator[Frame]:
    yield typed("token", content=event.content)


def finished(event: Finished) -> Iterator[Frame]:
    yield typed("done")


def failed(event: Failed) -> Iterator[Frame]:
    yield typed("error", message=event.message)


FRAMES: dict[type[Event], Callable[[Any], Iterable[Frame]]] = {Token: token, Finished: finished, Failed: failed}


class Encoder:
    def frames(self, event: Event) -> Sequence[Frame]:
        encode = FRAMES.get(type(event))
        return tuple(encode(event)) if encode else ()
