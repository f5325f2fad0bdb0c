"""What somebody does with the page on an ordinary day."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect

from tests.browser._chat import Chat, counted
from tests.support.fake_models import FakeModels
from tests.support.pages import sign_in
from tests.support.site import PASSWORD, Client, Site, wait_until

Me = tuple[Page, Client]


def test_somebody_signs_up_asks_and_watches_the_answer_grow(
    new_context: Callable[..., BrowserContext], site: Site, fake_models: FakeModels
) -> None:
    model = fake_models.slow()
    site.new_user("First")  # with nobody there, the site would ask for its first account at once
    page = new_context().new_page()
    page.goto(f"{site.url}/c/{uuid.uuid4()}")
    expect(page).to_have_url(re.compile("/sign-in"))
    page.get_by_role("link", name="Make an account").click()
    page.get_by_label("Name").fill("Mara")
    page.get_by_label("Email").fill(f"mara-{uuid.uuid4().hex[:8]}@example.org")
    page.get_by_label("Password").fill("short")
    page.get_by_role("button", name="Make the account").click()
    expect(page.locator("#password-error")).to_contain_text("8")
    page.get_by_label("Password").fill(PASSWORD)
    chat = Chat(page, site)
    chat.use(model)
    page.get_by_role("button", name="Make the account").click()
    expect(page.locator(".sidebar__user")).to_have_text("Mara")
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    chat.watch_growth()
    chat.ask("Count for me").grew_to("1 2 3")
    expect(page).to_have_url(re.compile("/c/[0-9a-f-]{36}$"))
    expect(page).to_have_title(re.compile("^Count for me"))
    wait_until(lambda: len(chat.growth()) > 20, what="that it comes in small pieces")
    fake_models.hurry(model)
    chat.ended().says(counted(1000))
    texts = chat.growth()
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts)), "text only grows"


def test_a_wrong_password_says_how_many_tries_are_left(new_context: Callable[..., BrowserContext], site: Site) -> None:
    client = site.new_user()
    page = new_context().new_page()
    page.goto(f"{site.url}/sign-in")
    page.get_by_label("Email").fill(client.email)
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"do not match. \d tries left"))
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("chat-composer")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/sign-in"))
    page.goto(f"{site.url}/")
    expect(page).to_have_url(re.compile("/sign-in"))


def test_a_reload_in_mid_answer_loses_and_repeats_nothing(me: Me, site: Site, fake_models: FakeModels) -> None:
    model = fake_models.slow()
    chat = Chat(me[0], site).open(model=model)
    chat.ask("Count").grew_to("1 2 3 4 5")
    chat.page.reload()
    chat.grew_to("1 2 3")
    chat.page.reload()
    fake_models.hurry(model)
    chat.ended().says(counted(1000))


def test_another_conversation_is_turned_to_and_back_in_mid_answer(me: Me, site: Site, fake_models: FakeModels) -> None:
    model = fake_models.slow()
    streams: list[str] = []
    me[0].on("request", lambda request: streams.append(request.url) if request.url.endswith("/events") else None)
    me[1].ask("Something else", "openai/count-3")
    chat = Chat(me[0], site).open(model=model)
    chat.ask("Count").grew_to("1 2 3")
    chat.items.filter(has_text="Something else").click()
    expect(chat.page.locator("h1")).to_have_text("Something else")
    chat.says(counted(3))
    assert chat.page.locator("[data-part=stop]").is_hidden()
    chat.page.go_back()
    chat.grew_to("1 2")
    fake_models.hurry(model)
    chat.ended().says(counted(1000))
    assert len(streams) == 2


def test_stop_keeps_what_was_written(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="endless,size=8,delay=0.02")
    chat.ask("Go on for ever")
    expect(chat.text).not_to_be_empty()
    chat.page.get_by_role("button", name="Stop").click()
    chat.ended("stopped")
    expect(chat.turns.last.locator(".answer__status")).to_have_text("Stopped")
    kept = chat.text.text_content()
    chat.page.reload()
    chat.ended("stopped").says(kept or "")


def test_the_wait_for_the_first_word_is_shown_and_can_be_stopped(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="silent-body")
    chat.ask("Are you there?")
    expect(chat.turns.last.locator(".answer__status")).to_have_text(re.compile("…"))
    chat.page.get_by_role("button", name="Stop").click()
    chat.ended("stopped")
    expect(chat.turns.last.locator(".answer__status")).to_have_text("Stopped before the first word")


def test_an_answer_is_asked_for_again_and_both_can_be_turned_to(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="count-3")
    chat.ask("Count").ended().says(counted(3))
    chat.open(chat.page.url.removeprefix(site.url), model="count-5").ended()
    chat.act("Answer again")
    chat.says(counted(5)).ended()
    pager = chat.turns.last.locator("[data-part=count]")
    expect(pager).to_have_text("2 of 2")
    with chat.page.expect_response(lambda response: response.request.method == "PATCH") as response:
        chat.act("Earlier answer")
    assert response.value.ok
    chat.says(counted(3))
    expect(pager).to_have_text("1 of 2")
    chat.page.reload()
    chat.says(counted(3))
    expect(pager).to_have_text("1 of 2")


def test_a_question_is_edited_and_the_old_one_stays(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="echo")
    chat.ask("Say one").ended().says("Say one")
    chat.act("Edit and ask again")
    field = chat.turns.last.get_by_label("Question", exact=True)
    expect(field).to_be_focused()
    field.fill("Say two")
    chat.act("Ask again")
    chat.says("Say two").ended()
    expect(chat.turns).to_have_count(1)
    expect(chat.turns.last.locator("[data-part=question-count]")).to_have_text("2 of 2")
    chat.act("Earlier question")
    chat.says("Say one")
    chat.page.reload()
    chat.says("Say one")


def test_a_conversation_is_renamed_pinned_and_deleted(me: Me, site: Site) -> None:
    page, client = me
    client.ask("An old matter", "openai/count-3")
    chat = Chat(page, site).open(model="count-3")
    chat.ask("A matter").ended()
    chat.item_menu("A matter", "Rename")
    title = page.get_by_label("Title")
    expect(title).to_be_focused()
    title.fill("Harbour dues")
    title.press("Enter")
    expect(page.locator("h1")).to_have_text("Harbour dues")
    expect(page).to_have_title(re.compile("^Harbour dues"))
    chat.item_menu("An old matter", "Pin")
    expect(page.locator(".sidebar__group").first).to_have_text("Pinned")
    expect(chat.items.first).to_contain_text("An old matter")
    chat.item_menu("Harbour dues", "Delete")
    page.get_by_role("button", name="Keep").click()
    expect(chat.items).to_have_count(2)
    chat.item_menu("Harbour dues", "Delete")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(chat.items).to_have_count(1)
    expect(page).to_have_url(f"{site.url}/")
    page.reload()
    expect(chat.items).to_have_text(["An old matter"])
    assert client.call("GET", "/api/chat/conversations")["total"] == 1


def test_conversations_are_searched(me: Me, site: Site) -> None:
    page, client = me
    for prompt in ("Knots for a heavy sea", "Rope of hemp"):
        client.ask(prompt, "openai/count-3")
    chat = Chat(page, site).open()
    expect(chat.items).to_have_count(2)
    page.keyboard.press("Control+k")
    page.keyboard.type("hemp")
    expect(chat.items).to_have_text(["Rope of hemp"])
    page.keyboard.press("Escape")
    expect(chat.items).to_have_count(2)


def test_a_draft_outlives_a_reload_and_belongs_to_its_conversation(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open()
    chat.prompt.fill("Half a question")
    chat.page.reload()
    expect(chat.prompt).to_have_value("Half a question")
    chat.prompt.press("Shift+Enter")
    chat.prompt.press_sequentially("and more")
    expect(chat.prompt).to_have_value("Half a question\nand more")
    chat.prompt.press("Enter")
    chat.ended()
    expect(chat.prompt).to_have_value("")
    chat.prompt.fill("A follow-up")
    chat.page.get_by_role("link", name="New conversation").first.click()
    expect(chat.prompt).to_have_value("")
    chat.page.go_back()
    expect(chat.prompt).to_have_value("A follow-up")


def test_enter_that_ends_a_composition_does_not_send(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open()
    chat.prompt.fill("にほん")
    chat.prompt.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True})
    expect(chat.prompt).to_have_value("にほん")
    expect(chat.turns).to_have_count(0)


def test_a_question_asked_in_mid_answer_waits_for_its_end(me: Me, site: Site, fake_models: FakeModels) -> None:
    model = fake_models.slow()
    chat = Chat(me[0], site).open(model=model)
    chat.ask("First").grew_to("1 2")
    chat.prompt.fill("Second")
    chat.prompt.press("Enter")
    expect(chat.page.locator("[data-part=next-text]")).to_have_text("Next: Second")
    expect(chat.turns).to_have_count(1)
    fake_models.hurry(model)
    expect(chat.turns).to_have_count(2)
    expect(chat.turns.first).to_have_attribute("data-status", "finished")
    chat.ended().says(counted(1000))
    expect(chat.page.locator("[data-part=next]")).to_be_hidden()


def test_reasoning_is_folded_away(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="reasoning")
    chat.ask("Think").ended()
    summary = chat.turns.last.locator("summary")
    expect(summary).to_have_text(re.compile("Thought"))
    expect(chat.turns.last.locator(".reasoning__text")).to_be_hidden()
    summary.click()
    expect(chat.turns.last.locator(".reasoning__text")).to_be_visible()


def test_an_error_stands_where_the_answer_would_be_and_can_be_retried(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="status-500")
    chat.ask("Try").ended("failed")
    notice = chat.turns.last.locator(".notice")
    expect(notice).to_be_visible()
    expect(notice).not_to_contain_text("CANARY")
    chat.open(chat.page.url.removeprefix(site.url), model="count-5").ended("failed")
    chat.act("Retry")
    chat.ended().says(counted(5))
    expect(notice).to_be_hidden()


def test_an_answer_that_broke_off_keeps_its_text(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="error-in-stream-after-3")
    chat.ask("Try")
    expect(chat.turns.last.locator(".notice")).to_contain_text("kept")
    chat.says(counted(3))
    chat.act("Details")
    expect(chat.turns.last.locator("[data-part=notice-details]")).to_be_visible()
    chat.page.reload()
    chat.says(counted(3))
    expect(chat.turns.last.locator(".notice")).to_contain_text("kept")


def test_a_start_that_is_refused_gives_the_question_back(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="nobody/has-this")
    chat.page.route(
        "**/api/chat/start",
        lambda route: route.fulfill(
            status=429, json={"error": {"code": "rate_limited", "message": "Too many questions. Try again in 9 s."}}
        ),
    )
    chat.prompt.fill("Precious words")
    chat.prompt.press("Enter")
    expect(chat.page.locator("[data-part=hint]")).to_have_text("Too many questions. Try again in 9 s.")
    expect(chat.prompt).to_have_value("Precious words")
    expect(chat.turns).to_have_count(0)
    expect(chat.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()


def test_an_answer_is_shown_as_markdown_and_its_code_can_be_copied(me: Me, site: Site) -> None:
    page, client = me
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = (
        "## Title\n\n1. one\n   - two\n\n| a | b |\n|--|--:|\n| 1 | 2 |\n\n"
        "```python\nif a < b:  # less\n    pass\n```\n\nsnake_case *it* [x](https://x.example)"
    )
    started, _ = client.ask(text, "openai/echo")
    chat = Chat(page, site).open(f"/c/{started['conversationId']}")
    prose = chat.text
    expect(prose.locator("h3")).to_have_text("Title")
    expect(prose.locator("ol > li > ul > li")).to_have_text("two")
    expect(prose.locator("td")).to_have_text(["1", "2"])
    expect(prose.locator(".k")).to_have_text(["if", "pass"])
    expect(prose.locator("a")).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(prose).to_contain_text("snake_case it x")
    prose.get_by_role("button", name="Copy").click()
    expect(prose.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "if a < b:  # less\n    pass"
    chat.act("Copy the answer")
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_the_end_is_followed_only_while_the_reader_is_there(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="endless,size=64,delay=0.01")
    chat.ask("Go on")
    main = chat.page.locator("main")
    left = "main => main.scrollHeight - main.clientHeight - main.scrollTop"
    expect(main).to_have_js_property("scrollTop", 0)
    chat.page.locator(".prose").evaluate(
        "prose => new Promise(done => new ResizeObserver(() => prose.clientHeight > 1500 && done()).observe(prose))"
    )
    assert main.evaluate(left) < 100
    chat.page.mouse.move(700, 300)
    chat.page.mouse.wheel(0, -600)
    expect(main).not_to_have_js_property("scrollTop", main.evaluate("main => main.scrollHeight"))
    height = main.evaluate("main => main.scrollHeight")
    chat.page.locator(".prose").evaluate(
        """(prose, height) => new Promise(done =>
            new ResizeObserver(() => prose.clientHeight > height && done()).observe(prose))""",
        height + 300,
    )
    assert main.evaluate(left) > 300
    chat.page.get_by_role("button", name="Stop").click()
    chat.ended("stopped")


def test_a_command_is_answered_by_no_model_and_may_choose_one(me: Me, site: Site) -> None:
    chat = Chat(me[0], site).open(model="echo")
    by = chat.turns.last.locator("[data-part=model]")
    chat.ask("hello").ended().says("hello")
    expect(by).to_have_text("echo")
    chat.ask("/title Ships").ended()
    expect(by).to_be_hidden()
    expect(chat.items.first).to_contain_text("Ships")
    chosen = me[0].locator("[data-part=model-name]")
    chat.ask("/model nobody").ended()
    expect(chosen).to_have_text("echo")
    chat.ask("/model openai/count-20").ended()
    expect(chosen).to_have_text("openai/count-20")  # the list of models that this page was given has another only
    chat.ask("and now").ended().says(counted(20))


def test_an_answer_from_memory_says_so(
    new_context: Callable[..., BrowserContext], new_site: Callable[..., Site]
) -> None:
    site, context = new_site(CHATAPP_CACHE_SECONDS="60"), new_context()
    sign_in(context, site)
    page = context.new_page()
    by = page.locator("chat-turn:last-of-type [data-part=model]")
    Chat(page, site).open(model="echo").ask("hello").ended()
    expect(by).to_have_text("echo")
    Chat(page, site).open(model="echo").ask("hello").ended()
    expect(by).to_have_text("echo · from memory")
    by.click()
    expect(by).to_have_text("echo · from memory")
