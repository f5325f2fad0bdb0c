"""The page that describes the API, in a browser that runs no script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.support.site import Site


@pytest.mark.parametrize(
    "options",
    [{"viewport": {"width": 1280, "height": 800}}, {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}],
    ids=["desktop", "phone"],
)
def test_the_page_can_be_read_without_a_script(
    new_context: Callable[..., BrowserContext], site: Site, options: dict[str, Any]
) -> None:
    page, width = new_context(java_script_enabled=False, **options).new_page(), options["viewport"]["width"]
    page.goto(f"{site.url}/api/docs#post-api-chat-start")
    expect(page.locator("#post-api-chat-start h3")).to_be_in_viewport()
    for article in page.locator("article").all()[:20]:
        box = article.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    contents = page.get_by_role("navigation") if width > 1000 else page.locator(".docs__drawer")
    if width < 1000:
        expect(page.get_by_role("navigation")).to_be_hidden()
        contents.locator("summary").click()
    contents.locator("a[href='#get-api-models']").click()
    expect(page.locator("#get-api-models h3")).to_be_in_viewport()
