"""What a person does in the middle of an answer must neither be lost nor do harm."""

from __future__ import annotations

import re
import uuid

from playwright.sync_api import Page, expect

from tests.browser._chat import Chat, counted
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site

Me = tuple[Page, Client]


def test_the_composer_works_in_a_new_conversation_without_a_reload(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, _ = me
    chat = Chat(page, site).open(model=fake_models.slow())
    chat.ask("A long story")
    page.get_by_role("link", name="New conversation").first.click()
    expect(page.locator("[data-part=stop]")).to_be_hidden()
    chat.ask("Another story")
    expect(chat.turns).to_have_count(1)


def test_a_question_that_waits_is_there_when_one_comes_back(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, client = me
    other, _ = client.ask("Another matter", "openai/count-3")
    chat = Chat(page, site).open(model=fake_models.slow())
    chat.ask("A long story")
    expect(page).to_have_url(re.compile("/c/"))
    address = page.url
    chat.prompt.fill("And then?")
    chat.prompt.press("Enter")
    expect(page.locator("[data-part=next-text]")).to_contain_text("And then?")
    chat.items.filter(has_text="Another matter").locator("a").click()
    expect(page).to_have_url(f"{site.url}/c/{other['conversationId']}")
    page.goto(address)
    expect(chat.prompt).to_have_value("And then?")


def test_a_double_click_on_send_does_not_stop_the_answer(me: Me, site: Site) -> None:
    page, _ = me
    chat = Chat(page, site).open(model="count-20,delay=0.03")
    chat.prompt.fill("Count")
    page.locator("[data-part=send]").dblclick()
    chat.ended().says(counted(20))


def test_a_title_being_typed_survives_the_end_of_an_answer(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, client = me
    client.ask("An old matter", "openai/count-3")
    model = fake_models.slow()
    chat = Chat(page, site).open(model=model)
    chat.ask("A story")
    expect(chat.items).to_have_count(2)  # the list is not drawn again under the pointer
    chat.item_menu("An old matter", "Rename")
    title = page.get_by_label("Title")
    title.fill("A better na")
    fake_models.hurry(model)
    chat.ended()
    expect(title).to_be_focused()
    title.press_sequentially("me")
    title.press("Enter")
    expect(chat.items.filter(has_text="A better name")).to_have_count(1)


def test_an_edit_being_written_survives_the_end_of_an_answer(me: Me, site: Site, fake_models: FakeModels) -> None:
    page, _ = me
    model = fake_models.slow()
    chat = Chat(page, site).open(model="count-3")
    chat.ask("First").ended()
    chat.use(model)
    page.reload()
    chat.ask("Second")
    page.get_by_role("button", name="Edit").first.click()
    field = page.locator("[data-part=edit-input]").first
    field.fill("First, but better")
    field.press("Enter")
    expect(page.locator("[data-part=hint]")).to_contain_text("An answer is being written")
    fake_models.hurry(model)
    chat.ended()
    expect(field).to_have_value("First, but better")
    expect(field).to_be_visible()


def test_two_tabs_end_with_the_same_conversation(me: Me, site: Site) -> None:
    page, client = me
    started, _ = client.ask("First", "openai/count-3")
    chat = Chat(page, site).open(f"/c/{started['conversationId']}", model="count-5")
    expect(chat.turns).to_have_count(1)
    client.ask("From another tab", "openai/count-3", chatId=started["conversationId"])
    chat.ask("From this one").ended()
    expect(page.locator(".question__text")).to_have_text(["First", "From another tab", "From this one"])


def test_a_question_at_an_address_without_a_conversation_begins_one(me: Me, site: Site) -> None:
    page, client = me
    chat = Chat(page, site).open(f"/c/{uuid.uuid4()}", model="count-3")
    expect(page.locator("h1")).to_have_text("Not found")
    chat.ask("Anything here?").ended().says(counted(3))
    [made] = client.call("GET", "/api/chat/conversations")["conversations"]
    expect(page).to_have_url(f"{site.url}/c/{made['id']}")
