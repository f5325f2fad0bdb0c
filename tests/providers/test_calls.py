"""What goes to a model API, and what it lists."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from chatapp import providers, registry
from chatapp.errors import ProviderError
from chatapp.events import Reasoning, Token, Usage
from chatapp.providers import ChatRequest, End, Piece, Provider, Turn, _openai_api, local, ollama, openai
from chatapp.settings import Settings
from tests.providers.conftest import KEY, NAMES, asked, settings_for
from tests.support.fake_models import FakeModels


def answered(provider: Provider, request: ChatRequest) -> list[Piece]:
    batches = list(provider.stream(request))
    assert all(batches)
    return [piece for batch in batches for piece in batch]


def text(pieces: list[Piece]) -> str:
    return "".join(piece.content for piece in pieces if isinstance(piece, Token))


@pytest.mark.parametrize(
    "options", ["", ",close-delimited", ",block=1", ",gzip", ",bom,newline=crlf", ",newline=cr,block=3"]
)
def test_an_answer_is_its_tokens_the_counts_and_the_end(provider: Provider, options: str) -> None:
    pieces = answered(provider, asked(f"echo{options}", "Grüße aus Köln 😀"))
    assert pieces == [
        Token("Grüße"), Token(" aus"), Token(" Köln"), Token(" 😀"), Usage(6, 4, 10, estimated=False), End("stop")
    ]  # fmt: skip


@pytest.mark.parametrize("at", range(5))
def test_an_emoji_cut_by_the_network_is_whole(provider: Provider, at: int) -> None:
    for framing in ("", ",close-delimited"):
        assert text(answered(provider, asked(f"split-utf8-at-{at}{framing}"))) == "a😀b"


def test_reasoning_is_kept_apart(provider: Provider) -> None:
    pieces = answered(provider, asked("reasoning,text=yes"))
    assert [piece.content for piece in pieces if isinstance(piece, Reasoning)] == ["1", " 2", " 3", " 4", " 5"]
    assert text(pieces) == "yes"


def test_the_reason_of_the_end_is_told(provider: Provider) -> None:
    assert answered(provider, asked("length"))[-1] == End("length")


def test_counts_that_were_not_told_are_not_made_up(provider: Provider) -> None:
    assert not [piece for piece in answered(provider, asked("no-usage")) if isinstance(piece, Usage)]


def test_odd_but_harmless_events_are_passed_over(provider: Provider) -> None:
    assert text(answered(provider, asked("odd,text=yes"))) == "yes"


def test_thought_tags_in_the_text_stay_as_they_are(provider: Provider) -> None:
    assert text(answered(provider, asked("count-1,text=%3Cthink%3Ea%3C/think%3E%0A%0Ab"))) == "<think>a</think>\n\nb"


# What is sent


def sent(fake: FakeModels, provider: Provider, model: str, **more: Any) -> dict[str, Any]:
    """Ask and return the one call that the server saw."""
    model = f"{model},for={provider.name}"
    answered(provider, asked(model, **more))
    (call,) = fake.log(model)
    return call


LIMITS = {
    "anthropic": {"max_tokens": 9, "temperature": 0.5, "stream": True},
    "local": {"max_tokens": 9, "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}},
    "ollama": {"options": {"num_predict": 9, "temperature": 0.5}, "stream": True},
    "openai": {"max_tokens": 9, "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}},
    "vllm": {"max_tokens": 9, "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}},
    "xai": {"max_tokens": 9, "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}},
}


def test_limits_are_sent_by_their_names(fake: FakeModels, provider: Provider) -> None:
    call = sent(fake, provider, "count-2,limits", temperature=0.5, max_tokens=9)
    assert call["params"] == {"model": call["model"], **LIMITS[provider.name]}


def test_what_is_not_set_is_not_sent(fake: FakeModels, provider: Provider) -> None:
    given = {name: value for name, value in LIMITS[provider.name].items() if name.startswith("stream")}
    needed = {"max_tokens": 8192} if provider.name == "anthropic" else {}
    call = sent(fake, provider, "count-2,unset")
    assert call["params"] == {"model": call["model"], **given, **needed}


def test_the_history_is_sent_as_it_is(fake: FakeModels, provider: Provider) -> None:
    assert sent(fake, provider, "count-2,history")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello there"},
    ]


def test_keys_go_where_the_api_wants_them(fake: FakeModels, provider: Provider) -> None:
    headers = sent(fake, provider, "count-2,keys")["headers"]
    keys = {name: value for name, value in headers.items() if name in ("authorization", "x-api-key")}
    expected = {"anthropic": {"x-api-key": "***"}, "ollama": {}, "vllm": {}}
    assert keys == expected.get(provider.name, {"authorization": "Bearer ***"})
    assert headers["accept-encoding"] == "identity"
    assert "cookie" not in headers
    assert headers.get("anthropic-version") == ("2023-06-01" if provider.name == "anthropic" else None)


GOES_ON = {
    "anthropic": {},
    "local": {},
    "ollama": {},
    "vllm": {"continue_final_message": True, "add_generation_prompt": False},
}


@pytest.mark.parametrize("name", GOES_ON)
@pytest.mark.parametrize("prefix", ["1 2", "1 2 ", "1 2 3 4 5 6 7"])
def test_a_begun_answer_goes_on(fake: FakeModels, all_providers: Any, name: str, prefix: str) -> None:
    provider = all_providers[name]
    assert provider.can_continue
    model = f"count-12,goes-on={name}-{len(prefix)}"
    pieces = answered(provider, asked(model, prefix=prefix))
    assert prefix + text(pieces) == "1 2 3 4 5 6 7 8 9 10 11 12"
    (call,) = fake.log(model)
    kept = prefix.rstrip() if name == "anthropic" else prefix  # Anthropic takes no space at the end
    assert call["messages"][-1] == {"role": "assistant", "content": kept}
    assert GOES_ON[name].items() <= call["params"].items()


def test_who_cannot_go_on_says_so(all_providers: Any) -> None:
    assert {name for name in all_providers if all_providers[name].can_continue} == set(GOES_ON)


def test_anthropic_gets_no_empty_message(fake: FakeModels, all_providers: Any) -> None:
    turns = (Turn("user", "a"), Turn("assistant", " \n"), Turn("system", "s"), Turn("user", "b"))
    answered(all_providers["anthropic"], ChatRequest("count-1,empty", turns, temperature=1.7))
    (call,) = fake.log("count-1,empty")
    assert [message["content"] for message in call["messages"]] == ["s", "a", "b"]
    assert call["params"]["temperature"] == 1.0


# Once, and closed


@pytest.mark.parametrize(
    "model", ["close-before-headers", "status-503", "status-429,retry-after=0", "cut-rst-after-0", "redirect"]
)
def test_a_model_is_asked_once_whatever_happens(fake: FakeModels, provider: Provider, model: str) -> None:
    model = f"{model},once={provider.name}"
    with pytest.raises(ProviderError):
        answered(provider, asked(model))
    assert len(fake.log(model)) == 1


def test_nothing_is_asked_before_the_first_read(fake: FakeModels, provider: Provider) -> None:
    model = f"count-3,lazy={provider.name}"
    stream = provider.stream(asked(model))
    assert fake.log(model) == []
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(fake.log(model)) == 1


def test_a_reader_that_stops_closes_the_connection(fake: FakeModels, provider: Provider) -> None:
    model = f"endless,delay=0.01,left={provider.name}"
    stream = provider.stream(asked(model))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert fake.wait_for(lambda call: call["disconnected"], model=model)


def test_a_stream_that_nobody_holds_closes_the_connection(fake: FakeModels, provider: Provider) -> None:
    model = f"silent-after-1,dropped={provider.name}"
    stream = provider.stream(asked(model))
    next(stream)
    del stream
    gc.collect()
    assert fake.wait_for(lambda call: call["disconnected"], model=model)


def test_an_ended_answer_leaves_no_connection(fake: FakeModels, provider: Provider) -> None:
    model = f"count-3,one={provider.name}"
    for _ in range(3):
        answered(provider, asked(model))
    calls = fake.log(model)
    assert len({call["client"] for call in calls}) == 3
    assert {call["headers"]["connection"] for call in calls} == {"close"}


def test_a_burst_is_read_in_bounded_time(provider: Provider) -> None:
    assert len(text(answered(provider, asked("count-5000"))).split()) == 5000


# What there is


def test_models_are_listed_sorted_with_their_ids(provider: Provider) -> None:
    found = provider.models()
    assert [model.name for model in found] == sorted(
        ["count-20", "count-200,delay=0.01", "echo", "prompt", "reasoning"]
    )
    assert all(model.id == f"{provider.name}/{model.name}" and model.provider == provider.name for model in found)
    told = {"anthropic": None, "ollama": None}.get(provider.name, 8192)
    assert {model.context_length for model in found} == {told}


def test_only_what_is_configured_is_there() -> None:
    assert list(providers.load(Settings())) == ["ollama"]
    assert list(providers.load(settings_for("http://127.0.0.1:1"))) == list(NAMES) == list(registry.load(providers))
    for key in ("openai", "xai", "anthropic"):
        made = providers.load(Settings(**{f"{key}_api_key": KEY}))
        assert list(made) == sorted(["ollama", key])
        assert KEY not in repr(made)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/api", "https://h/api/v1"),
        ("https://h/openai/v1", "https://h/openai/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("http://u:p@h/v1?x=1", "http://u:p@h/v1"),
    ],
)
def test_an_address_is_taken_with_and_without_its_version(given: str, expected: str) -> None:
    assert _openai_api.base_url(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://box", "http://box:11434"),
        ("http://box:1234/v1", "http://box:1234"),
        ("http://box:1234/api/", "http://box:1234"),
        ("https://ollama.example.org", "https://ollama.example.org"),
        ("http://proxy/ollama", "http://proxy/ollama"),
    ],
)
def test_ollama_is_found_where_its_variable_says(given: str, expected: str) -> None:
    assert ollama.base_url(given) == expected


def test_openai_itself_gets_the_new_name_of_the_limit() -> None:
    own = openai.provider(Settings(openai_api_key=KEY))
    assert own is not None
    assert own.body(asked("gpt-x", max_tokens=5))["max_completion_tokens"] == 5
    assert own.api.base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("gpt-5", True), ("o4-mini", True), ("text-embedding-3-small", False), ("whisper-1", False), ("tts-1-hd", False),
     ("gpt-4o-mini-tts", False), ("gpt-image-1", False), ("dall-e-3", False), ("grok-4", True), ("gpt-4o-audio-preview", False),
     ("grok-2-image", False), ("omni-moderation-latest", False), ("mistral-medium", True), ("gpt-realtime", False)],
)  # fmt: skip
def test_what_is_not_for_chat_is_not_shown(name: str, shown: bool) -> None:
    assert (_openai_api.NOT_FOR_CHAT.search(name) is None) == shown


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("/models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "llama-3.2-1b"),
        ("C:\\models\\gemma-3-1b-it-F16.gguf", "gemma-3-1b-it"),
        ("qwen2.5-0.5b-instruct-iq4_xs.gguf", "qwen2.5-0.5b"),
        ("model.gguf", "model"),
        ("smollm2-135m", "smollm2-135m"),
    ],
)
def test_the_built_in_model_has_a_readable_name(told: str, name: str) -> None:
    provider = local.provider(Settings(local_model_url="http://127.0.0.1:1"))
    assert provider is not None
    model = provider.model(told, {"meta": {"n_ctx_train": 8192, "n_ctx": 2048}})
    assert (model.id, model.context_length) == (f"local/{name}", 2048)
