"""A real browser, and a page that is signed in as somebody new."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.support.site import PASSWORD, Client, Site

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser")  # the first takes half of the processor's time
EXECUTABLE = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 30_000  # what never comes is waited for in vain; what comes late, on a busy machine, is not missed


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        except Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"there is no browser to test with: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Make browser contexts; a page that raises an error, or is refused something by its policy, fails the test."""
    made: list[BrowserContext] = []
    wrong: list[str] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
        context.set_default_timeout(TIMEOUT_MS)
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        context.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()
    assert not wrong, wrong


def sign_in(context: BrowserContext, site: Site, name: str = "Ada") -> Client:
    """Sign the context in as somebody new; return a client that is the same person."""
    person = {"email": f"{uuid.uuid4().hex}@example.org", "password": PASSWORD, "name": name}
    response = context.request.post(f"{site.url}/api/auth/register", data=person)
    assert response.ok, response.text()
    client = Client(site.url)
    client.sign(response.json())
    return client


@pytest.fixture
def me(new_context: Callable[..., BrowserContext], site: Site) -> tuple[Page, Client]:
    """A page that is signed in, and an API client of the same person."""
    context = new_context()
    client = sign_in(context, site)
    return context.new_page(), client
