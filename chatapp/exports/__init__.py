"""Conversations as files: one format a file, values -> bytes. The file's name is what a request calls the format.

A member has `MEDIA_TYPE`, `SUFFIX`, `WHOLE_TREE` (else it shows one branch) and `dump(talks, exported_at) -> Iterator[bytes]`.
A talk is a conversation's columns as JSON has them, and its messages as they come, so that no member holds more than it must.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Talk:
    """A conversation; `head` is without its messages, which can be gone through once."""

    head: dict[str, Any]
    messages: Iterable[dict[str, Any]]


class Format(Protocol):
    MEDIA_TYPE: str
    SUFFIX: str
    WHOLE_TREE: bool

    def dump(self, talks: Iterable[Talk], exported_at: str) -> Iterator[bytes]: ...


UNTITLED = "Untitled conversation"
NONE = "There are no conversations."
ENDINGS = {
    "running": "This answer was still being written.",
    "stopped": "This answer was stopped.",
    "interrupted": "This answer was interrupted.",
    "failed": "This answer failed.",
}


def title(head: dict[str, Any]) -> str:
    return head["title"] or UNTITLED


def minute(time: str) -> str:
    """Return an RFC 3339 time as people read it."""
    return f"{time[:10]} {time[11:16]} UTC"


def author(message: dict[str, Any]) -> str:
    if message["role"] == "user":
        return "You"
    return "This site" if message["command"] else message["model"] or "Assistant"


def caption(head: dict[str, Any], exported_at: str) -> str:
    """Return when the conversation was, in a line."""
    return f"Begun {minute(head['created_at'])}, last used {minute(head['updated_at'])}, exported {minute(exported_at)}"


def remarks(message: dict[str, Any]) -> list[str]:
    """Return what there is to say of a message beside its text, a line each."""
    lines = []
    ending = ENDINGS.get(message["status"])
    if message["finish_reason"] == "length":
        ending = "This answer was cut off at its limit."
    if ending:
        failure = (message["error"] or {}).get("message")
        lines.append(f"{ending} {failure}" if failure else ending)
    reaction = message["reaction"]
    if reaction:
        opinion = "Liked" if reaction["kind"] == "like" else "Disliked"
        lines.append(f"{opinion}: {reaction['note']}" if reaction["note"] else f"{opinion}.")
    return lines


def source(number: int, found: dict[str, Any]) -> str:
    """Return a passage that an answer rests on, in a line."""
    metadata = found.get("metadata") or {}
    place = metadata.get("title") or metadata.get("document_id") or "Document"
    page = f", page {metadata['page']}" if metadata.get("page") is not None else ""
    return f"[{number}] {place}{page}: {' '.join(str(found.get('text', '')).split())}"
