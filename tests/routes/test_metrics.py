"""Counts for Prometheus: right across workers, also killed ones, and without a word of what people wrote."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from chatapp import metrics
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site]) -> Site:
    return new_site(CHATAPP_WORKERS="2", CHATAPP_CACHE_SECONDS="60")


def scraped(site: Site, **options: object) -> str:
    """Return what Prometheus reads, on a connection of its own."""
    answer = requests.get(f"{site.url}/metrics", timeout=90, **options)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return answer.text


def value(site: Site, name: str, **labels: str) -> float:
    """Return the sum of the samples called *name* that have these *labels*."""
    samples = [
        sample
        for family in text_string_to_metric_families(scraped(site))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(sample.value for sample in samples)


def test_answers_are_counted_over_all_workers(house: Site) -> None:
    ada, echo = house.new_user(), {"provider": "openai", "model": "echo"}
    ada.call("GET", "/api/models")
    names = (
        "chatapp_answers_started_total",
        "chatapp_answers_ended_total",
        "chatapp_time_to_first_token_seconds_count",
    )
    before = {name: value(house, name, **echo) for name in names}
    tokens = value(house, "chatapp_tokens_total", provider="openai", kind="completion")
    started = value(house, "chatapp_streams_started_total")
    for number in range(8):
        ada.http.close()  # the next connection may be another worker's
        ada.ask(f"hello {number}")
    for name in names:
        wait_until(lambda name=name: value(house, name, **echo) == before[name] + 8, 10, name)  # type: ignore[misc]
    assert value(house, "chatapp_answers_ended_total", **echo, status="finished", reason="stop") >= 8
    assert value(house, "chatapp_tokens_total", provider="openai", kind="completion") >= tokens + 16
    assert value(house, "chatapp_streams_started_total") == started + 8
    assert value(house, "chatapp_streams_ended_total", reason="answered") >= 8
    for one in (0, 1):  # whoever is asked says the same
        assert value(house, "chatapp_answers_ended_total", **echo) == before[names[1]] + 8, one


def test_open_streams_are_counted_while_they_are_open_also_where_a_worker_is_killed(
    house: Site, fake_models: FakeModels
) -> None:
    ada, slow = house.new_user(), fake_models.slow(2000)
    started = ada.start("hello", f"openai/{slow}")
    streams = [ada.follow(started["generationId"]) for _ in range(4)]
    for stream in streams:
        next(stream)
    wait_until(lambda: value(house, "chatapp_streams_open") == 4, 10)
    streams.pop().close()  # type: ignore[attr-defined]
    wait_until(lambda: value(house, "chatapp_streams_open") == 3, 10)
    counted = value(house, "chatapp_streams_started_total")
    for worker in house.workers():
        os.kill(worker.pid, signal.SIGKILL)
    wait_until(house.answers)
    wait_until(lambda: value(house, "chatapp_streams_open") == 0, 10, "streams of killed workers are closed")
    assert value(house, "chatapp_streams_started_total") == counted  # what they counted stays
    fake_models.hurry(slow)
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_failures_and_requests_are_counted_by_what_they_are(house: Site) -> None:
    ada = house.new_user()
    _, frames = ada.ask("hello", "openai/status-401")
    assert frames[-1].event == "fail"
    failed = {"provider": "openai", "code": "provider_unavailable"}
    wait_until(lambda: value(house, "chatapp_provider_errors_total", **failed) >= 1, 10)
    check_error(ada.request("GET", f"/api/chat/conversations/{uuid.uuid4()}"), 404)
    route = "/api/chat/conversations/<uuid:conversation_id>"
    assert value(house, "chatapp_http_requests_total", method="GET", route=route, status="404") >= 1
    assert value(house, "chatapp_http_request_duration_seconds_count", method="GET", route=route) >= 1
    ada.request("BREW", "/no/such/place")
    assert value(house, "chatapp_http_requests_total", method="other", route="none") >= 1


def test_hits_and_misses_of_the_cache_are_counted(house: Site) -> None:
    hits, misses = (value(house, f"chatapp_cache_{name}_total") for name in ("hits", "misses"))
    ada, same = house.new_user(), f"same {uuid.uuid4()}"
    for _ in range(3):  # of three at least two come to the same of two workers, which have a cache each
        ada.ask(same)
    wait_until(lambda: value(house, "chatapp_cache_hits_total") > hits, 10)
    assert value(house, "chatapp_cache_misses_total") > misses


def test_nothing_that_a_person_wrote_is_told(house: Site) -> None:
    canary = f"canary{uuid.uuid4().hex}"
    ada = house.new_user(canary)
    ada.ask(canary)
    ada.ask(canary, f"openai/echo,{canary}={canary}")  # a model's name is what somebody sends, too
    ada.request("GET", f"/{canary}?{canary}")
    ada.request("GET", f"/api/chat/conversations?q={canary}")
    ada.request(f"X{canary}".upper(), "/api/models")
    Client(house.url).request("GET", "/api/models", headers={"Authorization": f"Bearer {canary}"})
    told = scraped(house)
    for secret in (canary, canary.upper(), ada.email, ada.user["id"], "sk-canary"):
        assert secret not in told
    assert value(house, "chatapp_answers_ended_total", provider="openai", model="other") >= 1


# Who may read them


def test_from_this_machine_anybody_may_read_by_its_own_name(house: Site) -> None:
    assert scraped(house)
    assert "chatapp_streams_open" in requests.get(f"{house.url}/api/metrics", timeout=90).text
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
    ):
        check_error(requests.get(f"{house.url}/metrics", headers=headers, timeout=90), 401)


def test_with_a_proxy_or_a_token_one_has_to_show_who_one_is(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_METRICS_TOKEN="the-token")
    root, ada = site.new_user("Root"), site.new_user("Ada")
    check_error(requests.get(f"{site.url}/metrics", timeout=90), 401)
    for token in ("x", "the-toke", "the-token2", "thé-token"):
        headers = {"Authorization": f"Bearer {token}".encode()}
        check_error(requests.get(f"{site.url}/metrics", headers=headers, timeout=90), 401)
    assert scraped(site, headers={"Authorization": "Bearer the-token"})
    check_error(ada.request("GET", "/metrics"), 403)
    assert root.request("GET", "/metrics").status_code == 200
    assert "the-token" not in root.request("GET", "/metrics").text


# Counting hurts nobody


def test_what_cannot_be_counted_harms_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*labels: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(metrics, "child", fail)
    metrics.answer_started("openai/echo")
    metrics.request("GET", "/", 200, 0.1)
    assert "could not be counted" in caplog.text


def test_models_have_names_of_their_own_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_models", set())
    metrics.name_models(f"openai/{number}" for number in range(10_000))
    assert len(metrics._models) == metrics.MAX_MODELS
    assert metrics.names("openai/0") == ("openai", "0")
    assert metrics.names("openai/9999") == ("openai", "other")
