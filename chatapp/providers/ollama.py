"""Ollama: newline-delimited JSON. It goes on from a trailing assistant message.

https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from chatapp.events import Reasoning, Token
from chatapp.providers import ChatRequest, End, Model, Piece, _failures, _http, _stream
from chatapp.providers._http import Api
from chatapp.providers._openai_api import named, silence_seconds
from chatapp.settings import Settings

PORT = 11434
API_PATH = re.compile(r"/(api|v1)$")  # what an address for other programs may end with


@dataclass(kw_only=True, eq=False)
class Ollama:
    name: str = "ollama"
    api: Api
    max_answer_bytes: int
    can_continue: bool = True

    def models(self) -> list[Model]:
        """Return the models that were pulled, sorted, without those that make vectors. Raises ProviderError."""
        listing = _http.read_json(self.api, "/api/tags")
        entries = listing.get("models") if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise _http.unreadable(self.api)
        # `llama3.2` means `llama3.2:latest` to Ollama.
        names = {
            entry["name"].removesuffix(":latest")
            for entry in entries
            if isinstance(entry, dict) and named(entry.get("name")) and not makes_vectors(entry)
        }
        return [Model(f"{self.name}/{name}", name, self.name) for name in sorted(names)]

    def stream(self, request: ChatRequest) -> Iterator[list[Piece]]:
        """Yield what each read brought, End last. Raises ProviderError."""
        return _stream.ask(
            self.api,
            "/api/chat",
            body(request),
            model=request.model,
            stream_format=_stream.Lines(),
            decode=Decoder(self.api, request.model),
            max_bytes=self.max_answer_bytes,
        )


def body(request: ChatRequest) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": turn.content} for turn in request.messages]
    if request.prefix:
        messages.append({"role": "assistant", "content": request.prefix})
    given = {"temperature": request.temperature, "num_predict": request.max_tokens}
    options = {name: value for name, value in given.items() if value is not None}
    return {"model": request.model, "messages": messages, "stream": True, **({"options": options} if options else {})}


class Decoder:
    def __init__(self, api: Api, model: str) -> None:
        self._api = api
        self._model = model

    def __call__(self, payload: str | bytes) -> Iterator[Piece]:
        record = _stream.parsed(payload)
        if record.get("error"):
            raise _failures.from_stream(self._api, record, model=self._model)
        message = _stream.mapping(record.get("message"))
        thinking = _stream.text(message.get("thinking"))
        if thinking:
            yield Reasoning(thinking)
        content = _stream.text(message.get("content"))
        if content:
            yield Token(content)
        if record.get("done") is True:
            usage = _stream.usage(record.get("prompt_eval_count"), record.get("eval_count"))
            if usage:
                yield usage
            yield End("length" if record.get("done_reason") == "length" else "stop")


def base_url(url: str) -> str:
    """Return the address with Ollama's own port where it has none: OLLAMA_HOST is often a bare name."""
    parts = urlsplit(API_PATH.sub("", url.rstrip("/")))
    bare = parts.scheme == "http" and parts.port is None and not parts.path
    return f"{parts.geturl()}:{PORT}" if bare else parts.geturl()


def makes_vectors(entry: dict[str, Any]) -> bool:
    details = entry.get("details")
    return isinstance(details, dict) and str(details.get("family")).endswith("bert")


def provider(settings: Settings) -> Ollama:
    return Ollama(
        api=Api(
            title="Ollama",
            base_url=base_url(settings.ollama_host),
            connect_seconds=settings.connect_seconds,
            silence_seconds=silence_seconds(settings),
            not_there="Is it running? Check OLLAMA_HOST.",
            check_address="Check OLLAMA_HOST.",
            key_refused="Ollama refused the request. Sign in with: ollama signin",
            model_missing="Get it with: ollama pull {model}",
        ),
        max_answer_bytes=settings.max_answer_bytes,
    )
