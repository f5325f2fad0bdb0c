"""An answer reaches its reader whole and exactly once, whatever happens to the connection."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser._chat import Chat, counted, posted
from tests.browser._proxy import Proxy
from tests.support.fake_models import FakeModels
from tests.support.pages import sign_in
from tests.support.site import Client, Site

Me = tuple[Page, Client]


@pytest.fixture
def proxied(new_context: Callable[..., BrowserContext], site: Site) -> Callable[..., tuple[Chat, Proxy]]:
    """Open the page through a proxy."""

    def make(proxy: Proxy, model: str) -> Chat:
        context = new_context()
        sign_in(context, site)
        chat = Chat(context.new_page(), site)
        chat.url = proxy.url
        return chat.open(model=model)

    return make


def lost(page: Page) -> None:
    expect(page.locator("[data-part=connection]")).to_be_visible()


def found(page: Page) -> None:
    expect(page.locator("[data-part=connection]")).to_be_hidden()


def test_a_502_of_a_proxy_is_waited_out(site: Site, proxied: Callable[..., Chat], fake_models: FakeModels) -> None:
    model = fake_models.slow()
    with Proxy(site.port) as proxy:
        chat = proxied(proxy, model)
        chat.watch_growth()
        chat.ask("Count").grew_to("1 2 3")
        proxy.broken_paths = (b"/",)
        proxy.cut()
        lost(chat.page)
        expect(chat.page.locator("[data-part=connection-text]")).to_contain_text("Connection lost. Reconnecting")
        assert proxy.refused
        proxy.broken_paths = ()
        chat.page.get_by_role("button", name="Try now").click()
        found(chat.page)
        fake_models.hurry(model)
        chat.ended().says(counted(1000))
        texts = chat.growth()
        assert all(after.startswith(before) for before, after in itertools.pairwise(texts))


def test_cuts_again_and_again_lose_and_repeat_nothing(
    site: Site, proxied: Callable[..., Chat], fake_models: FakeModels
) -> None:
    model = fake_models.slow()
    with Proxy(site.port) as proxy:
        chat = proxied(proxy, model)
        chat.ask("Count")
        for number in (5, 15, 25):
            chat.grew_to(counted(number))
            proxy.cut()
        fake_models.hurry(model)
        chat.ended().says(counted(1000))


def test_a_restart_of_the_site_in_mid_answer_goes_unnoticed_but_for_a_pause(
    new_site: Callable[..., Site], new_context: Callable[..., BrowserContext], fake_models: FakeModels
) -> None:
    site, model = new_site(CHATAPP_DRAIN_SECONDS="1"), fake_models.slow()
    context = new_context()
    sign_in(context, site)
    chat = Chat(context.new_page(), site)
    chat.provider = "ollama"  # whose answers can be gone on with
    chat.open(model=model).ask("Count").grew_to("1 2 3")
    site.stop()
    fake_models.hurry(model)
    site.start()
    chat.ended().says(counted(1000))
    found(chat.page)


def test_without_streaming_the_answer_comes_in_one_piece_and_is_asked_for_once(
    me: Me, site: Site, fake_models: FakeModels
) -> None:
    page, _ = me
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/events" in request.url else None)
    model = "count-30,delay=0.01"
    chat = Chat(page, site).open(model=model)
    page.get_by_role("switch", name="Stream responses").uncheck()
    page.reload()
    expect(page.get_by_role("switch", name="Stream responses")).not_to_be_checked()
    before = len(fake_models.log(model))
    with page.expect_request("**/api/v1/ai/chat") as request:
        chat.ask("Count")
        expect(chat.turns.last.locator(".answer__status")).to_be_visible()
    chat.ended().says(counted(30))
    assert posted(request.value.post_data)["requestId"]
    assert not streams
    assert len(fake_models.log(model)) == before + 1
    chat.act("Answer again")
    expect(chat.turns.last.locator("[data-part=count]")).to_have_text("2 of 2")
    chat.ended().says(counted(30))
    assert len(fake_models.log(model)) == before + 2
    assert not streams
    page.get_by_role("switch", name="Stream responses").check()
    chat.ask("Again").ended().says(counted(30))
    assert streams


def test_without_streaming_an_answer_can_be_stopped(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="endless,size=8,delay=0.02")
    chat.page.get_by_role("switch", name="Stream responses").uncheck()
    with chat.page.expect_request("**/api/v1/ai/chat"):
        chat.ask("Go on")
    chat.page.get_by_role("button", name="Stop").click()
    chat.ended("stopped")


def test_where_streams_cannot_be_had_the_answer_comes_by_rest(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, _ = me
    model = "count-50,delay=0.01"
    page.route("**/events*", lambda route: route.fulfill(status=502, body="no"))
    chat = Chat(page, site).open(model=model)
    before = len(fake_models.log(model))
    chat.ask("Count").ended().says(counted(50))
    assert len(fake_models.log(model)) == before + 1


def test_a_start_that_was_lost_on_the_way_back_is_made_once(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, client = me
    answers: list[int] = []

    def lose_the_first(route: Route) -> None:
        answers.append(route.fetch().status)
        if len(answers) == 1:
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/api/chat/start", lose_the_first)
    model = "count-7"
    before = len(fake_models.log(model))
    Chat(page, site).open(model=model).ask("Count").ended().says(counted(7))
    assert answers[0] == 201
    assert len(fake_models.log(model)) == before + 1
    assert client.call("GET", "/api/chat/conversations")["total"] == 1


def test_a_sign_in_that_runs_out_is_renewed_unasked(me: Me, site: Site) -> None:
    page, client = me
    started, _ = client.ask("Count", "openai/count-9")
    chat = Chat(page, site).open(model="count-5")
    page.context.clear_cookies(name="access_token_cookie")
    renewals: list[str] = []
    page.on("request", lambda request: renewals.append(request.url) if request.url.endswith("/refresh") else None)
    chat.ask("Again").ended().says(counted(5))
    assert len(renewals) == 1
    page.context.clear_cookies(name="access_token_cookie")
    path = f"/c/{started['conversationId']}"
    page.goto(site.url + path)  # by way of the sign-in page, which sends one back
    expect(page).to_have_url(site.url + path)
    chat.says(counted(9))


def test_a_sign_in_that_runs_out_in_mid_answer_is_renewed_unasked(
    site: Site, proxied: Callable[..., Chat], fake_models: FakeModels
) -> None:
    model = fake_models.slow()
    with Proxy(site.port) as proxy:
        chat = proxied(proxy, model)
        chat.ask("Count").grew_to("1 2 3")
        chat.page.context.clear_cookies(name="access_token_cookie")
        proxy.cut()
        fake_models.hurry(model)
        chat.ended().says(counted(1000))


def test_a_sign_in_that_is_over_leads_to_the_sign_in_page(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open()
    chat.page.context.clear_cookies()
    chat.prompt.fill("Anybody?")
    chat.prompt.press("Enter")
    expect(chat.page.get_by_role("heading", name="Sign in to")).to_be_visible()


def test_a_conversation_of_somebody_else_is_not_there(me: Me, site: Site) -> None:
    started, _ = site.new_user("Eve").ask("Mine alone", "openai/count-3")
    chat = Chat(me[0], site).open(f"/c/{started['conversationId']}")
    expect(chat.page.get_by_text("There is no such conversation, or it is not yours.")).to_be_visible()
