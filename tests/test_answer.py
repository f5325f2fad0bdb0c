"""The fold: the same from any prefix on, and the same as the page's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapp.answer import FAILED, FINISHED, INTERRUPTED, RUNNING, STOPPED, Answer, fold
from chatapp.events import Event, Reasoning, Token, load
from tests.support.logs import LOGS

CASES = sorted((Path(__file__).parent / "data" / "answers").glob("*.json"))


@pytest.mark.parametrize("name", LOGS)
def test_folding_any_prefix_and_then_the_rest_is_folding_the_whole(name: str) -> None:
    events = LOGS[name]
    whole = fold(events)
    for cut in range(len(events) + 1):
        assert fold(events[cut:], onto=fold(events[:cut])) == whole


@given(words=st.lists(st.text(min_size=1)), cut=st.integers(0, 50))
def test_the_text_is_the_tokens_joined(words: list[str], cut: int) -> None:
    events: list[Event] = [Token(word) for word in words]
    assert fold(events[cut:], onto=fold(events[:cut])).text == "".join(words)


def test_reasoning_is_kept_apart_from_the_answer() -> None:
    answer = fold([Reasoning("hm"), Token("yes"), Reasoning("!")])
    assert (answer.text, answer.reasoning) == ("yes", "hm!")


@pytest.mark.parametrize(
    ("name", "status"),
    [("finished", FINISHED), ("stopped", STOPPED), ("failed", FAILED), ("interrupted", INTERRUPTED)],
)
def test_the_last_event_tells_how_it_ended(name: str, status: str) -> None:
    assert fold(LOGS[name]).status == status
    assert fold(LOGS[name][:-1]).status == RUNNING


def test_an_event_of_a_later_version_changes_nothing() -> None:
    class Novel(Event):
        name = "novel"

    assert fold([Novel()]) == Answer()


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_the_page_and_the_server_agree(case: Path) -> None:
    """`tests/js` folds the same files with the page's own fold."""
    told = json.loads(case.read_text())
    events = [dict(event) for event in told["events"] if event["event"] != "reset"]
    if len(events) < len(told["events"]):
        pytest.skip("only a reader's fold knows `reset`")
    answer = fold([load(event.pop("event"), event) for event in events])
    folded = asdict(answer)
    assert {name: folded[name] for name in told["answer"]} == told["answer"]


def test_there_are_shared_cases() -> None:
    assert len(CASES) >= 5
