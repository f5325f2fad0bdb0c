"""Requests that come twice, crash in between, or stop what is being made elsewhere. What dies and freezes: tests/chaos."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.chaos import latency
from tests.chaos.load import Load, answer_numbers, obeyed, order, percentile
from tests.chaos.model import Known, Model
from tests.chaos.reader import STREAMS, Reader
from tests.support.site import Site, wait_until

AT_ONCE = 50
SECONDS = 20  # that something may take on a busy machine; how long it takes is measured by `make chaos`
Make = Callable[..., Site]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model() as running:
        yield running


@pytest.fixture(scope="module")
def known_site(new_site: Make, model: Model) -> Make:
    """Make sites that ask the model whose answers are known before."""

    def make(workers: int, **environ: str) -> Site:
        options = {**model.environ(), "CHATAPP_WORKERS": str(workers), **environ}
        return new_site(application="tests.support.failing_wsgi", **options)

    return make


@pytest.fixture(scope="module")
def site(known_site: Make) -> Site:
    return known_site(2)


# Asked twice


def ask_at_once(site: Site, model: Model) -> tuple[int, int, int, int]:
    """Send a start many times at once; return how many answers, questions, calls of the model and failures there are."""
    load, key = Load(site, model), str(uuid.uuid4())
    known = Known(next(answer_numbers), 5, delay=0)
    body = {"prompt": known.prompt(), "modelId": "ollama/numbers", "chatId": "chat", "requestId": key}
    headers = dict(load.client.http.headers)

    def start(_: int) -> Any:
        reply = requests.post(f"{site.url}/api/chat/start", json=body, headers=headers, timeout=60)
        return reply.json() if reply.status_code == 201 else None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(start, range(AT_ONCE)))
    good = [reply for reply in said if reply]
    for generation_id in {reply["generationId"] for reply in good}:
        list(load.client.follow(generation_id))
    messages = load.client.conversation(good[0])["messages"]
    questions = sum(message["role"] == "user" for message in messages)
    return len({reply["generationId"] for reply in good}), questions, len(model.calls(known.answer)), said.count(None)


def test_a_start_that_comes_fifty_times_at_once_is_one(known_site: Make, model: Model) -> None:
    site = known_site(4)
    for _ in range(2):
        assert ask_at_once(site, model) == (1, 1, 1, 0)


def test_the_control_without_its_key_it_is_many(known_site: Make, model: Model) -> None:
    answers, _, calls, _ = ask_at_once(known_site(1, CHATAPP_TEST_WITHOUT="key"), model)
    assert answers > 1
    assert calls > 1


def test_a_start_that_crashed_before_its_reply_is_found_again(site: Site, model: Model) -> None:
    load, key = Load(site, model), str(uuid.uuid4())
    known = Known(next(answer_numbers), 50, delay=0.01)
    order(site, "question-committed 1 kill")
    with pytest.raises(requests.ConnectionError):
        load.client.start(known.prompt(), "ollama/numbers", requestId=key)
    assert obeyed(site)
    wait_until(site.answers)
    again = [load.client.start(known.prompt(), "ollama/numbers", requestId=key) for _ in range(2)]
    assert again[0]["generationId"] == again[1]["generationId"]
    reader = Reader.of(load.client, STREAMS["native"](again[0]))
    reader.read_to_end(30)
    assert reader.text == known.text()
    assert [message["role"] for message in load.client.conversation(again[0])["messages"]] == ["user", "assistant"]
    assert len(load.client.call("GET", "/api/chat/conversations")["conversations"]) == 1
    assert len(model.calls(known.answer)) == 1


# Stopped


def stopped(load: Load, path: str) -> tuple[dict[str, Any], float]:
    begun = time.monotonic()
    message: dict[str, Any] = load.client.call("POST", path)["message"]
    return message, time.monotonic() - begun


@pytest.mark.parametrize("silence", [60, 0], ids=["before the first word", "in the middle"])
def test_an_answer_that_is_stopped_keeps_what_was_shown(site: Site, model: Model, silence: float) -> None:
    load = Load(site, model)
    [answer] = load.start(1, tokens=10_000, delay=0.01, silence=silence)
    number, [reader] = answer.known.answer, answer.readers
    wait_until(lambda: model.calls(number) and (silence or len(reader.frames) > 5))
    asked = time.monotonic()
    message, seconds = stopped(load, latency.stop_path(answer))
    assert message["status"] == "stopped"
    assert answer.known.text().startswith(message["content"])
    assert bool(message["content"]) == (not silence)
    assert seconds < SECONDS
    left = wait_until(lambda: model.calls(number)[0]["left"], SECONDS, "the model being left")
    assert left - asked < SECONDS
    wait_until(lambda: reader.ended)
    assert reader.text == message["content"]
    assert reader.frames[-1].json["message"] == message
    assert stopped(load, latency.stop_path(answer))[0] == message  # once more: nothing changes
    assert len(model.calls(number)) == 1


def test_an_answer_that_has_ended_is_stopped_in_vain(site: Site, model: Model) -> None:
    load = Load(site, model)
    [answer] = load.start(1, tokens=10, delay=0)
    wait_until(lambda: answer.readers[0].ended)
    before = load.stored(answer)
    assert stopped(load, latency.stop_path(answer))[0] == before
    assert (before["status"], before["content"]) == ("finished", answer.known.text())


def test_an_answer_is_stopped_from_another_worker_too(site: Site, model: Model) -> None:
    assert percentile(latency.stops(site, model, 3, elsewhere=True), 0.5) < SECONDS


def test_many_stops_leave_the_model_each_time(site: Site, model: Model) -> None:
    assert percentile(latency.stops(site, model, 5), 0.5) < SECONDS


# Many silent streams


def test_silent_streams_cost_little_and_are_freed(known_site: Make, model: Model) -> None:
    idle = latency.idle_streams(known_site(1), model, 300, requests=50)
    assert idle.bytes_each < 100_000
    assert idle.freed_after < SECONDS
    assert idle.request_p99 < SECONDS
