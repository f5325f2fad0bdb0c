"""Controls: what people would see if a guard were not there, by a site without it. Each is the opposite of a test elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.site import Client, Site, wait_until

GUARDS = "outlive replay refusal rights expiry"
SECONDS = 1  # that a session lasts, and the log of an ended answer


@pytest.fixture(scope="module")
def bare(new_site: Callable[..., Site]) -> Site:
    return new_site(
        "tests.support.failing_wsgi",
        CHATAPP_TEST_WITHOUT=GUARDS,
        CHATAPP_SESSION_SECONDS=str(SECONDS),
        CHATAPP_STREAM_RETENTION_SECONDS=str(SECONDS),
    )


@pytest.fixture
def eve(bare: Site) -> Client:
    return bare.new_user("Eve")


def events(started: dict[str, Any]) -> str:
    return f"/api/generations/{started['generationId']}/events"


def test_an_answer_that_ends_with_its_reader_is_cut_short(eve: Client) -> None:
    started = eve.start("count", "openai/count-300,delay=0.01")
    stream = eve.follow(started["generationId"])
    while next(stream).event != "token":
        pass
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: eve.answer(started)["status"] != "running")
    assert eve.answer(started)["status"] == "stopped"


def test_an_answer_that_only_its_log_could_tell_is_lost_with_it(eve: Client) -> None:
    started, frames = eve.ask("one two")
    assert frames[-1].event == "done"
    wait_until(lambda: eve.request("GET", events(started)).status_code == 404)


def test_a_reader_who_comes_back_signed_out_gets_a_status_that_ends_event_source(eve: Client) -> None:
    started, _ = eve.ask("one two")
    stranger = Client(eve.url)
    assert stranger.request("GET", events(started), headers={"Last-Event-ID": "1"}).status_code == 401


def test_a_reader_whose_rights_are_asked_for_once_reads_on_after_the_sign_out(eve: Client) -> None:
    started = eve.start("count", "openai/count-2000,delay=0.05")
    stream = eve.follow(started["generationId"])
    next(stream)
    other = Client(eve.url)
    other.http.headers.update(eve.http.headers)
    other.call("POST", "/api/auth/logout", status=204)
    until = time.monotonic() + 6.5  # a site with the guard tells them within five
    while time.monotonic() < until:
        assert next(stream).event in ("status", "token")
    stream.close()  # type: ignore[attr-defined]


def test_a_session_that_does_not_expire_is_opened_late(eve: Client) -> None:
    started = eve.start("count", "openai/count-300,delay=0.02")
    time.sleep(SECONDS + 0.2)
    stream = eve.frames(f"/api/chat/stream?sessionId={started['sessionId']}")
    assert '"token"' in next(stream).data
    stream.close()  # type: ignore[attr-defined]
