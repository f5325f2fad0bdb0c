"""The site's own format: every canonical event under its own name, but `fail` for `error`.

A browser raises an `error` of its own on the same object, so an event of that name would look like a lost connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from chatapp.answer import Answer
from chatapp.dialects import Context, Table, json_bytes, json_text
from chatapp.events import KINDS, Event, Failed, Token, dump
from chatapp.sse import Frame


def token_bytes(name: str, event: Token, context: Context) -> bytes:
    return b'id: %b\nevent: token\ndata: {"content":%b}\n\n' % (name.encode(), json_bytes(event.content))


def whole(context: Context, event: Event) -> Iterator[Frame]:
    yield Frame(json_text(dump(event)), "fail" if type(event) is Failed else event.name)


FRAMES: Table = dict.fromkeys(KINDS.values(), whole)


def reset(answer: Answer, cursor: str) -> Frame:
    """Return the frame for a reader whose cursor cannot be honoured: all that was said so far, in place of what it has."""
    return Frame(json_text(asdict(answer)), "reset", cursor)
