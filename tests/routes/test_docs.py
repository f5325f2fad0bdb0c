"""The page that describes the API: made on the server from the document, whole, and of use without anything else."""

from __future__ import annotations

import html
import re
from functools import cache

import pytest

from tests.support import api
from tests.support.api import EXAMPLES, document


@cache
def page() -> str:
    answer = api.application().test_client().get("/api/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    return answer.text


def text() -> str:
    return html.unescape(re.sub(r"<[^>]+>|\u200b", "", page()))


@pytest.mark.parametrize("route", EXAMPLES)
def test_every_operation_is_on_the_page_with_all_that_it_takes(route: str) -> None:
    method, rule = route.split(" ")
    path = api.documented(rule)
    found = api.operation(route)
    assert path in text()
    longest = max(
        (path for path, item in document()["paths"].items() if method.lower() in item and same(item, method, found)),
        key=len,
    )
    anchor = f'id="{method.lower()}-{re.sub("[^a-z0-9]+", "-", longest.lower()).strip("-")}"'
    [article] = [part for part in page().split("<article")[1:] if anchor in part[:300]]
    said = html.unescape(re.sub(r"<[^>]+>|\u200b", "", article))
    assert all(one["name"] in said for one in found.get("parameters", ()))
    if "requestBody" in found:
        assert all(name in said for name in api.shape(route)["properties"])
    for status in found["responses"]:
        if status.startswith("4"):
            assert all(f"<code>{code}</code>" in article for code in api.CODES[int(status)]), status
    assert "curl -" in said
    assert ("Authorization: Bearer $TOKEN" in said) == (found.get("security") != [])
    if any("text/event-stream" in answer.get("content", {}) for answer in found["responses"].values()):
        assert "data: {" in said


def same(item: dict[str, dict[str, str]], method: str, found: dict[str, str]) -> bool:
    return item[method.lower()]["summary"] == found["summary"]


def test_every_link_on_the_page_leads_somewhere_and_nothing_comes_from_elsewhere() -> None:
    names = re.findall(r'\bid="([^"]+)"', page())
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#([^"]+)"', page())) <= set(names)
    elsewhere = re.findall(r'(?:src|href)="((?:https?:)?//[^"]*)"', page())
    assert elsewhere == []
    assert "<script" not in page()


def test_what_a_host_header_says_is_text() -> None:
    client = api.application().test_client()
    assert "<b>" not in client.get("/api/docs", headers={"Host": "a<b>c"}).text
