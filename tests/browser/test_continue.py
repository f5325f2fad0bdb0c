"""An answer that broke off is gone on with where it stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser._chat import Chat, counted, posted
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site

Me = tuple[Page, Client]
BROKEN = {
    "cut-fin-after-9": "The model stopped before the end. What it wrote is kept.",
    "error-in-stream-after-9": "The answer broke off. What was written is kept.",
    "length": "The answer reached its longest length.",
}
REST = "count-40,delay=0.01"


def broken(me: Me, site: Site, model: str = "cut-fin-after-9", then: str = REST) -> Chat:
    """Show an answer that *model* began, with *then* as the model that is there now."""
    page, client = me
    started, _ = client.ask("Count", f"ollama/{model}")
    chat = Chat(page, site)
    chat.provider = "ollama"
    return chat.open(f"/c/{started['conversationId']}", model=then)


@pytest.mark.parametrize("model", BROKEN)
def test_a_broken_answer_goes_on_where_it_stands(me: Me, site: Site, model: str) -> None:
    chat = broken(me, site, model)
    notice = chat.turns.last.locator("[data-part=notice]")
    expect(notice).to_contain_text(BROKEN[model])
    before = chat.text.inner_text()
    chat.text.locator("p").evaluate("node => { node.dataset.same = 'yes'; }")
    chat.watch_growth()
    chat.act("Continue")
    expect(notice).to_be_hidden()
    chat.ended().says(counted(40))
    expect(notice).to_be_hidden()
    texts = [before, *chat.growth()]
    assert all(after.startswith(earlier) for earlier, after in itertools.pairwise(texts)), texts
    expect(chat.turns).to_have_count(1)
    expect(chat.turns.last.locator("[data-part=pager]")).to_be_hidden()
    chat.page.reload()
    chat.ended().says(counted(40))


def test_a_stopped_answer_goes_on_from_the_keyboard(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, _ = me
    model, then = fake_models.slow(), fake_models.slow()
    chat = Chat(page, site)
    chat.provider = "ollama"
    chat.open(model=model).ask("Count").grew_to("1 2 3")
    page.get_by_role("button", name="Stop").click()
    chat.ended("stopped")
    expect(chat.turns.last.locator("[data-part=status]")).to_have_text("Stopped")
    chat.use(then)
    page.reload()
    chat.ended("stopped")
    button = chat.turns.last.get_by_role("button", name="Continue")
    button.focus()
    page.keyboard.press("Enter")
    expect(chat.turns.last).to_have_attribute("data-status", "running")
    expect(chat.prompt).to_be_focused()
    fake_models.hurry(then)
    chat.ended().says(counted(1000))
    expect(chat.turns.last.locator("[data-part=status]")).to_be_hidden()
    expect(button).to_be_hidden()


def test_what_goes_on_can_be_stopped_reloaded_and_gone_on_with(me: Me, site: Site, fake_models: FakeModels) -> None:
    chat = broken(me, site, then=fake_models.slow())
    chat.act("Continue")
    chat.grew_to(counted(12))
    chat.watch_growth()
    chat.page.reload()
    chat.grew_to(counted(14))
    chat.page.get_by_role("button", name="Stop").click()
    chat.ended("stopped")
    chat.use("count-30")
    chat.page.reload()
    chat.ended("stopped")
    chat.act("Continue")
    expect(chat.turns.last).to_have_attribute("data-status", "finished")


def test_the_page_shows_no_less_while_the_log_is_told_again(me: Me, site: Site) -> None:
    chat = broken(me, site, then="silent-body")
    begun: list[str] = []

    def only_the_beginning(route: Route) -> None:
        if begun:
            return route.continue_()
        begun.append(route.request.url)
        head = 'id: 1\nevent: start\ndata: {"model": "m"}\n\nid: 2\nevent: status\ndata: {"content": "Going"}\n\n'
        return route.fulfill(content_type="text/event-stream", body=head)

    chat.page.route("**/events*", only_the_beginning)
    chat.watch_growth()
    chat.act("Continue")
    status = chat.turns.last.locator("[data-part=status]")
    expect(status).to_contain_text("Going on where the answer broke off…")
    chat.says(counted(9))
    assert set(chat.growth()) <= {counted(9)}
    expect(chat.turns.last.locator("[data-part=foot]")).to_be_hidden()


def test_a_refusal_leaves_the_answer_as_it_was(me: Me, site: Site) -> None:
    chat = broken(me, site)
    chat.page.route("**/continue", lambda route: route.fulfill(status=400, json={"error": {"message": "Not now."}}))
    chat.act("Continue")
    expect(chat.page.locator("[data-part=hint]")).to_have_text("Not now.")
    chat.ended("interrupted").says(counted(9))
    expect(chat.turns.last.get_by_role("button", name="Continue")).to_be_visible()


def test_who_is_late_sees_the_answer_go_on(me: Me, site: Site) -> None:
    chat = broken(me, site)
    message_id = chat.turns.last.get_attribute("data-key")
    me[1].call("POST", f"/api/chat/messages/{message_id}/continue", {"modelId": f"ollama/{REST}"}, 201)
    chat.act("Continue")
    chat.ended().says(counted(40))


def test_without_streaming_it_comes_in_one_piece(me: Me, site: Site, fake_models: FakeModels) -> None:
    then = fake_models.slow()
    chat = broken(me, site, then=then)
    chat.page.get_by_role("switch", name="Stream responses").uncheck()
    chat.act("Continue")
    expect(chat.turns.last).to_have_attribute("data-status", "running")
    fake_models.wait_for(lambda call: True, model=then)
    chat.says(counted(9))
    fake_models.hurry(then)
    chat.ended().says(counted(1000))


def test_what_has_no_text_or_is_whole_offers_a_retry_or_nothing(me: Me, site: Site) -> None:
    page, client = me
    for model, retry in (("status-500", True), ("count-3", False)):
        started, _ = client.ask("Count", f"ollama/{model}")
        chat = Chat(page, site).open(f"/c/{started['conversationId']}")
        expect(chat.turns.last.locator("[data-part=foot]")).to_be_visible()
        expect(chat.turns.last.get_by_role("button", name="Continue")).to_have_count(0)
        expect(chat.turns.last.get_by_role("button", name="Retry")).to_have_count(int(retry))


def test_blocks_that_are_whole_stay_untouched_while_it_grows(me: Me, site: Site) -> None:
    whole = "First%0A%0A```python%0Aprint(1)%0A```%0A%0ALast **word** of it%2C and more"
    chat = broken(me, site, f"cut-fin-after-45,text={whole}", f"count-1,delay=0.01,text={whole}")
    expect(chat.text.locator("pre")).to_be_visible()
    chat.text.locator("> *").evaluate_all("nodes => nodes.slice(0, 2).forEach(node => { node.dataset.same = 'yes'; })")
    chat.act("Continue")
    chat.ended()
    expect(chat.text).to_contain_text("Last word of it, and more")
    expect(chat.text.locator("[data-same]")).to_have_count(2)


@pytest.fixture
def starts(me: Me) -> Callable[..., list[str]]:
    """Answer the page's first starts as a site does that is being restarted; return the keys of all."""

    def refuse(times: int, *, away: bool = False) -> list[str]:
        keys: list[str] = []
        error = {"code": "overloaded", "message": "The site is being restarted. Try again in a moment."}

        def answer(route: Route) -> None:
            keys.append(posted(route.request.post_data)["requestId"])
            if len(keys) > times:
                route.continue_()
            elif away:
                route.abort("connectionrefused")
            else:
                route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": error})

        me[0].route("**/api/chat/start", answer)
        return keys

    return refuse


@pytest.mark.parametrize("away", [False, True])
def test_a_question_to_a_site_that_is_restarted_is_sent_when_it_is_back(
    me: Me, site: Site, starts: Callable[..., list[str]], away: bool
) -> None:
    keys = starts(2, away=away)
    chat = Chat(me[0], site).open(model="count-5").ask("Count")
    hint = chat.page.locator("[data-part=hint]")
    why = "The site cannot be reached." if away else "The site is being restarted."
    expect(hint).to_have_text(f"{why} Your question is sent in a moment.")
    chat.ended().says(counted(5))
    expect(hint).to_be_hidden()
    assert keys == [keys[0]] * 3


def test_a_question_that_cannot_be_sent_at_all_is_in_the_composer_again(
    me: Me, site: Site, starts: Callable[..., list[str]]
) -> None:
    starts(1000)
    chat = Chat(me[0], site)
    chat.page.clock.install()
    chat.open(model="count-5").ask("Count")
    expect(chat.page.locator("[data-part=hint]")).to_contain_text("Your question is sent in a moment.")
    chat.prompt.fill("And more")
    for _ in range(40):
        chat.page.clock.run_for(2000)
    expect(chat.page.locator("[data-part=hint]")).to_have_text("The site is being restarted. Try again in a moment.")
    expect(chat.prompt).to_have_value("Count\n\nAnd more")
    expect(chat.turns).to_have_count(0)
