"""One model API a file: stream(request) -> events. A provider knows nothing of logs, databases or people.

A member module has one function, `provider(settings) -> Provider | None`: None where it is not configured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from chatapp import registry
from chatapp.events import Reasoning, Token, Usage
from chatapp.settings import Settings


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the history; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a model is asked: `model` is the provider's own name for it, without the provider's prefix.

    `prefix` is the part of the answer that is there already, to go on from.
    """

    model: str
    messages: tuple[Turn, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked; `id` is `provider/name`, `context_length` in tokens where the API tells it."""

    id: str
    name: str
    provider: str
    context_length: int | None = None
    capabilities: tuple[str, ...] = ("chat",)


@dataclass(frozen=True, slots=True)
class End:
    """The protocol's own end mark came; `finish_reason` is stop or length."""

    finish_reason: str


Piece = Reasoning | Token | Usage | End


class Provider(Protocol):
    """A model API. `can_continue`: it goes on from a request's `prefix` instead of beginning the answer again."""

    name: str
    can_continue: bool

    def models(self) -> list[Model]:
        """Return the models it has now. Raises ProviderError if it does not answer; waits at most a few seconds."""
        ...

    def stream(self, request: ChatRequest) -> Iterator[list[Piece]]:
        """Yield what each read brought: tokens and reasoning as they come, at most one Usage, then End, last.

        The model is asked once, at the first `next`. Empty lists are not yielded. Closing the generator (or an
        exception thrown into it) closes the connection, also while the model is silent. Raises ProviderError; a
        stream that ends without its protocol's end mark raises Interrupted.
        """
        ...


def load(settings: Settings) -> dict[str, Provider]:
    """Return the configured providers by name, sorted."""
    import chatapp.providers as package

    members = {name: module.provider(settings) for name, module in registry.load(package).items()}
    return {name: provider for name, provider in members.items() if provider is not None}
