"""The site's own format: every canonical event under its own name, but `fail` for `error`.

A browser raises an `error` of its own on the same object, so an event of that name would look like a lost connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from chatapp.answer import Answer
from chatapp.dialects import json_bytes, json_text
from chatapp.events import Event, Failed, Token, dump
from chatapp.sse import Frame

COUNTS = False


class Encoder:
    def token(self, name: str, event: Token) -> bytes:
        return b'id: %b\nevent: token\ndata: {"content":%b}\n\n' % (name.encode(), json_bytes(event.content))

    def frames(self, event: Event) -> Sequence[Frame]:
        name = "fail" if type(event) is Failed else event.name
        return (Frame(json_text(dump(event)), name),)


def reset(answer: Answer, cursor: str) -> Frame:
    """Return the frame for a reader whose cursor cannot be honoured: all that was said so far, in place of what it has."""
    return Frame(json_text(asdict(answer)), "reset", cursor)
