"""`useEventSource` in a real browser, with the site's own streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser._chat import counted
from tests.browser._proxy import Proxy
from tests.support.fake_models import FakeModels
from tests.support.pages import sign_in
from tests.support.site import Client, Site, wait_until

LISTEN = """async ([url, options]) => {
  const {useEventSource} = await import("/static/js/use-event-source.js");
  window.log = [];
  window.live = useEventSource(url, {
    onMessage: (event) => log.push([event.type, event.data]),
    onError: () => log.push(["lost", live.error]),
    onOpen: () => log.push(["open"]),
    onClose: () => log.push(["close"]),
    ...options,
  });
}"""
TALKS = "/api/chat/conversations"


class Ear:
    """What `useEventSource` says in a page."""

    def __init__(self, page: Page, path: str, **options: Any) -> None:
        self.page = page
        page.evaluate(LISTEN, [path, options])

    @property
    def log(self) -> list[list[str]]:
        log: list[list[str]] = self.page.evaluate("log")
        return log

    @property
    def live(self) -> dict[str, Any]:
        live: dict[str, Any] = self.page.evaluate(
            "({data: live.data, error: live.error, isConnected: live.isConnected})"
        )
        return live

    def count(self, name: str) -> int:
        return [one[0] for one in self.log].count(name)

    def until(self, condition: str) -> None:
        self.page.wait_for_function(condition)

    def hears(self, name: str, times: int = 1) -> None:
        self.until(f"log.filter(([name]) => name === '{name}').length >= {times}")


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    with Proxy(site.port) as made:
        yield made


@pytest.fixture
def at(proxy: Proxy, site: Site, new_context: Callable[..., BrowserContext]) -> tuple[Page, Client]:
    """A page behind the proxy, signed in, that does nothing of its own; and the same person's API client."""
    context = new_context()
    client = sign_in(context, site)
    page = context.new_page()
    page.goto(f"{proxy.url}/api/openapi.json")
    return page, client


def test_an_answer_comes_by_its_names_and_ends(at: tuple[Page, Client]) -> None:
    page, client = at
    started = client.start("count", "openai/count-20")
    ear = Ear(page, f"{TALKS}/{started['conversationId']}/stream")
    ear.hears("close")
    names = [one[0] for one in ear.log]
    assert names[:2] == ["open", "typing"]
    assert names[-3:] == ["message", "done", "close"]
    assert "chunk" in names
    assert ear.live == {"data": {}, "error": None, "isConnected": False}


def test_an_error_of_the_servers_is_no_lost_connection(at: tuple[Page, Client]) -> None:
    page, client = at
    started = client.start("x", "openai/cut-fin-after-3")
    ear = Ear(page, f"{TALKS}/{started['conversationId']}/stream")
    ear.hears("close")  # the server's 204 to who comes back
    names = [one[0] for one in ear.log]
    assert names.index("error") < names.index("lost")
    assert names.count("error") == 1
    assert "broke off" in ear.live["error"]  # and what it said is kept


def test_a_502_on_the_way_loses_and_repeats_nothing(
    at: tuple[Page, Client], proxy: Proxy, fake_models: FakeModels
) -> None:
    page, client = at
    model = fake_models.slow()
    started = client.start("count", model if "/" in model else f"openai/{model}")
    ear = Ear(page, f"{TALKS}/{started['conversationId']}/stream")
    ear.hears("chunk", 5)
    proxy.broken_paths = (b"/",)
    proxy.cut()
    ear.until("live.error === 'Connection lost. Reconnecting…' && !live.isConnected")
    wait_until(lambda: proxy.refused)
    proxy.broken_paths = ()
    ear.until("live.isConnected && live.error === null")
    fake_models.hurry(model)
    ear.hears("close")
    text = page.evaluate(
        "log.filter(([name]) => name === 'chunk').map(([, data]) => JSON.parse(data).content).join('')"
    )
    assert text == counted(1000)


def test_a_page_hears_what_happens_elsewhere_until_it_closes(at: tuple[Page, Client], proxy: Proxy) -> None:
    page, client = at
    ear = Ear(page, "/api/events")
    ear.hears("sync")
    assert ear.live == {"data": {"missed": False}, "error": None, "isConnected": True}
    client.call("POST", TALKS, {"title": "Trip"}, 201)
    ear.until("live.data.action === 'made' && live.data.title === 'Trip'")
    proxy.cut()
    ear.hears("sync", 2)
    assert ear.live["data"] == {"missed": True}
    page.evaluate("live.close()")
    client.call("POST", TALKS, {"title": "Unheard"}, 201)
    assert ear.live == {"data": {"missed": True}, "error": None, "isConnected": False}
    assert ear.log[-1] == ["close"]


def test_a_refusal_is_said_and_not_asked_again(at: tuple[Page, Client]) -> None:
    page, _ = at
    ear = Ear(page, f"{TALKS}/00000000-0000-4000-8000-000000000000/stream")
    ear.hears("close")
    assert ear.live["error"] == "There is no such conversation."
