"""The chat page, in the words of somebody who uses it."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.support.site import Site

GROWTH = """() => {
  window.texts = [];
  const note = () => {
    const prose = document.querySelector("chat-turn:last-of-type .prose");
    const text = prose?.textContent ?? "";
    if (text && text !== window.texts.at(-1)) window.texts.push(text);
  };
  const all = {subtree: true, childList: true, characterData: true};
  new MutationObserver(note).observe(document.querySelector("chat-thread"), all);
}"""


def counted(number: int) -> str:
    """Return what the model `count-N` answers."""
    return " ".join(str(n) for n in range(1, number + 1))


class Chat:
    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.url = site.url
        self.provider = "openai"

    def open(self, path: str = "/", *, model: str = "count-20") -> Chat:
        """Go to a page where *model*, a scenario of the fake models, is the one that is asked."""
        self.use(model)
        self.page.goto(self.url + path)
        expect(self.page.locator("[data-part=model-name]")).to_have_text(model)
        return self

    def use(self, model: str) -> None:
        found: dict[str, Any] = {
            "models": [
                {"id": f"{self.provider}/{model}", "name": model, "provider": self.provider, "context_length": None}
            ],
            "default": f"{self.provider}/{model}",
        }
        self.page.unroute("**/api/models")
        self.page.route("**/api/models", lambda route: route.fulfill(json=found))

    @property
    def prompt(self) -> Locator:
        return self.page.get_by_label("Question", exact=True).last

    @property
    def turns(self) -> Locator:
        return self.page.locator("chat-turn")

    @property
    def text(self) -> Locator:
        """The text of the last answer."""
        return self.turns.last.locator(".prose")

    @property
    def items(self) -> Locator:
        return self.page.locator("chat-sidebar .item")

    def ask(self, prompt: str) -> Chat:
        self.prompt.fill(prompt)
        self.prompt.press("Enter")
        expect(self.turns.last.locator(".question__text")).to_have_text(prompt)
        return self

    def ended(self, status: str = "finished") -> Chat:
        expect(self.turns.last).to_have_attribute("data-status", status)
        expect(self.page.locator("[data-part=stop]")).to_be_hidden()
        return self

    def says(self, text: str) -> Chat:
        expect(self.text).to_have_text(text)
        return self

    def grew_to(self, start: str) -> Chat:
        """Wait until the answer, still growing, begins with *start*. For a model that is slow until the test hurries it."""
        expect(self.text).to_have_text(re.compile("^" + re.escape(start)))
        expect(self.turns.last).to_have_attribute("data-status", "running")
        return self

    def act(self, name: str) -> None:
        self.turns.last.get_by_role("button", name=name, exact=True).click()

    def item_menu(self, title: str, choice: str) -> None:
        item = self.items.filter(has_text=title)
        item.hover()
        item.get_by_role("button", name="Rename, pin, delete").click()
        self.page.get_by_role("menuitem", name=choice).click()

    def watch_growth(self) -> None:
        self.page.evaluate(GROWTH)

    def growth(self) -> list[str]:
        """Return the texts that the last answer went through, one a drawing."""
        texts: list[str] = self.page.evaluate("window.texts")
        return texts


def posted(request_body: str | None) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request_body or "{}")
    return body
