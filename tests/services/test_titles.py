"""What a conversation is called, made of its first question."""

from __future__ import annotations

import pytest

from chatapp.services.conversations import TITLE_CHARS, title_of


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("Where is it?", "Where is it?"),
        ("  Where\n\n is\tit? ", "Where is it?"),
        ("What is wrong here:\n```python\nprint(1)\n```", "What is wrong here"),
        ("```python\nprint(1)\n```", "```python print(1) ```"),
        ("x" * 100, "x" * 59 + "…"),
        ("one two, " * 20, "one two, one two, one two, one two, one two, one two, one…"),
        ("日本語" * 40, ("日本語" * 20)[:59] + "…"),
    ],
)
def test_a_title_is_the_beginning_of_the_question(question: str, title: str) -> None:
    assert title_of(question) == title
    assert len(title) <= TITLE_CHARS
