"""The API that OpenAI made and many servers speak: `/v1/chat/completions` and `/v1/models`.

https://platform.openai.com/docs/api-reference/chat-streaming
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
https://docs.x.ai/docs/api-reference
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from chatapp.errors import ProviderError
from chatapp.events import Reasoning, Token, Usage
from chatapp.providers import ChatRequest, End, Model, Piece, _failures, _http, _stream
from chatapp.providers._http import Api
from chatapp.settings import Settings

DONE = "[DONE]"
ENDPOINT = re.compile(r"/(chat/completions|models|messages)$")
VERSION = re.compile(r"/v\d")
# Where an API lists all that it has: these make pictures, sound or vectors.
NOT_FOR_CHAT = re.compile(
    r"embed|whisper|(^|-)tts|dall-e|moderation|transcribe|realtime|(^|-)audio|(^|-)image|imagine|sora|babbage|davinci"
)
CONTEXT_LENGTHS = ("max_model_len", "context_length", "context_window", "n_ctx", "n_ctx_train", "max_input_tokens")


@dataclass(kw_only=True, eq=False)
class OpenAIApi:
    """A provider that speaks this API. `limit_name` is what it calls the limit of tokens."""

    name: str
    api: Api
    max_answer_bytes: int
    can_continue: bool = False
    limit_name: str = "max_tokens"
    hidden: re.Pattern[str] | None = None  # models that are not shown

    def models(self) -> list[Model]:
        """Return the models it has, sorted. Raises ProviderError."""
        listing = _http.read_json(self.api, "/models")
        entries = listing.get("data") if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise _http.unreadable(self.api)
        found = {entry["id"]: entry for entry in entries if isinstance(entry, dict) and named(entry.get("id"))}
        shown = [name for name in found if not (self.hidden and self.hidden.search(name))]
        return sorted((self.model(name, found[name]) for name in shown), key=lambda model: model.id)

    def model(self, name: str, entry: Mapping[str, Any]) -> Model:
        return Model(f"{self.name}/{name}", name, self.name, context_length(entry))

    def stream(self, request: ChatRequest) -> Iterator[list[Piece]]:
        """Yield what each read brought, End last. Raises ProviderError."""
        return _stream.ask(
            self.api,
            "/chat/completions",
            self.body(request),
            model=request.model,
            stream_format=_stream.Events(),
            decode=Decoder(self.api, request.model),
            max_bytes=self.max_answer_bytes,
        )

    def body(self, request: ChatRequest) -> dict[str, Any]:
        messages = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
        given = {"temperature": request.temperature, self.limit_name: request.max_tokens}
        return {
            "model": request.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in given.items() if value is not None},
        }


class Decoder:
    """Payloads -> pieces. The counts come before or with the last choice or after it: they are given before End."""

    def __init__(self, api: Api, model: str) -> None:
        self._api = api
        self._model = model
        self._finish_reason = "stop"
        self._usage: Usage | None = None

    def __call__(self, payload: str | bytes) -> Iterable[Piece]:
        if len(payload) < len(DONE) + 8 and payload.strip() in (DONE, DONE.encode()):
            return [*([self._usage] if self._usage else []), End(self._finish_reason)]
        chunk = _stream.parsed(payload)
        if content := only_content(chunk):  # nearly all
            return (Token(content),)
        if chunk.get("error") or chunk.get("object") == "error":
            raise _failures.from_stream(self._api, chunk, model=self._model)
        counted = chunk.get("usage")
        if isinstance(counted, dict):
            numbers = (counted.get(f"{kind}_tokens") for kind in ("prompt", "completion", "total"))
            self._usage = _stream.usage(*numbers) or self._usage
        choices = _stream.listing(chunk.get("choices"))
        return self._choice(_stream.mapping(choices[0])) if choices else ()  # the chunk with the counts has none

    def _choice(self, choice: dict[str, Any]) -> Iterable[Piece]:
        delta = _stream.mapping(choice.get("delta"))
        pieces: list[Piece] = []
        # Some servers send both names with the same text.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            pieces.append(Reasoning(reasoning))
        content = _stream.text(delta.get("content")) or _stream.text(delta.get("refusal"))
        if content:
            pieces.append(Token(content))
        reason = choice.get("finish_reason")
        if reason == "content_filter":
            # Said also after some text: that text is not the whole answer.
            blocked = ProviderError(f"{self._api.title}'s content filter held the answer back.", retryable=False)
            return then(pieces, blocked)
        if reason == "abort":
            return then(pieces, _http.interrupted(self._api))
        if reason:
            self._finish_reason = "length" if reason == "length" else "stop"
        return pieces


def only_content(chunk: dict[str, Any]) -> str | None:
    """Return the text of a chunk that says nothing else, as nearly all do; None for any other."""
    try:
        choice = chunk["choices"][0]
        delta = choice["delta"]
        content = delta["content"]
    except (KeyError, IndexError, TypeError):
        return None
    if (
        type(content) is not str
        or choice.get("finish_reason")
        or chunk.get("usage")
        or chunk.get("error")
        or chunk.get("object") == "error"
        or delta.get("reasoning_content")
        or delta.get("reasoning")
    ):
        return None
    return content


def then(pieces: Iterable[Piece], error: ProviderError) -> Iterator[Piece]:
    """Give what came before a fault before the fault."""
    yield from pieces
    raise error


def base_url(url: str) -> str:
    """Return *url* with the version that the API's paths begin with, whether it was given with it or without."""
    parts = urlsplit(url)
    path = ENDPOINT.sub("", parts.path.rstrip("/"))
    if not VERSION.search(path):
        path += "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def remote(
    settings: Settings,
    title: str,
    variable: str,
    *,
    url: str,
    default_url: str,
    key: str,
    header: str = "Authorization",
) -> Api | None:
    """Return the API whose variables begin with *variable*, None where neither its key nor its address is set."""
    if not key and not url:
        return None
    key = key.strip()
    value = f"Bearer {key}" if header == "Authorization" else key
    return Api(
        title=title,
        base_url=base_url(url or default_url),
        headers={header: value} if key else {},
        connect_seconds=settings.connect_seconds,
        silence_seconds=silence_seconds(settings),
        not_there=f"Is it running? Check {variable}_BASE_URL." if url else "Check this machine's network.",
        check_address=f"Check {variable}_BASE_URL." if url else "Try again in a moment.",
        key_refused=f"{title} refused the API key. Check {variable}_API_KEY."
        if key
        else f"{title} wants an API key. Set {variable}_API_KEY.",
    )


def silence_seconds(settings: Settings) -> float:
    """Return how long a read may bring nothing: longer than the caller's own limits, which are exact."""
    return max(settings.first_event_seconds, settings.idle_seconds) + 10


def named(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def context_length(entry: Mapping[str, Any]) -> int | None:
    """Return the model's context in tokens, as vLLM, llama.cpp (in `meta`) and others tell it; None if not told."""
    meta = entry.get("meta")
    holders = (entry, meta if isinstance(meta, dict) else {})
    told = (_stream.count(holder.get(name)) for name in CONTEXT_LENGTHS for holder in holders)
    return next((tokens for tokens in told if tokens), None)
