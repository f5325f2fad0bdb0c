"""Several things at once in one chat: each answer is its own, and the tree of messages stays one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.faults._streams import text_of, whole_text
from tests.support.site import Client, Site

SLOW = "openai/count-60,delay=0.01"


def another(client: Client) -> Client:
    made = Client(client.url)
    made.http.headers.update(client.http.headers)
    return made


def check_tree(chat: dict[str, Any]) -> dict[str | None, list[dict[str, Any]]]:
    """Check that each message hangs on one of the other kind that came before it; return the children of each."""
    known: dict[str, str] = {}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for message in chat["messages"]:
        parent = message["parent_id"]
        assert parent is None or parent in known
        assert message["role"] == (
            "user" if parent is None else {"user": "assistant", "assistant": "user"}[known[parent]]
        )
        assert message["id"] not in known
        known[message["id"]] = message["role"]
        children.setdefault(parent, []).append(message)
    assert chat["leaf_id"] in known
    return children


def test_answers_edits_and_questions_at_once_keep_their_places(site: Site) -> None:
    """While the first answer is written, its question is answered anew, edited, and the next is asked, each several times."""
    ada = site.new_user()
    first = ada.start("begin", SLOW)
    question, answer, chat_id = first["userMessageId"], first["messageId"], first["conversationId"]

    def act(number: int) -> tuple[str, dict[str, Any], str]:
        client, kind = another(ada), ("regenerate", "edit", "ask")[number % 3]
        body = {"modelId": f"openai/count-{20 + number},delay=0.01"}
        if kind == "regenerate":
            made = client.call("POST", f"/api/chat/messages/{answer}/regenerate", body, 201)
        elif kind == "edit":
            made = client.call("PATCH", f"/api/chat/messages/{question}", {"content": f"edit {number}", **body}, 201)
        else:
            made = client.start(f"ask {number}", body["modelId"], chatId=chat_id)
        return kind, made, text_of(client.follow(made["generationId"]))

    with ThreadPoolExecutor(9) as pool:
        made = list(pool.map(act, range(9)))
    assert text_of(ada.follow(first["generationId"])) == whole_text(60)
    chat = ada.conversation(first)
    children = check_tree(chat)
    by_id = {message["id"]: message for message in chat["messages"]}
    assert by_id[answer]["content"] == whole_text(60)
    for number, (_, started, text) in enumerate(made):
        assert by_id[started["messageId"]]["content"] == text == whole_text(20 + number)
        assert by_id[started["messageId"]]["parent_id"] == started["userMessageId"]
    kinds = {kind: [started for one, started, _ in made if one == kind] for kind in ("regenerate", "edit", "ask")}
    assert {started["userMessageId"] for started in kinds["regenerate"]} == {question}
    assert len(children[question]) == 1 + len(kinds["regenerate"])
    assert len(children[None]) == 1 + len(kinds["edit"])
    assert {message["content"] for message in children[None]} == {"begin", "edit 1", "edit 4", "edit 7"}
    assert {by_id[started["userMessageId"]]["content"] for started in kinds["ask"]} == {"ask 2", "ask 5", "ask 8"}
    assert chat["running"] is False
    assert not [message for message in chat["messages"] if message["status"] == "running"]


def test_an_answer_that_is_stopped_does_not_stop_what_comes_after_it(site: Site) -> None:
    """Stop ends all answers of the chat that run then, and none that begins later."""
    ada = site.new_user()
    first = ada.start("x", "openai/count-5000,delay=0.01")
    again = ada.call(
        "POST", f"/api/chat/messages/{first['messageId']}/regenerate", {"modelId": "openai/silent-body"}, 201
    )
    ada.call("POST", f"/api/chat/conversations/{first['conversationId']}/stop")
    later, frames = ada.ask("y", "openai/count-9", chatId=first["conversationId"])
    stopped = {message["id"]: message["status"] for message in ada.conversation(first)["messages"]}
    assert (stopped[first["messageId"]], stopped[again["messageId"]]) == ("stopped", "stopped")
    assert stopped[later["messageId"]] == "finished"
    assert text_of(frames) == whole_text(9)
    check_tree(ada.conversation(first))


def test_the_control_a_message_on_the_wrong_branch_is_found_out(site: Site) -> None:
    ada = site.new_user()
    first, _ = ada.ask("x")
    chat = ada.conversation(first)
    wrong = json.loads(json.dumps(chat))
    wrong["messages"][1]["parent_id"] = None
    for broken in (wrong, {**chat, "leaf_id": "x"}, {**chat, "messages": chat["messages"][::-1]}):
        try:
            check_tree(broken)
        except AssertionError:
            continue
        raise AssertionError("a broken tree was taken for a whole one")
