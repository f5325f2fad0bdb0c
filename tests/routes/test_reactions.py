"""Likes and dislikes: of answers, one for each person, seen by that person alone."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatapp.database import session_of
from chatapp.models import reactions
from chatapp.models.accounts import User
from tests.support import world
from tests.support.api import check_error
from tests.support.site import Client

SETUPS = ("sqlite, 1 worker", "postgresql, redis, 2 workers")


def path(message_id: str) -> str:
    return f"/api/chat/messages/{message_id}/reaction"


def shown(client: Client, started: dict[str, Any]) -> Any:
    """Return the answer's reaction as each place tells it."""
    answer = client.answer(started)["reaction"]
    history = client.call("GET", f"/api/chat/history?chatId={started['chatId']}")["messages"][-1]["reaction"]
    latest = client.call("GET", "/api/chat/history")["messages"][-1]["reaction"]
    assert answer == history == latest
    return answer


def test_an_answer_is_liked_then_disliked_then_neither(ada: Client) -> None:
    started, frames = ada.ask("hi")
    assert json.loads(frames[-1].data)["message"]["reaction"] is None
    assert shown(ada, started) is None
    message = ada.call("PUT", path(started["messageId"]), {"reaction": "like"})
    assert message == ada.answer(started)
    assert shown(ada, started) == {"kind": "like", "note": ""}
    ada.call("PUT", path(started["messageId"]), {"reaction": "dislike", "note": "Wrong 🦊"})
    assert shown(ada, started) == {"kind": "dislike", "note": "Wrong 🦊"}
    for _ in range(2):
        ada.call("DELETE", path(started["messageId"]), status=204)
        assert shown(ada, started) is None


def test_a_question_is_not_liked(ada: Client) -> None:
    started, _ = ada.ask("hi")
    check_error(ada.request("PUT", path(started["userMessageId"]), {"reaction": "like"}), 409)
    check_error(ada.request("DELETE", path(started["userMessageId"])), 409)
    assert [m["reaction"] for m in ada.conversation(started)["messages"]] == [None, None]


def test_somebody_elses_answer_is_not_there(ada: Client, bob: Client) -> None:
    started, _ = ada.ask("hi")
    ada.call("PUT", path(started["messageId"]), {"reaction": "like"})
    for message_id in (started["messageId"], str(uuid.uuid4())):
        check_error(bob.request("PUT", path(message_id), {"reaction": "dislike"}), 404)
        check_error(bob.request("DELETE", path(message_id)), 404)
    assert shown(ada, started) == {"kind": "like", "note": ""}


@pytest.mark.parametrize("wrong", [{}, {"reaction": "love"}, {"reaction": "like", "note": "x" * 2001}])
def test_what_is_no_reaction_is_refused(ada: Client, wrong: dict[str, Any]) -> None:
    started, _ = ada.ask("hi")
    check_error(ada.request("PUT", path(started["messageId"]), wrong), 400)


def test_many_at_once_are_one(ada: Client) -> None:
    started, _ = ada.ask("hi")
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"reaction": "like", "note": str(number)} for number in range(16)]
        list(pool.map(lambda body: ada.call("PUT", path(started["messageId"]), body), bodies))
    reaction = shown(ada, started)
    assert reaction["kind"] == "like"
    assert reaction["note"] in {body["note"] for body in bodies}


def test_each_has_an_opinion_of_their_own(tmp_path: Path) -> None:
    made = world.make(tmp_path)
    message = made.message(made.generation())
    with session_of(made.engine, writes=True) as session:
        other = User(email="bob@example.org", name="Bob", password_hash="")
        session.add(other)
        session.flush()
        reactions.put(session, message.id, made.user_id, kind="like", note="mine")
        reactions.put(session, message.id, other.id, kind="dislike", note="theirs")
        session.flush()
        for who, note in ((made.user_id, "mine"), (other.id, "theirs")):
            for found in (
                reactions.of_user_in(session, who, message.conversation_id),
                reactions.of_user(session, who, [message.id]),
                reactions.all_of_user(session, who),
            ):
                assert [reaction.note for reaction in found.values()] == [note]
    made.close()


def test_it_goes_with_its_conversation(ada: Client) -> None:
    started, _ = ada.ask("hi")
    ada.call("PUT", path(started["messageId"]), {"reaction": "like"})
    ada.call("DELETE", f"/api/chat/conversations/{started['conversationId']}", status=204)
    check_error(ada.request("PUT", path(started["messageId"]), {"reaction": "like"}), 404)
