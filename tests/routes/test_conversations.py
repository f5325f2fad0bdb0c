"""Conversations: made, found, named, branched and deleted."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from chatapp.database import session_of
from chatapp.models import conversations
from chatapp.models.conversations import Conversation, Message, add_message
from tests.support import api, world
from tests.support.api import ENDLESS, check_error, talk
from tests.support.site import Client, Site

PATH = "/api/chat/conversations"


def make(client: Client, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = client.call("POST", PATH, body, 201)
    return made


def change(client: Client, conversation_id: str, **body: Any) -> dict[str, Any]:
    changed: dict[str, Any] = client.call("PATCH", f"{PATH}/{conversation_id}", body)
    return changed


def question(client: Client, conversation_id: str, content: str) -> dict[str, Any]:
    asked: dict[str, Any] = client.call("POST", f"{PATH}/{conversation_id}/messages", {"content": content}, 201)
    return asked


def shown(client: Client, conversation_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", f"{PATH}/{conversation_id}")
    return found


def listed(client: Client, **query: Any) -> list[str]:
    return [one["id"] for one in client.call("GET", PATH, params=query)["conversations"]]


def test_a_new_conversation_is_empty_and_in_the_list(ada: Client) -> None:
    made = make(ada, title="Trip")
    assert (made["title"], made["pinned"], made["archived"], made["running"]) == ("Trip", False, False, False)
    assert uuid.UUID(made["id"]).version == 4
    assert made["created_at"].endswith("Z")
    assert datetime.fromisoformat(made["created_at"]) <= datetime.fromisoformat(made["updated_at"])
    assert shown(ada, made["id"]) == {**made, "messages": []}
    assert ada.call("GET", PATH) == {"conversations": [made], "total": 1, "page": 1, "page_size": 50}


def test_the_same_name_is_the_same_conversation_also_at_once(ada: Client) -> None:
    def one(number: int) -> str:
        client = Client(ada.url)
        client.http.headers.update(ada.http.headers)
        return str(make(client, key="trip", title=f"Trip {number}")["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(one, range(8)))) == 1
    assert len(listed(ada)) == 1
    assert make(ada, key="Trip")["id"] not in (make(ada, key="trip")["id"], make(ada)["id"])


def test_pages_hold_every_conversation_once_pinned_and_newest_first(ada: Client) -> None:
    made = [make(ada, title=str(number))["id"] for number in range(7)]
    change(ada, made[2], pinned=True)
    question(ada, made[4], "hello")
    expected = [made[2], made[4], made[6], made[5], made[3], made[1], made[0]]
    assert listed(ada) == expected
    pages = [listed(ada, page=page, page_size=3) for page in (1, 2, 3, 4)]
    assert pages == [expected[:3], expected[3:6], expected[6:], []]
    told = ada.call("GET", PATH, params={"page": 3, "page_size": 3})
    assert (told["total"], told["page"], told["page_size"]) == (7, 3, 3)


def test_what_is_archived_is_out_of_the_way_and_not_gone(ada: Client) -> None:
    one, other = make(ada)["id"], make(ada)["id"]
    assert change(ada, one, archived=True)["archived"]
    assert (listed(ada), listed(ada, archived="true")) == ([other], [one])
    change(ada, one, archived=False)
    assert set(listed(ada)) == {one, other}


@pytest.mark.parametrize(
    "word", ["Zebra", "zebra", "ebr", "100%", "under_score", "back\\slash", "it's", "Straße", "🦊"]
)
def test_a_search_finds_titles_and_what_was_said(ada: Client, word: str) -> None:
    make(ada, title="zzz"), make(ada, title="100 underXscore")
    titled, said = make(ada, title=f"about {word} and more")["id"], make(ada, title="other")["id"]
    question(ada, said, f"tell me of {word}, please")
    assert set(listed(ada, q=word)) == {titled, said}


def test_the_first_question_gives_the_title(ada: Client) -> None:
    for content, title in (
        ("  What is\n\n a fox?  ", "What is a fox?"),
        ("x" * 100, "x" * 59 + "…"),
        ("one, " * 30, "one, one, one, one, one, one, one, one, one, one, one, one…"),
    ):
        one = make(ada)["id"]
        question(ada, one, content)
        question(ada, one, "and then?")
        assert shown(ada, one)["title"] == title
    named = make(ada, title="Mine")["id"]
    question(ada, named, "hello")
    assert shown(ada, named)["title"] == "Mine"


def test_a_change_changes_what_it_names_and_no_more(ada: Client) -> None:
    before = shown(ada, talk(ada).ids["conversation_id"])
    path = f"{PATH}/{before['id']}"
    assert (
        ada.call("PATCH", path, {}) == ada.call("PATCH", path) == {k: v for k, v in before.items() if k != "messages"}
    )
    renamed = change(ada, before["id"], title="Grüße 🦊", id=str(uuid.uuid4()), user_id="x", running=True, key="k")
    assert renamed == {**{k: v for k, v in before.items() if k != "messages"}, "title": "Grüße 🦊"}
    for title in ("", " ", "two\nlines", "x" * 201, "\u2028"):
        check_error(ada.request("PATCH", path, {"title": title, "pinned": True}), 400)
    assert shown(ada, before["id"]) == {**before, "title": "Grüße 🦊"}


def test_questions_asked_at_once_are_all_kept_one_after_the_other(ada: Client) -> None:
    one = make(ada)["id"]

    def ask(number: int) -> None:
        client = Client(ada.url)
        client.http.headers.update(ada.http.headers)
        question(client, one, f"question {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(16)))
    found = shown(ada, one)
    messages = found["messages"]
    assert {message["content"] for message in messages} == {f"question {number}" for number in range(16)}
    assert [message["parent_id"] for message in messages] == [None, *(message["id"] for message in messages[:-1])]
    assert found["leaf_id"] == messages[-1]["id"]
    told = ada.call("GET", "/api/chat/history", params={"chatId": one})["messages"]
    assert [message["id"] for message in told] == [message["id"] for message in messages]


def test_readers_who_come_at_once_have_the_question_answered_once(ada: Client) -> None:
    one = make(ada)["id"]
    question(ada, one, "one two three")

    def read(number: int) -> str:
        client = Client(ada.url)
        client.http.headers.update(ada.http.headers)
        return str(list(client.frames(f"{PATH}/{one}/stream")))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
    assert [message["role"] for message in shown(ada, one)["messages"]] == ["user", "assistant"]


def test_a_conversation_without_a_question_has_no_stream_and_nothing_to_stop(ada: Client) -> None:
    one = make(ada)["id"]
    check_error(ada.request("GET", f"{PATH}/{one}/stream"), 409)
    assert ada.call("POST", f"{PATH}/{one}/stop") == {"message": None}


def test_deleting_leaves_nothing_behind(site: Site, ada: Client) -> None:
    ended, running = talk(ada), talk(ada, ENDLESS, ended=False)
    ada.call("POST", f"/api/chat/messages/{ended.ids['message_id']}/regenerate", {"modelId": "openai/echo"}, 201)
    for one in (ended, running):
        ids = {one.ids[name] for name in ("conversation_id", "generation_id", "message_id")}
        assert traces(site, ids)
        path = f"{PATH}/{one.ids['conversation_id']}"
        assert ada.request("DELETE", path).status_code == 204
        check_error(ada.request("DELETE", path), 404)
        check_error(ada.request("GET", path), 404)
        assert not traces(site, ids)
    assert listed(ada) == []


def traces(site: Site, ids: set[str]) -> list[str]:
    """Return the names of the tables that hold one of these ids."""
    return [name for name, rows in api.tables(site).items() if any(one in row for row in rows for one in ids)]


def test_a_branch_is_shown_to_its_newest_end(tmp_path: Path) -> None:
    made = world.make(tmp_path)
    first, second = made.conversation(), made.conversation()
    with session_of(made.engine, writes=True) as session:
        conversation = session.get_one(Conversation, first)

        def add(parent: Message | None, content: str) -> Message:
            message = Message(role="user", content=content, parent_id=parent.id if parent else None)
            return add_message(session, conversation, message)

        root = add(None, "root")
        old, new = add(root, "old"), add(root, "new")
        old_end = add(add(add(old, "a"), "b"), "c")
        new_end = add(new, "d")
        add_message(session, session.get_one(Conversation, second), Message(role="user", content="elsewhere"))
        ends = {message.content: conversations.deepest(session, message.id) for message in (root, old, new, old_end)}
        assert ends == {"root": new_end.id, "old": old_end.id, "new": new_end.id, "c": old_end.id}
    made.close()
