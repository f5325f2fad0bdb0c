"""What can happen to an answer: frozen values, and their JSON form.

An *entry* is an event with its sequence number (1, 2, 3, no gaps) in the log of one generation. The last event of a
log, and only the last, is terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `name` is the canonical one, which the native dialect shows."""

    name: ClassVar[str]
    terminal: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Started(Event):
    name: ClassVar[str] = "start"
    generation: str
    conversation: str | None
    message: str  # the answer's id
    model: str


@dataclass(frozen=True, slots=True)
class Status(Event):
    name: ClassVar[str] = "status"
    content: str


@dataclass(frozen=True, slots=True)
class Sources(Event):
    """The passages that an answer draws on: each {text, score 0..1, metadata}."""

    name: ClassVar[str] = "sources"
    content: list[dict[str, Any]]
    chunks_used: int


@dataclass(frozen=True, slots=True)
class Reasoning(Event):
    name: ClassVar[str] = "reasoning"
    content: str


@dataclass(frozen=True, slots=True)
class Token(Event):
    """A piece of the answer as it came, never empty; all of them joined are the answer."""

    name: ClassVar[str] = "token"
    content: str


@dataclass(frozen=True, slots=True)
class Usage(Event):
    """Tokens as the API counted them, or estimated by the site and marked so."""

    name: ClassVar[str] = "usage"
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The good end; `finish_reason` is stop, length, stopped (by a person) or cached; `message` is the stored one."""

    name: ClassVar[str] = "done"
    terminal: ClassVar[bool] = True
    message: dict[str, Any]
    finish_reason: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The other end; the code `interrupted` says that the text before it is good but not whole."""

    name: ClassVar[str] = "error"
    terminal: ClassVar[bool] = True
    code: str
    message: str
    retryable: bool
    metadata: dict[str, Any] = field(default_factory=dict)


class Entry(NamedTuple):
    """An event with its place in the log of one generation."""

    seq: int
    event: Event


KINDS: dict[str, type[Event]] = {
    kind.name: kind for kind in (Started, Status, Sources, Reasoning, Token, Usage, Finished, Failed)
}
FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in KINDS.values()}


def dump(event: Event) -> dict[str, Any]:
    """Return the event's fields by name, without its own name."""
    return {name: getattr(event, name) for name in FIELDS[type(event)]}


def load(name: str, values: Mapping[str, Any]) -> Event:
    """Return the event called *name*. Raises KeyError for a name, TypeError for fields, that there are not."""
    return KINDS[name](**values)
