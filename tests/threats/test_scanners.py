"""What reads text that anybody may send takes time in proportion to its length, whatever the text."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marshmallow import ValidationError

from chatapp import sse
from chatapp.database import session_of
from chatapp.dialects import parse_cursor
from chatapp.models import conversations as pages
from chatapp.models.conversations import Conversation, Message, add_messages
from chatapp.schemas import KEY, REFERENCE, one_line
from chatapp.schemas.accounts import Email
from chatapp.services import conversations
from tests.support import world

CHARS = 160_000
HOSTILE = [
    "a",
    " ",
    "\n",
    "\r",
    "```",
    "a ",
    "\t\u2003",
    "data:",
    "\r\n\r\n",
    "id: 1\n",
    "@a.",
    "-",
    ".",
    "🦊",
    "<",
    "[",
    "\\",
    "%",
]


def parse(text: str) -> Any:
    return sse.Parser().feed(text.encode())


def parse_in_bytes(text: str) -> Any:
    parser = sse.Parser()
    return [parser.feed(byte.to_bytes(1, "big")) for byte in text[: len(text) // 40].encode()]


def checked(validator: Any) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return validator(text)
        except ValidationError:
            return None

    return check


SCANNERS: dict[str, Callable[[str], Any]] = {
    "title": conversations.title_of,
    "uuid": conversations.is_uuid,
    "stream": parse,
    "stream in bytes": parse_in_bytes,
    "cursor": parse_cursor,
    "reference": checked(REFERENCE),
    "key": checked(KEY),
    "line": checked(one_line(10**9)[1]),
    "e-mail": checked(Email().deserialize),
}


@pytest.mark.parametrize("scanner", SCANNERS)
def test_four_times_the_text_takes_no_sixteen_times_as_long(scanner: str) -> None:
    scan = SCANNERS[scanner]
    for piece in HOSTILE:
        short, long = (least(scan, (piece * CHARS)[:size]) for size in (CHARS // 4, CHARS))
        assert long < 0.02 or long < 10 * short, (piece, short, long)


def test_a_search_takes_its_time_in_proportion_to_what_was_said(tmp_path: Path) -> None:
    made = world.make(tmp_path)
    conversation_id = made.conversation()
    with session_of(made.engine, writes=True) as session:
        conversation = session.get_one(Conversation, conversation_id)
        add_messages(session, conversation, [Message(role="user", content="a" * 32_000) for _ in range(20)])
    with session_of(made.engine) as session:

        def search(words: str) -> None:
            assert pages.page(session, made.user_id, q=words)[1] == 0

        plain, hostile = least(search, "b" * 200), least(search, "a" * 199 + "b")
    made.close()
    assert hostile < 0.1 or hostile < 20 * plain, (plain, hostile)


def test_the_control_a_scanner_that_looks_back_is_found_out() -> None:
    def looks_back(text: str) -> int:
        return sum(len(text[:place]) for place in range(0, len(text), 4))

    short, long = (least(looks_back, "a" * size) for size in (CHARS // 4, CHARS))
    assert long > 0.02
    assert long > 10 * short


def least(scan: Callable[[str], Any], text: str) -> float:
    """Return the shortest of three times, of the processor: what others do on the machine is no matter."""
    times = []
    for _ in range(3):
        begun = time.process_time()
        scan(text)
        times.append(time.process_time() - begun)
    return min(times)
