"""How the page holds up on other screens, without a mouse, and on a slow line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Response, expect

from tests.browser._chat import Chat
from tests.support.fake_models import FakeModels
from tests.support.pages import sign_in
from tests.support.site import Client, Site

MAX_REQUESTS = 14
MAX_BYTES = 200_000
WIDE = (
    "# A heading\n\nDonaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    + "x" * 200
    + "\n\n| "
    + " | ".join(f"column {n}" for n in range(12))
    + " |\n|"
    + "--|" * 12
    + "\n| "
    + " | ".join("1,234,567" for _ in range(12))
    + " |\n\n```\n"
    + "long line of code " * 30
    + "\n```\n\n"
    + "$" * 300
    + "\n\n`"
    + "y" * 300
    + "`\n"
)
Me = tuple[Page, Client]


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
        {"viewport": {"width": 320, "height": 640}},
        {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},
        {"viewport": {"width": 800, "height": 600}},
        {"viewport": {"width": 1280, "height": 800}},
    ],
    ids=["phone", "small", "zoomed", "tablet", "desktop"],
)
def test_the_page_never_scrolls_sideways(
    new_context: Callable[..., BrowserContext], site: Site, options: dict[str, Any]
) -> None:
    context = new_context(**options)
    client = sign_in(context, site)
    started, _ = client.ask(WIDE, "openai/echo")
    chat = Chat(context.new_page(), site).open(f"/c/{started['conversationId']}")
    expect(chat.text.locator("table")).to_be_visible()
    overflow = """() => [document.documentElement, document.querySelector("main"), document.querySelector("chat-thread")]
        .map(node => node.scrollWidth - node.clientWidth)"""
    assert chat.page.evaluate(overflow) == [0, 0, 0]


def test_on_a_phone_every_control_can_be_hit_and_the_list_is_a_drawer(
    new_context: Callable[..., BrowserContext], site: Site
) -> None:
    context = new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    client = sign_in(context, site)
    started, _ = client.ask("Count", "openai/count-3")
    chat = Chat(context.new_page(), site).open(f"/c/{started['conversationId']}").ended()
    small = """() => [...document.querySelectorAll("main button, main input[role=switch]")]
        .filter(node => node.checkVisibility())
        .map(node => [node.getAttribute("aria-label") ?? node.textContent, node.getBoundingClientRect()])
        .filter(([, box]) => box.width < 43.5 || box.height < 43.5).map(([name, box]) => [name, box.width, box.height])"""
    assert chat.page.evaluate(small) == []
    expect(chat.prompt).not_to_be_focused()
    sidebar = chat.page.locator("chat-sidebar")
    expect(sidebar).to_be_hidden()
    chat.page.get_by_role("button", name="Conversations").tap()
    expect(sidebar).to_be_visible()
    chat.page.locator(".veil").tap(position={"x": 380, "y": 400})
    expect(sidebar).to_be_hidden()
    chat.page.get_by_role("button", name="Conversations").tap()
    chat.items.first.tap()
    expect(sidebar).to_be_hidden()


@pytest.mark.parametrize(("media", "dark"), [({"color_scheme": "dark"}, True), ({"color_scheme": "light"}, False)])
def test_the_page_is_dark_where_that_is_wanted(me: Me, site: Site, media: dict[str, Any], dark: bool) -> None:
    page, _ = me
    page.emulate_media(**media)
    Chat(page, site).open()
    lightness = """() => { const canvas = new OffscreenCanvas(1, 1).getContext("2d");
        canvas.fillStyle = getComputedStyle(document.documentElement).backgroundColor; canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data[0]; }"""
    assert (page.evaluate(lightness) < 60) is dark


def test_nothing_moves_where_that_is_not_wanted(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, _ = me
    model = fake_models.slow()
    page.emulate_media(reduced_motion="reduce")
    chat = Chat(page, site).open(model=model)
    chat.ask("Count").grew_to("1 2")
    assert page.evaluate("document.getAnimations().length") == 0
    fake_models.hurry(model)
    chat.ended()


def test_the_first_sight_of_a_conversation_is_light(new_context: Callable[..., BrowserContext], site: Site) -> None:
    context = new_context()
    client = sign_in(context, site)
    started, _ = client.ask("Count", "openai/count-20")
    page = context.new_page()
    responses: list[Response] = []
    page.on("response", lambda response: responses.append(response))
    page.goto(f"{site.url}/c/{started['conversationId']}")
    expect(page.locator("chat-turn")).to_have_attribute("data-status", "finished")
    page.wait_for_load_state("networkidle")
    sizes = {response.url.removeprefix(site.url): len(response.body()) for response in responses}
    assert len(responses) <= MAX_REQUESTS, sizes
    assert sum(sizes.values()) <= MAX_BYTES, sizes


def test_the_page_works_without_a_mouse(me: Me, site: Site) -> None:
    page, client = me
    client.ask("An old matter", "openai/count-3")
    page.goto(site.url)
    chat = Chat(page, site)
    expect(chat.prompt).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Model")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Search: Model")).to_be_focused()
    page.keyboard.type("echo")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option").filter(visible=True).first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Model")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Search: Model")).to_be_focused()
    page.keyboard.type("echo")
    page.keyboard.press("Enter")
    expect(chat.prompt).to_be_focused()
    expect(page.locator("[data-part=model-name]")).to_have_text("echo")
    page.reload()
    expect(page.locator("[data-part=model-name]")).to_have_text("echo")
    link = chat.items.first.locator("a")
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("An old matter")
    unnamed = """() => [...document.querySelectorAll("button, input, textarea, a")]
        .filter(node => !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length))
        .map(node => node.outerHTML)"""
    assert page.evaluate(unnamed) == []


def test_the_keyboard_stays_where_it_was_after_a_change_of_the_list(me: Me, site: Site) -> None:
    page, client = me
    for question in ("Oldest", "Older", "Newest"):
        client.ask(question, "openai/count-3")
    page.goto(site.url)
    chat = Chat(page, site)
    titles = chat.items.locator("a")
    chat.item_menu("Older", "Rename")
    page.get_by_label("Title").fill("Renamed")
    page.get_by_label("Title").press("Enter")
    expect(titles.filter(has_text="Renamed")).to_be_focused()
    chat.item_menu("Renamed", "Delete")
    expect(page.get_by_role("button", name="Keep")).to_be_focused()
    page.keyboard.press("Escape")
    expect(titles.filter(has_text="Renamed")).to_be_focused()
    chat.item_menu("Renamed", "Delete")
    page.get_by_role("button", name="Delete", exact=True).press("Enter")
    expect(titles.filter(has_text="Oldest")).to_be_focused()
    expect(titles).to_have_text(["Newest", "Oldest"])


def test_right_to_left_text_runs_so_and_the_page_mirrors(me: Me, site: Site) -> None:
    page, client = me
    started, _ = client.ask("رسالة إلى المورد في عمّان", "openai/echo")
    chat = Chat(page, site).open(f"/c/{started['conversationId']}")
    paragraph = chat.text.locator("p")
    assert paragraph.evaluate("node => getComputedStyle(node).direction") == "rtl"
    page.evaluate("document.documentElement.dir = 'rtl'")
    assert page.locator("chat-sidebar").evaluate("node => node.getBoundingClientRect().right") == 1280
    assert page.evaluate("document.querySelector('main').scrollWidth - document.querySelector('main').clientWidth") == 0
