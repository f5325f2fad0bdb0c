"""Conversations as files: whole, readable in any script, and made without keeping anybody waiting."""

from __future__ import annotations

import io
import json
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import unquote

import gevent
import pypdf
import pytest
from sqlalchemy import insert, update

import chatapp.exports
from chatapp import registry
from chatapp.database import connected, engine_for, session_of, utcnow
from chatapp.exports import Talk, pdf
from chatapp.models.conversations import Conversation, Message, add_messages
from chatapp.routes.exports import disposition
from chatapp.services.exports import PAGE, messages, safe
from chatapp.settings import Settings
from tests.support import world
from tests.support.api import check_error
from tests.support.site import Client, Site, wait_until

FORMATS = registry.load(chatapp.exports)
SCRIPTS = {
    "Latin": "Größe, naïve, Łódź",
    "Greek": "Ελληνικά",
    "Cyrillic": "Привет, мир",
    "Chinese": "你好，世界",
    "Japanese": "こんにちは漢字",
    "Korean": "안녕하세요",
    "Thai": "สวัสดี",
    "Hindi": "नमस्ते",
    "mathematics": "∑ ∫ √ ≤ ∈ ℝ 𝔸",
}
EMOJI = "😀🦊👩‍👩‍👧‍👦🏳️‍🌈"


def exported(client: Client, path: str, **query: Any) -> Any:
    response = client.request("GET", path, params=query, timeout=100)
    assert response.status_code == 200, response.text[:500]
    assert response.headers["Content-Type"].split(";")[0] == FORMATS[query.get("format", "json")].MEDIA_TYPE
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in response.headers["Cache-Control"]
    return response


def one(client: Client, started: dict[str, Any], **query: Any) -> Any:
    return exported(client, f"/api/chat/conversations/{started['conversationId']}/export", **query)


def text_of(data: bytes) -> str:
    return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)


def name_of(response: Any) -> str:
    """Return the file's name as a browser reads it (RFC 8187)."""
    kind, _, rest = response.headers["Content-Disposition"].partition("; ")
    assert kind == "attachment"
    found = re.fullmatch(r'filename="([ -~]+)"; filename\*=UTF-8\'\'([!-~]+)', rest)
    assert found is not None, rest
    return unquote(found[2])


@pytest.fixture
def branched(ada: Client) -> dict[str, Any]:
    """A conversation with two branches, a reaction and what a model thought."""
    started, _ = ada.ask("first question", "openai/reasoning", chatId=f"chat-{uuid.uuid4().hex}")
    ada.ask("left behind", chatId=started["chatId"])
    ada.call("PUT", f"/api/chat/messages/{started['messageId']}/reaction", {"reaction": "like", "note": "so good"})
    path = f"/api/chat/conversations/{started['conversationId']}"
    ada.call("PATCH", path, {"title": "Zoë's 对话: a/b"})
    left = ada.conversation(started)["messages"][2]["id"]
    edited = ada.call("PATCH", f"/api/chat/messages/{left}", {"content": "asked instead"}, 201)
    list(ada.follow(edited["generationId"]))
    return started


def test_json_has_the_whole_tree(ada: Client, branched: dict[str, Any]) -> None:
    response = one(ada, branched)
    body = response.json()
    assert (body["version"], len(body["conversations"])) == (1, 1)
    [conversation] = body["conversations"]
    shown = ada.conversation(branched)
    assert conversation["messages"] == shown["messages"]
    assert conversation["messages"][1]["reaction"] == {"kind": "like", "note": "so good"}
    assert len(conversation["messages"]) == 6
    assert {key: conversation[key] for key in ("id", "title", "leaf_id", "created_at")} == {
        key: shown[key] for key in ("id", "title", "leaf_id", "created_at")
    }
    assert name_of(response) == "Zoë's 对话 a b.json"


def test_markdown_has_the_branch_shown(ada: Client, branched: dict[str, Any]) -> None:
    response = one(ada, branched, format="markdown")
    text = response.content.decode()
    assert text.startswith("# Zoë's 对话: a/b\n")
    assert "## You" in text
    assert "## openai/reasoning" in text
    assert "_Liked: so good_" in text
    assert "first question" in text
    assert text.index("first question") < text.index("asked instead")
    assert "left behind" not in text
    assert re.search(r"_20\d\d-\d\d-\d\d \d\d:\d\d UTC_", text)
    thought = ada.conversation(branched)["messages"][1]["reasoning"]
    assert thought
    assert f"> {thought}" not in text
    assert f"> {thought}" in one(ada, branched, format="markdown", reasoning="true").content.decode()
    assert name_of(response) == "Zoë's 对话 a b.md"


def test_a_command_is_answered_by_the_site(ada: Client) -> None:
    started, _ = ada.ask("/title Ships")
    text = one(ada, started, format="markdown").content.decode()
    assert re.findall("^## (.*)", text, re.M) == ["You", "This site"]


def test_pdf_has_the_branch_shown(ada: Client, branched: dict[str, Any]) -> None:
    response = one(ada, branched, format="pdf")
    assert response.content.startswith(b"%PDF-")
    text = text_of(response.content)
    for part in ("Zoë's 对话: a/b", "You", "first question", "openai/reasoning", "Liked: so good", "asked instead"):
        assert part in text
    assert "left behind" not in text
    assert name_of(response) == "Zoë's 对话 a b.pdf"


@pytest.mark.parametrize("format", FORMATS)
def test_all_conversations_are_one_file(ada: Client, bob: Client, format: str) -> None:
    nothing = exported(ada, "/api/chat/export", format=format).content
    assert nothing
    for prompt in ("apples", "pears"):
        ada.ask(prompt)
    bob.ask("somebody else's")
    archived, _ = ada.ask("plums")
    ada.call("PATCH", f"/api/chat/conversations/{archived['conversationId']}", {"archived": True})
    response = exported(ada, "/api/chat/export", format=format)
    text = text_of(response.content) if format == "pdf" else response.content.decode()
    assert text.index("apples") < text.index("pears") < text.index("plums")
    assert "somebody" not in text
    if format == "json":
        assert [len(found["messages"]) for found in json.loads(text)["conversations"]] == [2, 2, 2]
        assert json.loads(nothing)["conversations"] == []
    assert name_of(response) == f"Conversations {utcnow():%Y-%m-%d}.{FORMATS[format].SUFFIX}"


@pytest.mark.parametrize("format", FORMATS)
def test_somebody_elses_conversation_is_not_there(ada: Client, bob: Client, format: str) -> None:
    started, _ = ada.ask("x")
    path = f"/api/chat/conversations/{started['conversationId']}/export?format={format}"
    check_error(bob.request("GET", path), 404)
    check_error(ada.request("GET", path.replace(format, "docx")), 400)


def test_an_answer_that_is_being_written_is_said_to_be(ada: Client) -> None:
    started = ada.start("x", "openai/silent-body")
    assert "still being written" in one(ada, started, format="markdown").content.decode()
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
    assert "stopped" in one(ada, started, format="markdown").content.decode()


# names


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Plain", "Plain"),
        ('a/b\\c:d*e?f"g<h>i|j', "a b c d e f g h i j"),
        ("../../etc/passwd", "etc passwd"),
        ("x\r\nSet-Cookie: a=b", "x Set-Cookie a=b"),
        ("\u2028\0...", "Untitled conversation"),
        ("", "Untitled conversation"),
        ("对话 🦊", "对话 🦊"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_title_becomes_a_name_that_every_system_takes(title: str, name: str) -> None:
    assert safe(title) == name
    header = disposition(f"{name}.pdf")
    header.encode("ascii")
    assert "\n" not in header
    assert unquote(header.rpartition("UTF-8''")[2]) == f"{name}.pdf"
    assert header.count('"') == 2


# paper


NOW = "2026-01-02T03:04:05.000000Z"
A4_POINTS = 595  # its width


def talk(*contents: str, role: str = "assistant") -> Talk:
    head = {"title": "Talk", "created_at": NOW, "updated_at": NOW}
    message = {
        "role": role,
        "model": "openai/big",
        "reasoning": "",
        "status": "finished",
        "finish_reason": "stop",
        "error": None,
        "sources": None,
        "command": None,
        "reaction": None,
        "created_at": NOW,
    }
    return Talk(head, [{**message, "content": content} for content in contents])


def printed(*contents: str, role: str = "assistant") -> str:
    return text_of(b"".join(pdf.dump([talk(*contents, role=role)], NOW)))


def letters(text: str) -> str:
    return "".join(text.split())


def test_every_script_is_seen_and_can_be_found() -> None:
    text = letters(printed("\n\n".join([*SCRIPTS.values(), EMOJI]), "after")).replace("\0", "")
    for script, words in SCRIPTS.items():
        assert letters(words) in text, script
    assert all(emoji in text for emoji in "😀🦊")
    assert text.endswith("after1/1")


def test_text_from_right_to_left_is_whole() -> None:
    paper = b"".join(pdf.dump([talk("שלום עולם", "مرحبا بالعالم", "Mixed שלום and 12 مرحبا end")], NOW))
    text = text_of(paper)
    for word in ("שלום", "עולם", "مرحبا", "بالعالم"):
        assert word in text or word[::-1] in text, word
    assert "Mixed" in text
    places: list[float] = []
    pypdf.PdfReader(io.BytesIO(paper)).pages[0].extract_text(
        visitor_text=lambda text, cm, tm, *_: places.append(tm[4]) if "ם" in text else None
    )
    assert max(places) > A4_POINTS / 2  # it begins at the right


def test_what_no_font_has_is_a_box() -> None:
    assert "a\ufffdb" in printed("a\U0010fff0b")


MARKDOWN = """# Heading one

Some **bold**, *slanted* and `code` with [a link](https://a.example/b).

- first
  - inner
- second

3. third

> quoted

| left | right |
|---|---|
| 1 | 2 |

```python
if x:
    y = "**no bold**"
```

---
end
"""


def test_markdown_is_drawn_and_not_shown() -> None:
    text = printed(MARKDOWN)
    for part in ("Heading one", "bold", "• ", "inner", "3.", "quoted", "left | right", 'y = "**no bold**"', "end"):
        assert part in re.sub(r" +", " ", text), part
    assert "https://a.example/b" in text
    assert "# Heading" not in text
    assert "**bold**" not in text
    assert "```" not in text


def test_what_a_person_typed_is_shown_as_it_was_typed() -> None:
    assert "# no heading **x**" in printed("# no heading **x**", role="user")


@pytest.mark.parametrize(
    "content",
    [
        "x" * 20_000,
        "> " * 200 + "deep",
        "\n".join("  " * depth + "- item" for depth in range(100)),
        "[" * 2000,
        "|" * 500 + "\n" + "|-" * 250 + "|\n",
        "```\nopen",
        "\0\x01\x07\x1b[31m\u200b\u202e\ufeff",
        "<script>alert(1)</script> &amp; \\ ( ) {nb}",
        "1. \n2. \n- \n# \n> \n",
        "🦊" * 3000,
        "e" + "\u0301" * 300,
        "שלום " * 500,
    ],
)
def test_nothing_breaks_it(content: str) -> None:
    assert "after" in printed(content, "after")


def test_a_fence_that_an_answer_leaves_open_swallows_nothing() -> None:
    markdown = FORMATS["markdown"]
    text = b"".join(markdown.dump([talk("```\nopen", "after")], NOW)).decode()
    assert "```\nopen\n```\n" in text


def test_what_is_too_long_for_paper_is_told(ada: Client, site: Site) -> None:
    started = filled(site, ada, messages=3, characters=1_000_000)
    path = f"/api/chat/conversations/{started['conversationId']}/export"
    error = check_error(ada.request("GET", f"{path}?format=pdf"), 413)
    assert "Markdown" in error["message"]
    assert len(one(ada, started, format="markdown").content) > 2_900_000


# nobody waits


def filled(site: Site, client: Client, *, messages: int, characters: int) -> dict[str, Any]:
    """Return a conversation of many messages, written behind the site's back."""
    started, _ = client.ask("x")
    parent, now = started["messageId"], utcnow()
    rows = []
    for number in range(messages):
        content = (f"Paragraph {number}, with **bold** words.\n\n" * (characters // 30))[:characters]
        rows.append(
            {
                "id": str(uuid.uuid4()),
                "conversation_id": started["conversationId"],
                "parent_id": parent,
                "position": number + 3,
                "role": ("user", "assistant")[number % 2],
                "content": content,
                "reasoning": "",
                "status": "finished",
                "created_at": now + timedelta(seconds=number),
            }
        )
        parent = rows[-1]["id"]
    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine, writes=True) as connection:
        connection.execute(insert(Message.__table__), rows)  # type: ignore[arg-type]
        connection.execute(
            update(Conversation).where(Conversation.id == started["conversationId"]).values(leaf_id=parent)
        )
    engine.dispose()
    return started


LONG_GAP_SECONDS = 0.5  # without the guards it takes a second or more in one piece


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_goes_on_while_a_file_is_made(house: Site, format: str) -> None:
    """The longest gap between two tokens is not much longer than without."""
    ada = house.new_user()
    few = format == "pdf"
    big = filled(house, ada, messages=150 if few else 6000, characters=1000 if few else 200)
    path = f"/api/chat/conversations/{big['conversationId']}/export?format={format}"
    usual = longest_gap(ada, Event())
    busy, enough = Event(), Event()

    def export() -> int:
        size = 0
        while not enough.is_set():
            busy.set()
            response = house_client(ada).request("GET", path, timeout=100)
            assert response.status_code == 200
            size = len(response.content)
        return size

    with ThreadPoolExecutor(1) as pool:
        size = pool.submit(export)
        wait_until(busy.is_set)
        gap = longest_gap(ada, enough)
    assert size.result() > 30_000
    assert gap < max(LONG_GAP_SECONDS, 4 * usual), (gap, usual)


def test_others_have_their_turn_while_messages_are_read(tmp_path: Path) -> None:
    made = world.make(tmp_path)
    conversation_id, turns = made.conversation(), 0
    with session_of(made.engine, writes=True) as session:
        conversation = session.get_one(Conversation, conversation_id)
        add_messages(session, conversation, [Message(role="user", content=str(number)) for number in range(5 * PAGE)])

    def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    other = gevent.spawn(turn)
    found = list(messages(made.engine, conversation, {}, whole=True, reasoning=True))
    other.kill()
    made.close()
    assert [message["content"] for message in found] == [str(number) for number in range(5 * PAGE)]
    assert turns >= 4


def house_client(client: Client) -> Client:
    other = Client(client.url)
    other.http.headers.update(client.http.headers)
    return other


def longest_gap(client: Client, done: Event) -> float:
    """Return the longest time, in seconds, between two tokens of a stream that has one every 10 ms."""
    started = client.start("x", "openai/count-150,delay=0.01")
    last, longest = None, 0.0
    for frame in client.follow(started["generationId"]):
        if frame.event == "token":
            now = time.monotonic()
            longest = max(longest, now - last) if last is not None else 0.0
            last = now
    done.set()
    return longest


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site]) -> Site:
    """A site of one worker, whose streams nobody else disturbs."""
    return new_site()
