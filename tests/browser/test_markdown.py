"""The view of a growing answer: what is shown stays, and the end is what a reload shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from chatapp.settings import ROOT
from tests.support.site import Client, Site, wait_until

DOCUMENTS = sorted((ROOT / "tests" / "data" / "markdown").glob("*.md"))
# What the text looks like after each letter; then the same after the last, and rendered in one go.
GROW = """async (text) => {
  const { MarkdownView } = await import("/static/js/markdown.js");
  const [grown, whole] = [document.createElement("div"), document.createElement("div")];
  const view = new MarkdownView(grown);
  const shown = [];
  for (let end = 1; end <= text.length; end++) {
    view.update(text.slice(0, end), true);
    shown.push(grown.textContent);
  }
  view.update(text);
  new MarkdownView(whole).update(text);
  return [shown, grown.textContent, grown.innerHTML, whole.innerHTML];
}"""
TIME = """async ([piece, length]) => {
  const { MarkdownView } = await import("/static/js/markdown.js");
  const view = new MarkdownView(document.createElement("div"));
  const text = piece.repeat(Math.ceil(length / piece.length));
  const began = performance.now();
  for (const share of [0.25, 0.5, 0.75, 1]) view.update(text.slice(0, text.length * share), true);
  view.update(text);
  return performance.now() - began;
}"""
HOSTILE = [
    "*a **b ",
    "[",
    "![",
    "[a](",
    "`a``",
    ">",
    "- ",
    "* a\n  ",
    "<a ",
    "_a_",
    "\\",
    "|",
    "~~a",
    "<!--",
    "&",
    "$$",
    "1. ",
]


@pytest.fixture
def page(me: tuple[Page, Client], site: Site) -> Page:
    me[0].goto(site.url)
    expect(me[0].locator("chat-composer")).to_be_visible()
    return me[0]


def letters(text: str) -> str:
    """Return *text* without spaces and brackets: a link is known as one only when its address begins."""
    return "".join(char for char in text if not char.isspace() and char not in "[]!")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_is_shown_stays_and_only_grows(page: Page, document: Path) -> None:
    shown, last, grown, whole = page.evaluate(GROW, document.read_text(encoding="utf-8"))
    assert grown == whole
    before = ""
    for text in map(letters, [*shown, last]):
        assert text.startswith(before), (before[-40:], text[-40:])
        before = text


def test_no_text_takes_long_to_show(page: Page) -> None:
    """A second, or what four times the text may take: 16 times as long would be its square. A busy machine tries again."""

    def quick(piece: str) -> bool:
        long: float = page.evaluate(TIME, [piece, 20_000])
        return long < 1000 or long < 10 * page.evaluate(TIME, [piece, 5_000])

    for piece in HOSTILE:
        wait_until(lambda piece=piece: quick(piece), what=f"that {piece} is shown soon")
