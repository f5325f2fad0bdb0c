"""Answers that are given again: whose, when, and when not. Each refusal stands beside what would have been taken."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from chatapp import responses
from chatapp.caches.memory import Cache
from chatapp.database import connected, engine_for
from chatapp.events import Failed, Finished
from chatapp.models.generations import Generation
from chatapp.providers import Turn
from chatapp.runner import Job, Script
from chatapp.settings import Settings
from tests.support.fake_models import FakeModels
from tests.support.redis_server import RedisServer
from tests.support.site import Client, Site, wait_until

JOB = Job(
    conversation_id="c",
    message={"generation_id": "g"},
    model="openai/big",
    params={"system_prompt": "Be brief.", "max_tokens": 100},
    turns=(Turn("system", "Be brief."), Turn("user", "Why?")),
    user_id="ada",
)
ANSWER = Finished({"content": "Because 🦊.", "sources": None}, "stop", {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, secret_key="x" * 64, cache_seconds=60)


def given(settings: Settings, job: Job, *, kept: Job = JOB, answer: Any = ANSWER) -> Script | None:
    """Return what *job* is answered with after *answer* to *kept* has ended."""
    cache = Cache()
    responses.keep(cache, settings, kept, answer)
    return responses.find(cache, settings, job)


def test_the_same_is_given_again(settings: Settings) -> None:
    assert given(settings, JOB) == Script("Because 🦊.", "cached")
    again = replace(JOB, conversation_id="d", message={"generation_id": "h"}, new=True)
    assert given(settings, again) == Script("Because 🦊.", "cached")


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, user_id="bob"),
        replace(JOB, model="openai/small"),
        replace(JOB, params={**JOB.params, "max_tokens": 101}),
        replace(JOB, params={**JOB.params, "temperature": 0.7}),
        replace(JOB, params={**JOB.params, "document_ids": ["x"]}),
        replace(JOB, turns=JOB.turns[1:]),
        replace(JOB, turns=(Turn("system", "Rhyme."), JOB.turns[1])),
        replace(JOB, turns=(JOB.turns[0], Turn("user", "a"), Turn("assistant", "b"), JOB.turns[1])),
        replace(JOB, turns=(JOB.turns[0], Turn("user", "why?"))),
        replace(JOB, turns=(Turn("user", "Be brief."), JOB.turns[1])),
        replace(JOB, turns=(Turn("system", 'Be brief."],["user","Why?'),)),
    ],
)
def test_whatever_differs_is_another_question(settings: Settings, other: Job) -> None:
    assert given(settings, other) is None
    assert given(settings, other, kept=other) is not None


def test_the_order_of_settings_is_no_difference(settings: Settings) -> None:
    assert given(settings, replace(JOB, params=dict(reversed(JOB.params.items())))) is not None


def test_another_sites_key_finds_nothing(settings: Settings) -> None:
    cache = Cache()
    responses.keep(cache, settings, JOB, ANSWER)
    assert responses.find(cache, replace(settings, secret_key="y" * 64), JOB) is None


def test_a_name_tells_nothing_of_the_question(settings: Settings) -> None:
    name = responses.key(settings, JOB)
    assert len(name) == len("answer:") + 64
    assert "Why" not in name


@pytest.mark.parametrize(
    "answer",
    [
        Failed("internal_error", "broken", retryable=True),
        *(replace(ANSWER, finish_reason=reason) for reason in ("stopped", "length", "cached")),
        replace(ANSWER, message={"content": "", "sources": None}),
        replace(ANSWER, message={"content": "x" * (responses.MAX_BYTES + 1), "sources": None}),
        replace(ANSWER, message={"content": "x", "sources": [{"text": "x"}]}),
    ],
)
def test_only_whole_answers_are_kept(settings: Settings, answer: Any) -> None:
    assert given(settings, JOB, answer=answer) is None


@pytest.mark.parametrize("job", [replace(JOB, script=Script("x")), replace(JOB, seams=(3,))])
def test_only_what_a_model_said_in_one_go_is_kept(settings: Settings, job: Job) -> None:
    assert given(settings, JOB, kept=job) is None


def test_without_seconds_there_is_no_cache(settings: Settings) -> None:
    off = replace(settings, cache_seconds=0)
    cache = Cache()
    responses.keep(cache, off, JOB, ANSWER)
    assert responses.find(cache, settings, JOB) is None
    responses.keep(cache, settings, JOB, ANSWER)
    assert responses.find(cache, off, JOB) is None


def test_a_cache_that_fails_is_only_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Cache):
        def get(self, key: str) -> bytes | None:
            raise OSError("the cache is away")

    assert responses.find(Broken(), settings, JOB) is None
    assert "the cache failed" in caplog.text
    rubbish = Cache()
    rubbish.put(responses.key(settings, JOB), b"\xff", seconds=60)
    assert responses.find(rubbish, settings, JOB) is None


# the site


@pytest.fixture(scope="module", params=["1 worker", "redis, 2 workers"])
def house(
    request: pytest.FixtureRequest, new_site: Callable[..., Site], new_redis: Callable[..., RedisServer]
) -> Iterator[Site]:
    more: dict[str, str] = {}
    if request.param != "1 worker":
        more = {"CHATAPP_WORKERS": "2", "CHATAPP_REDIS_URL": new_redis().url}
    site = new_site(CHATAPP_CACHE_SECONDS="60", **more)
    yield site
    assert "Traceback" not in site.log(), site.log()[-4000:]


def new(scenario: str = "echo") -> str:
    return f"{scenario},test={uuid.uuid4().hex}"


def done(client: Client, started: dict[str, Any]) -> dict[str, Any]:
    """Return the stored answer; its events must tell the same."""
    frames = list(client.follow(started["generationId"]))
    answer = client.answer(started)
    text = "".join(json.loads(frame.data)["content"] for frame in frames if frame.event == "token")
    assert text == answer["content"]
    if frames[-1].event == "done":
        assert json.loads(frames[-1].data)["message"] == answer
    return answer


def cached(client: Client, started: dict[str, Any]) -> bool:
    answer = done(client, started)
    assert answer["metadata"]["cached"] == (answer["finish_reason"] == "cached")
    return bool(answer["metadata"]["cached"])


def kept(client: Client, model: str, prompt: str = "one two three") -> dict[str, Any]:
    """Ask *model* in a new conversation; wait until the answer is kept, which is after its end."""
    started = client.start(prompt, f"openai/{model}")
    assert not cached(client, started)
    wait_until(lambda: cached(client, client.start(prompt, f"openai/{model}")), what="a cached answer")
    return started


def test_a_question_asked_again_is_answered_from_the_cache(house: Site, fake_models: FakeModels) -> None:
    ada, model = house.new_user(), new()
    kept(ada, model)
    calls = len(fake_models.log(model))
    started = ada.start("one two three", f"openai/{model}")
    frames = list(ada.frames(f"/api/chat/stream?sessionId={started['sessionId']}"))
    events = [json.loads(frame.data) for frame in frames]
    assert "".join(event["content"] for event in events[:-1]) == "one two three"
    assert events[-1] == {"type": "done"}
    answer = done(ada, started)
    assert (answer["status"], answer["finish_reason"]) == ("finished", "cached")
    assert answer["metadata"]["cached"] is True
    assert answer["model"] == f"openai/{model}"
    assert len(fake_models.log(model)) == calls


def test_nobody_is_answered_from_somebody_elses(house: Site, fake_models: FakeModels) -> None:
    ada, bob, model = house.new_user(), house.new_user("Bob"), new()
    kept(ada, model)
    calls = len(fake_models.log(model))
    assert not cached(bob, bob.start("one two three", f"openai/{model}"))
    assert len(fake_models.log(model)) == calls + 1


def test_another_history_or_system_prompt_is_another_question(house: Site) -> None:
    ada, model = house.new_user(), new()
    started = kept(ada, model)
    same = {"model": f"openai/{model}", "chatId": started["chatId"]}
    assert not cached(ada, ada.start("one two three", **same))  # after itself
    ada.ask("/system Rhyme.", chatId="other")
    assert not cached(ada, ada.start("one two three", f"openai/{model}", chatId="other"))
    assert not cached(ada, ada.start("one two three", f"openai/{new()}"))
    body = {"message": "one two three", "model": f"openai/{model}"}
    rest = ada.call("POST", "/api/v1/ai/chat", body)  # other settings
    assert rest["message"]["metadata"]["cached"] is False
    assert cached(ada, ada.start("one two three", f"openai/{model}"))


def test_asking_anew_and_going_on_ask_the_model(house: Site, fake_models: FakeModels) -> None:
    ada, model = house.new_user(), new()
    started = kept(ada, model)
    calls = len(fake_models.log(model))
    again = ada.call("POST", f"/api/chat/messages/{started['messageId']}/regenerate", {}, 201)
    assert not cached(ada, again)
    assert len(fake_models.log(model)) == calls + 1
    edited = ada.call("PATCH", f"/api/chat/messages/{started['userMessageId']}", {"content": "one two three"}, 201)
    assert cached(ada, edited)


@pytest.mark.parametrize("scenario", ["length", "cut-fin-after-3", "error-in-stream-after-2", "status-500"])
def test_what_was_not_whole_is_not_given_again(house: Site, fake_models: FakeModels, scenario: str) -> None:
    ada, model = house.new_user(), new(scenario)
    for _ in range(2):
        started = ada.start("x", f"openai/{model}")
        assert not (done(ada, started)["metadata"] or {}).get("cached")
    assert len(fake_models.log(model)) >= 2


def test_a_stopped_answer_is_not_given_again(house: Site, fake_models: FakeModels) -> None:
    ada, model = house.new_user(), new("count-500,delay=0.01")
    for calls in (1, 2):
        started = ada.start("x", f"openai/{model}")
        wait_until(lambda calls=calls: len(fake_models.log(model)) == calls)
        ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
        assert done(ada, started)["status"] == "stopped"


def test_what_is_given_again_is_stored_for_whoever_takes_it_over(house: Site) -> None:
    ada, model = house.new_user(), new()
    kept(ada, model)
    started = ada.start("one two three", f"openai/{model}")
    assert cached(ada, started)
    engine = engine_for(Settings.load(house.environ, dotenv=None))
    with connected(engine) as connection:
        params = connection.scalar(select(Generation.params).where(Generation.id == started["generationId"]))
    engine.dispose()
    assert params is not None
    assert params["script"] == {"text": "one two three", "finish_reason": "cached"}
