"""Everything that is known of conversations, with all branches, to be read by programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from chatapp.exports import Talk

MEDIA_TYPE = "application/json"
SUFFIX = "json"
WHOLE_TREE = True
VERSION = 1


def dump(talks: Iterable[Talk], exported_at: str) -> Iterator[bytes]:
    yield b'{"version":%d,"exported_at":%b,"conversations":[' % (VERSION, orjson.dumps(exported_at))
    for number, talk in enumerate(talks):
        yield (b",\n" if number else b"\n") + orjson.dumps(talk.head)[:-1] + b',"messages":['
        for place, message in enumerate(talk.messages):
            yield (b",\n" if place else b"\n") + orjson.dumps(message)
        yield b"]}"
    yield b"\n]}\n"
