"""Anthropic: `/v1/messages` as server-sent events. It goes on from a trailing assistant message.

https://docs.claude.com/en/api/messages, https://docs.claude.com/en/api/messages-streaming
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from chatapp.errors import ProviderError
from chatapp.events import Reasoning, Token
from chatapp.providers import ChatRequest, End, Model, Piece, _failures, _http, _stream
from chatapp.providers._http import Api
from chatapp.providers._openai_api import context_length, named, remote
from chatapp.settings import Settings

DEFAULT_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
MAX_TOKENS = 8192  # the API wants a limit; each model since Claude 3.5 takes this one
FINISH_REASONS = {"max_tokens": "length", "model_context_window_exceeded": "length"}
MAX_TEMPERATURE = 1.0  # others go to 2


@dataclass(kw_only=True, eq=False)
class Anthropic:
    name: str = "anthropic"
    api: Api
    max_answer_bytes: int
    can_continue: bool = True

    def models(self) -> list[Model]:
        """Return the models it has, sorted. Raises ProviderError."""
        listing = _http.read_json(self.api, "/models?limit=1000")  # 20 by default
        entries = listing.get("data") if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise _http.unreadable(self.api)
        found = {entry["id"]: entry for entry in entries if isinstance(entry, dict) and named(entry.get("id"))}
        return [
            Model(f"{self.name}/{name}", name, self.name, context_length(entry))
            for name, entry in sorted(found.items())
        ]

    def stream(self, request: ChatRequest) -> Iterator[list[Piece]]:
        """Yield what each read brought, End last. Raises ProviderError."""
        return _stream.ask(
            self.api,
            "/messages",
            body(request),
            model=request.model,
            stream_format=_stream.Events(),
            decode=Decoder(self.api, request),
            max_bytes=self.max_answer_bytes,
        )


def body(request: ChatRequest) -> dict[str, Any]:
    """Return the call's JSON: the system's words apart, no empty messages, and no space at the end of a begun answer."""
    system = "\n\n".join(turn.content for turn in request.messages if turn.role == "system")
    messages = [
        {"role": turn.role, "content": turn.content}
        for turn in request.messages
        if turn.role != "system" and turn.content.strip()
    ]
    begun = request.prefix.rstrip()
    if begun:
        messages.append({"role": "assistant", "content": begun})
    made: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens or MAX_TOKENS,
        "messages": messages,
        "stream": True,
    }
    if system.strip():
        made["system"] = system
    if request.temperature is not None:
        made["temperature"] = min(request.temperature, MAX_TEMPERATURE)
    return made


class Decoder:
    """Payloads -> pieces. What was cut off the begun answer's end is cut off the beginning of what follows it."""

    def __init__(self, api: Api, request: ChatRequest) -> None:
        self._api = api
        self._model = request.model
        self._spaces = request.prefix[len(request.prefix.rstrip()) :]
        self._finish_reason = "stop"
        self._counts: dict[str, int] = {}

    def __call__(self, payload: str | bytes) -> Iterator[Piece]:
        event = _stream.parsed(payload)
        handle = self.EVENTS.get(str(event.get("type")))
        if handle:  # others may be added at any time, says the documentation
            yield from handle(self, event)

    def _message_start(self, event: dict[str, Any]) -> Iterator[Piece]:
        self._count(_stream.mapping(event.get("message")))
        self._counts.pop("output_tokens", None)  # of the beginning: the sum comes at the end
        yield from ()

    def _block_start(self, event: dict[str, Any]) -> Iterator[Piece]:
        yield from self._text(_stream.mapping(event.get("content_block")))

    def _block_delta(self, event: dict[str, Any]) -> Iterator[Piece]:
        yield from self._text(_stream.mapping(event.get("delta")))

    def _text(self, block: dict[str, Any]) -> Iterator[Piece]:
        thinking = _stream.text(block.get("thinking"))
        if thinking:
            yield Reasoning(thinking)
        content = self._without_spaces(_stream.text(block.get("text")))
        if content:
            yield Token(content)

    def _without_spaces(self, content: str) -> str:
        while self._spaces and content:
            if content[0] != self._spaces[0]:
                self._spaces = ""
            else:
                content, self._spaces = content[1:], self._spaces[1:]
        return content

    def _message_delta(self, event: dict[str, Any]) -> Iterator[Piece]:
        self._count(event)
        reason = _stream.mapping(event.get("delta")).get("stop_reason")
        if reason == "refusal":
            # Said also after some text: that text is not the whole answer.
            raise ProviderError(f"{self._api.title}'s safety filter ended the answer.", retryable=False)
        self._finish_reason = FINISH_REASONS.get(str(reason), "stop")
        yield from ()

    def _message_stop(self, event: dict[str, Any]) -> Iterator[Piece]:
        kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        prompt = sum(self._counts.get(kind, 0) for kind in kinds) if "input_tokens" in self._counts else None
        usage = _stream.usage(prompt, self._counts.get("output_tokens"))
        if usage:
            yield usage
        yield End(self._finish_reason)

    def _error(self, event: dict[str, Any]) -> Iterator[Piece]:
        raise _failures.from_stream(self._api, event, model=self._model)

    def _count(self, holder: dict[str, Any]) -> None:
        """Keep the counts: the beginning tells those of the prompt, the end the sum of the answer's."""
        told = holder.get("usage")
        if isinstance(told, dict):
            self._counts.update({name: number for name, number in told.items() if _stream.count(number) is not None})

    EVENTS = {  # noqa: RUF012
        "message_start": _message_start,
        "content_block_start": _block_start,
        "content_block_delta": _block_delta,
        "message_delta": _message_delta,
        "message_stop": _message_stop,
        "error": _error,
    }


def provider(settings: Settings) -> Anthropic | None:
    api = remote(
        settings,
        "Anthropic",
        "ANTHROPIC",
        url=settings.anthropic_base_url,
        default_url=DEFAULT_URL,
        key=settings.anthropic_api_key,
        header="x-api-key",
    )
    if api is None:
        return None
    api = replace(api, headers={**api.headers, "anthropic-version": VERSION})
    return Anthropic(api=api, max_answer_bytes=settings.max_answer_bytes)
