"""Answers that are known already: commands', and those that were given before. On a real database, with runners that die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from chatapp.answer import FINISHED, INTERRUPTED, fold
from chatapp.events import Event, Finished, Started, Status, Token
from tests.support import world
from tests.test_runner import Stage

WORDS = "One two, 🦊 three.\n\nFour."
SCRIPTS = [{"text": WORDS, "finish_reason": reason} for reason in ("stop", "cached")]
BEGUN: list[Event] = [Started("g", "c", "m", "fake/words"), Status("Generating response…")]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = world.make(tmp_path)
    fresh = Stage(made)
    fresh.provider.can_continue = False
    yield fresh
    gevent.killall([one for one in (fresh.runners._keeper, fresh.runners._sweeper) if one is not None])
    made.close()


def check_whole(stage: Stage, name: str, script: dict[str, Any]) -> None:
    message = stage.world.message(name)
    assert stage.text(name) == message.content == WORDS
    assert (message.status, message.finish_reason) == (FINISHED, script["finish_reason"])
    assert message.details is not None
    assert message.details["cached"] == (script["finish_reason"] == "cached")
    assert message.usage == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "estimated": False}
    assert stage.provider.requests == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_is_said_and_no_model_is_asked(stage: Stage, script: dict[str, Any]) -> None:
    name = stage.generation(script=script)
    entries = stage.run(name)
    check_whole(stage, name, script)
    assert isinstance(entries[-1].event, Finished)
    assert sum(entry.event.terminal for entry in entries) == 1


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("said", [0, 1, 9, 10, len(WORDS)])
def test_one_that_broke_off_goes_on_by_itself(stage: Stage, script: dict[str, Any], said: int) -> None:
    before: list[Event] = [*BEGUN, Token(WORDS[:said])] if said else BEGUN
    name = stage.orphan(*before, script=script)
    stage.runners.keep()
    entries = stage.wait(name)
    check_whole(stage, name, script)
    assert [entry.event for entry in entries[: len(before)]] == before  # what was seen stays as it was
    assert fold(entry.event for entry in entries).text == WORDS


def test_without_its_script_it_would_have_ended_there(stage: Stage) -> None:
    name = stage.orphan(*BEGUN, Token(WORDS[:9]))
    stage.runners.keep()
    stage.wait(name)
    message = stage.world.message(name)
    assert (message.status, message.content) == (INTERRUPTED, WORDS[:9])


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_that_was_never_begun_is_said_by_whoever_finds_it(stage: Stage, script: dict[str, Any]) -> None:
    name = stage.orphan(script=script)
    stage.runners.keep()
    stage.wait(name)
    check_whole(stage, name, script)
