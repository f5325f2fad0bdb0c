"""Model APIs that cannot be reached, hang, refuse, break off or send what they like: through the whole site."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import gevent
import pytest
import requests

from chatapp import providers
from chatapp.errors import ProviderError, ProviderTimeout
from chatapp.providers import _http
from chatapp.settings import Settings
from tests.faults._streams import text_of
from tests.providers.conftest import asked, settings_for
from tests.support.fake_models import BODY_CANARY, FakeModels
from tests.support.site import Client, Site

APIS = ("openai", "anthropic", "ollama")
TITLES = {"openai": "OpenAI", "anthropic": "Anthropic", "ollama": "Ollama", "vllm": "vLLM", "xai": "xAI"}


class Asked(NamedTuple):
    """An answer as it was streamed, and as it is stored."""

    seconds: float
    text: str
    code: str | None
    last: dict[str, Any]
    stored: dict[str, Any]
    question: str


def ask(client: Client, model: str) -> Asked:
    mine = Client(client.url)  # a connection of its own: several ask at once
    mine.http.headers.update(client.http.headers)
    began = time.monotonic()
    started, frames = mine.ask("Where is it?", model)
    seconds = time.monotonic() - began
    last = json.loads(frames[-1].data)
    assert [frame.event in ("done", "fail") for frame in frames].count(True) == 1
    question, stored = mine.conversation(started)["messages"]
    code = last["code"] if frames[-1].event == "fail" else None
    made = Asked(seconds, text_of(frames), code, last, stored, question["content"])
    assert made.question == "Where is it?"
    assert stored["content"] == made.text
    assert (stored["error"] or {}).get("code") == made.code
    assert BODY_CANARY not in frames[-1].data
    assert "canary" not in frames[-1].data
    return made


def ask_all(client: Client, models: list[str]) -> dict[str, Asked]:
    with ThreadPoolExecutor(len(models)) as pool:
        return dict(zip(models, pool.map(lambda model: ask(client, model), models), strict=True))


# Not there


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: connecting takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for client in waiting:
            client.close()


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_model_that_cannot_be_reached_is_told_soon_and_by_name(
    build: Callable[..., Site], full_port: int, mute_port: int
) -> None:
    site = build(
        "slow_names",
        FULL_PORT=str(full_port),
        OPENAI_BASE_URL="http://127.0.0.1:1",
        XAI_BASE_URL=f"https://127.0.0.1:{mute_port}",
        VLLM_BASE_URL="http://nowhere.invalid",
        ANTHROPIC_BASE_URL="http://slow.invalid",
        OLLAMA_HOST="http://many.invalid",
        CHATAPP_CONNECT_SECONDS="1",
        CHATAPP_FIRST_EVENT_SECONDS="60",
    )
    told = ask_all(site.new_user(), [f"{name}/echo" for name in TITLES])
    for model, answer in told.items():
        name = model.partition("/")[0]
        assert answer.seconds < 6, model
        assert answer.last["message"].startswith((TITLES[name], f"The name of {TITLES[name]}'s server")), answer.last
        assert (answer.stored["status"], answer.last["retryable"]) == ("failed", True)
        late = name in ("anthropic", "ollama", "xai")
        assert answer.code == ("provider_timeout" if late else "provider_unavailable"), model


def test_the_control_without_a_limit_for_all_of_connecting_a_slow_name_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*arguments: Any, **options: Any) -> Any:
        gevent.sleep(0.5)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    provider = providers.load(Settings(vllm_base_url="http://slow.invalid", connect_seconds=0.1))["vllm"]
    with pytest.raises(ProviderTimeout):
        list(provider.stream(asked("echo")))
    monkeypatch.delattr(_http.Connecting, "connect")
    with pytest.raises(ProviderError, match="is not known"):
        list(provider.stream(asked("echo")))


# Silent


def test_a_model_that_says_nothing_of_use_is_left_at_the_limit_in_every_phase(
    site: Site, fake_models: FakeModels
) -> None:
    """The site of the tests waits 3 s for a first event and 2 s for the next; bytes and comments are none."""
    ada = site.new_user()
    phases = {"silent-headers": "", "silent-body": "", "silent-after-2": "1 2", "drip": "", "heartbeats-only": ""}
    test = uuid.uuid4().hex
    models = {f"{api}/{phase},test={test}": text for api in APIS for phase, text in phases.items()}
    for model, answer in ask_all(ada, list(models)).items():
        assert (answer.code, answer.text) == ("provider_timeout", models[model]), model
        assert answer.last["retryable"] is True
        assert model in answer.last["message"]
        assert answer.seconds < 12, model
        call = fake_models.wait_for(lambda call: call["ended"], model=model.partition("/")[2])
        assert call["disconnected"]


# Refused


BODIES = ("", "-html", ",body=none", ",body=huge", ",body=silent")
STATUSES = {401: "provider_unavailable", 403: "provider_unavailable", 429: "rate_limited", 500: "provider_unavailable",
            503: "provider_unavailable", 504: "provider_timeout"}  # fmt: skip


def test_a_refusal_is_understood_whatever_its_body_and_asked_for_once(site: Site, fake_models: FakeModels) -> None:
    test = uuid.uuid4().hex
    models = {f"openai/status-{status}{body},retry-after=7,test={test}": code
              for status, code in STATUSES.items() for body in BODIES}  # fmt: skip
    ada = site.new_user()
    for model, answer in ask_all(ada, list(models)).items():
        assert (answer.code, answer.text) == (models[model], ""), model
        assert answer.stored["status"] == "failed"
        assert answer.seconds < 10
        assert answer.last["retryable"] == (not model.startswith(("openai/status-401", "openai/status-403")))
        if model.startswith(("openai/status-429", "openai/status-5")) and "504" not in model:
            assert "in 7 seconds" in answer.last["message"], model
        assert len(fake_models.log(model.partition("/")[2])) == 1


def test_the_control_a_status_whose_body_is_waited_for_is_a_timeout(fake_models: FakeModels) -> None:
    """As `requests` would have it: `Response.json()` reads to the end, and the end does not come."""
    with requests.post(
        f"{fake_models.url}/v1/chat/completions",
        json={"model": "status-429,body=silent", "messages": []},
        stream=True,
        timeout=0.5,
    ) as response:
        assert response.status_code == 429
        with pytest.raises(requests.ConnectionError, match="timed out"):
            response.json()


# Redirected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(fake_models: FakeModels, status: int) -> None:
    model = f"redirect,status={status},to=/v1/chat/completions,test={uuid.uuid4()}"
    provider = providers.load(settings_for(fake_models.url))["openai"]
    with pytest.raises(ProviderError, match="redirect, which is not followed"):
        list(provider.stream(asked(model)))
    assert len(fake_models.log(model)) == 1


def test_the_control_a_redirect_that_is_followed_is_seen(
    fake_models: FakeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trusting(requests.Session):
        asked = False

        def send(self, request: Any, **options: Any) -> requests.Response:
            follow, self.asked = not self.asked, True
            return super().send(request, **(options | ({"allow_redirects": True} if follow else {})))

    monkeypatch.setattr(_http, "OneCall", Trusting)
    model = f"redirect,status=307,to=/v1/chat/completions,test={uuid.uuid4()}"
    with pytest.raises(ProviderError):
        list(providers.load(settings_for(fake_models.url))["openai"].stream(asked(model)))
    assert len(fake_models.log(model)) > 1


def test_a_redirect_into_the_machines_own_network_is_told_and_not_followed(site: Site) -> None:
    answer = ask(site.new_user(), "openai/redirect")
    assert answer.code == "provider_unavailable"
    assert "redirect" in answer.last["message"]
    assert "169.254" not in json.dumps(answer.last)


# What APIs say in the middle of an answer


@pytest.mark.parametrize("api", APIS)
def test_what_an_api_says_about_its_answer_is_shown_as_such(site: Site, api: str) -> None:
    ada = site.new_user()
    names = ["length", "tools", "reasoning", "error-in-stream-after-2,status=429"]
    names += [] if api == "ollama" else ["content-filter-after-2"]  # its API has none
    told = {name.partition(",")[0]: answer for name, answer in zip(
        names, ask_all(ada, [f"{api}/{name}" for name in names]).values(), strict=True)}  # fmt: skip
    ten = " ".join(map(str, range(1, 11)))
    cut = told["length"].stored
    assert (cut["status"], cut["finish_reason"], cut["content"]) == ("finished", "length", ten)
    tools = told["tools"].stored
    assert (tools["status"], tools["finish_reason"], tools["content"]) == ("finished", "stop", ten)
    assert "get_weather" not in json.dumps(tools)
    thought = told["reasoning"].stored
    assert (thought["reasoning"], thought["content"]) == ("1 2 3 4 5", ten)
    failed = told["error-in-stream-after-2"]
    assert failed.code == ("provider_unavailable" if api == "ollama" else "rate_limited")
    assert (failed.stored["status"], failed.text) == ("failed", "1 2")
    if api != "ollama":
        filtered = told["content-filter-after-2"]
        assert (filtered.code, filtered.text, filtered.last["retryable"]) == ("provider_unavailable", "1 2", False)
        assert "filter" in filtered.last["message"]


# Too much


def test_what_is_too_much_is_told_as_such_and_what_came_is_kept(site: Site) -> None:
    """Lines without an end, answers without an end, and gzip that nobody asked for."""
    [worker] = site.workers()
    before = worker.memory_info().rss
    ada = site.new_user()
    names = ["huge-line", "huge-line,gzip", "bomb", "endless,size=20000,delay=0.002"]
    for model, answer in ask_all(ada, [f"{api}/{name}" for api in ("openai", "ollama") for name in names]).items():
        assert (answer.code, answer.last["retryable"]) == ("payload_too_large", False), model
        assert bool(answer.text) == ("endless" in model)
        assert len(answer.text) <= 8 * 1024 * 1024
    assert worker.memory_info().rss - before < 200 * 1024 * 1024


def test_headers_without_an_end_are_an_error_of_the_provider(site: Site) -> None:
    answer = ask(site.new_user(), "openai/continue-for-ever")
    assert (answer.code, answer.stored["status"]) == ("provider_unavailable", "failed")
