"""The branch shown, to be read by people, in any editor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from chatapp.exports import NONE, Talk, author, caption, minute, remarks, source, title

MEDIA_TYPE = "text/markdown"
SUFFIX = "md"
WHOLE_TREE = False


def dump(talks: Iterable[Talk], exported_at: str) -> Iterator[bytes]:
    number = -1
    for number, talk in enumerate(talks):
        rule = "\n---\n\n" if number else ""
        yield f"{rule}# {one_line(title(talk.head))}\n\n_{caption(talk.head, exported_at)}_\n".encode()
        for message in talk.messages:
            yield "".join(parts(message)).encode()
    if number < 0:
        yield f"{NONE}\n".encode()


def parts(message: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {one_line(author(message))}\n\n_{minute(message['created_at'])}_\n"
    if message["reasoning"]:
        yield f"\n{quoted(message['reasoning'])}\n"
    if message["content"]:
        yield f"\n{closed(message['content'])}\n"
    if message["sources"]:
        yield "\nSources:\n\n"
        yield "".join(f"- {source(place, found)}\n" for place, found in enumerate(message["sources"], 1))
    for remark in remarks(message):
        yield f"\n_{one_line(remark)}_\n"


def one_line(text: str) -> str:
    return " ".join(text.split())


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def closed(text: str) -> str:
    """Return *text* with a code fence closed that it leaves open, which would swallow what comes after it."""
    fence = ""
    for line in text.splitlines():
        mark = line.strip()[:3]
        if not fence and mark in ("```", "~~~"):
            fence = mark
        elif fence and mark == fence and not line.strip().strip(fence[0]):
            fence = ""
    return f"{text}\n{fence}" if fence else text
