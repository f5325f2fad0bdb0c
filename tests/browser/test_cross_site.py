"""A page of another site, in the browser of somebody who is signed in here, changes, begins and reads nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.support import api
from tests.support.pages import sign_in
from tests.support.site import Client, Site

ATTACKS = """async ({url, project, conversation, unanswered, generation}) => {
  const heard = [];
  const ask = async (path, options) => {
    for (const mode of ["cors", "no-cors"]) {
      try {
        const answer = await fetch(url + path, {credentials: "include", mode, ...options});
        if (answer.type !== "opaque") heard.push([path, await answer.text()]);
      } catch {}
    }
  };
  const body = JSON.stringify({prompt: "evil", message: "evil", question: "evil", content: "evil", title: "evil"});
  const posts = ["/api/chat/start", "/chat/start", "/api/v1/ai/chat", "/ai/chat", "/api/chat/conversations", "/chat/1/stream",
    "/api/stream", "/api/projects", "/api/invites", "/api/auth/logout", `/api/chat/conversations/${conversation}/stop`,
    `/api/chat/conversations/${conversation}/messages`];
  for (const path of posts)
    for (const type of ["text/plain", "application/json", "application/x-www-form-urlencoded"])
      await ask(path, {method: "POST", body, headers: {"Content-Type": type}});
  await ask(`/api/chat/conversations/${conversation}`, {method: "DELETE"});
  await ask(`/api/chat/conversations/${conversation}`, {method: "PATCH", body, headers: {"Content-Type": "application/json"}});
  const gets = [`/ai/chat/stream?projectId=${project}&message=evil`, `/api/v1/ai/chat/stream?projectId=${project}&message=evil`,
    "/chat/1/stream?question=evil", "/api/chat/1/stream?question=evil", `/api/chat/conversations/${unanswered}/stream`,
    "/api/chat/conversations", "/api/auth/me", "/api/chat/history", `/api/generations/${generation}/events`];
  for (const path of gets) await ask(path, {method: "GET"});
  const streams = gets.map((path) => new Promise((done) => {
    const source = new EventSource(url + path, {withCredentials: true});
    const hear = (event) => heard.push([path, event.data]);
    for (const name of ["message", "token", "chunk", "start", "typing", "done"]) source.addEventListener(name, hear);
    source.onerror = () => { source.close(); done(); };
    setTimeout(() => { source.close(); done(); }, 1500);
  }));
  const images = gets.map((path) => new Promise((done) => {
    const image = new Image();
    image.onload = image.onerror = done;
    image.src = url + path;
  }));
  const scripts = gets.slice(0, 5).map((path) => new Promise((done) => {
    const script = document.createElement("script");
    script.onload = script.onerror = done;
    script.src = url + path;
    document.head.append(script);
  }));
  await Promise.all([...streams, ...images, ...scripts]);
  const form = document.createElement("form");
  form.method = "post"; form.action = url + "/api/chat/start"; form.enctype = "text/plain"; form.target = "elsewhere";
  form.innerHTML = `<input name='{"prompt": "evil", "x": "' value='"}'>`;
  document.body.append(form);
  form.submit();
  return heard;
}"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another site's page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><iframe name=elsewhere></iframe>")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def held(site: Site) -> dict[str, Any]:
    found = api.tables(site)
    return {name: rows for name, rows in found.items() if name != "sign_in_attempts"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another site", "another port"])
def test_another_sites_page_changes_begins_and_reads_nothing(
    new_context: Callable[..., BrowserContext], site: Site, elsewhere: int, host: str
) -> None:
    heard, changes = attacked(new_context(), site, f"http://{host}:{elsewhere}/")
    assert heard == []
    assert not changes


def test_the_control_a_site_that_trusts_its_cookies_begins_what_others_ask(
    new_context: Callable[..., BrowserContext], new_site: Callable[..., Site], elsewhere: int
) -> None:
    site = new_site(application="tests.faults.builds.trusting")
    _, changes = attacked(new_context(), site, f"http://127.0.0.1:{elsewhere}/")
    assert any("evil" in row for row in changes["messages"])


def attacked(context: BrowserContext, site: Site, address: str) -> tuple[list[Any], dict[str, list[str]]]:
    """Visit the hostile page at *address*, signed in; return what it heard, and which rows of the database changed."""
    ada: Client = sign_in(context, site)
    one = api.talk(ada)
    unanswered = ada.call("POST", "/api/chat/conversations", {}, 201)["id"]
    ada.call("POST", f"/api/chat/conversations/{unanswered}/messages", {"content": "not yet"}, 201)
    before = held(site)
    page: Page = context.new_page()
    page.goto(address)
    heard = page.evaluate(
        ATTACKS,
        {
            "url": site.url,
            "project": one.ids["project_id"],
            "conversation": one.ids["conversation_id"],
            "generation": one.ids["generation_id"],
            "unanswered": unanswered,
        },
    )
    page.wait_for_timeout(300)  # for the form, which nobody tells of
    changes = api.changed(before, held(site))
    page.goto(site.url)  # and she is signed in still
    assert page.get_by_role("textbox").first.is_visible()
    return heard, changes
