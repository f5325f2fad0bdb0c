"""A restart or a reload under live answers: nobody loses a word."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.chaos import kills
from tests.chaos.load import Load, obeyed, order
from tests.chaos.model import Model
from tests.chaos.reader import STREAMS, Reader
from tests.support.site import Site, wait_until

GAP_SECONDS = 40  # on a busy machine; what it really is, is measured by `make chaos`


@pytest.fixture(scope="module")
def site(failing_site: Callable[..., Site]) -> Site:
    return failing_site(2, CHATAPP_DRAIN_SECONDS="1")


@pytest.mark.parametrize("act", [kills.reload, kills.restart], ids=["HUP", "TERM"])
def test_answers_go_on_after_a_deploy(site: Site, model: Model, act: Callable[[Site], None]) -> None:
    judgement, gap, _ = kills.deploy(site, model, act)
    assert (judgement.faults, judgement.notes) == (0, [])
    assert judgement.finished == judgement.answers
    assert judgement.went_on
    assert gap < GAP_SECONDS


def test_answers_that_end_soon_are_waited_for(failing_site: Callable[..., Site], model: Model) -> None:
    site = failing_site(CHATAPP_DRAIN_SECONDS="20")
    load = Load(site, model)
    load.start(3, tokens=100, delay=0.01)
    load.wait_for_words()
    site.restart()
    judgement = load.judge()
    assert (judgement.faults, judgement.finished, judgement.went_on) == (0, 3, 0)


def test_who_dies_while_it_drains_loses_nothing(site: Site, model: Model) -> None:
    load = Load(site, model)
    load.start(5, tokens=250, delay=0.01)
    load.wait_for_words()
    order(site, "draining 1 kill")
    kills.restart(site)
    assert obeyed(site)
    judgement = load.judge()
    assert (judgement.faults, judgement.notes) == (0, [])


def test_a_site_that_drains_begins_no_answer_and_says_when_to_come_again(
    failing_site: Callable[..., Site], model: Model
) -> None:
    site = failing_site(CHATAPP_DRAIN_SECONDS="60")
    load = Load(site, model)
    [answer] = load.start(1, tokens=10_000, delay=0.01)
    load.wait_for_words()
    kills.end_with(site, signal.SIGTERM)

    def refused() -> list[requests.Response]:
        response = load.client.request("POST", "/api/chat/start", {"prompt": "answer=0", "modelId": "ollama/numbers"})
        return [response] if response.status_code == 503 else []

    [response] = wait_until(refused)
    assert response.json()["error"]["code"] == "overloaded"
    assert int(response.headers["Retry-After"]) > 0
    load.client.call("POST", f"/api/chat/conversations/{answer.started['conversationId']}/stop")
    assert site.process is not None
    assert site.process.wait(45) == 0  # there is nothing left to wait for
    site.process = None


def test_readers_are_let_go_cleanly_and_told_to_come_back_soon(failing_site: Callable[..., Site], model: Model) -> None:
    site = failing_site(CHATAPP_DRAIN_SECONDS="0")
    load = Load(site, model)
    [answer] = load.start(1, tokens=10_000, delay=0.01)
    reader = Reader.of(load.client, STREAMS["native"](answer.started))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.read)
        wait_until(lambda: len(reader.frames) > 3)
        kills.end_with(site, signal.SIGTERM)
        reading.result(30)
    assert reader.last.whole  # the last chunk came: a proxy need not report a broken answer
    assert 0 < reader.last.retries[-1] < reader.last.retries[0]
    assert (reader.ended, reader.notes) == (False, [])
    assert site.process is not None
    site.process.wait(45)
    site.start()
    load.client.call("POST", f"/api/chat/conversations/{answer.started['conversationId']}/stop")
