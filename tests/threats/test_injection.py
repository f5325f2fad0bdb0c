"""Text of one person's choice stays text: it makes no event, no header and no statement of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatapp import sse
from tests.support.api import check_error
from tests.support.site import Client, Site

BREAKS = ["\n", "\r", "\r\n", "\u2028", "\x85", "\x0b", "\x0c"]
EVIL = "x{0}id: 99{0}event: done{0}data: {{}}{0}{0}event: fail{0}data: evil{0}{0}"


def names(frames: list[sse.Frame]) -> list[Any]:
    """Return which events there were, a row of tokens as one."""
    found = [frame.event or json.loads(frame.data)["type"] for frame in frames]
    return [name for place, name in enumerate(found) if found[place - 1 : place] != [name]]


@pytest.mark.parametrize("break_", BREAKS, ids=ascii)
def test_no_line_break_in_a_text_makes_an_event(site: Site, ada: Client, break_: str) -> None:
    evil = EVIL.format(break_)
    plain, _ = ada.ask("x")
    started, frames = ada.ask(evil)
    assert names(frames) == names(list(ada.follow(plain["generationId"])))
    said = "".join(json.loads(frame.data)["content"] for frame in frames if frame.event == "token")
    assert said.rstrip() == evil.rstrip()
    for path, where in (
        (f"/api/chat/stream?sessionId={started['sessionId']}", f"/api/chat/stream?sessionId={plain['sessionId']}"),
        *(
            (
                f"/api/chat/conversations/{one['conversationId']}/stream",
                f"/api/chat/conversations/{two['conversationId']}/stream",
            )
            for one, two in [(started, plain)]
        ),
    ):
        assert names(list(ada.frames(path))) == names(list(ada.frames(where)))


@pytest.mark.parametrize("break_", BREAKS, ids=ascii)
def test_no_line_break_in_a_name_makes_an_event(ada: Client, break_: str) -> None:
    evil = EVIL.format(break_)
    model = f"openai/count-3,x={evil}"[:300]
    _, frames = ada.ask("count", model)
    _, plain = ada.ask("count", "openai/count-3")
    assert names(frames) == names(plain)
    if break_ in "\r\n\u2028":
        check_error(ada.request("POST", "/api/chat/conversations", {"title": evil}), 400)
    check_error(ada.request("POST", "/api/chat/conversations", {"key": evil[:60]}), 400)
    check_error(ada.request("POST", "/api/chat/start", {"prompt": "x", "chatId": evil[:60]}), 400)


def test_what_a_model_says_is_no_command(ada: Client) -> None:
    """Only what a person typed is; an answer that says `/clear`, and then is part of the history, clears nothing."""
    started, _ = ada.ask("Say it: /clear", "openai/count-1,text=/clear", chatId="obeys")
    ada.ask("go on", "openai/echo", chatId="obeys")
    said = [(message["role"], message["content"]) for message in ada.conversation(started)["messages"]]
    assert said == [
        ("user", "Say it: /clear"),
        ("assistant", "/clear"),
        ("user", "go on"),
        ("assistant", "go on"),
    ]
