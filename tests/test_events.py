"""Events and their JSON form."""

from __future__ import annotations

import orjson
import pytest

from chatapp.events import KINDS, Event, Failed, Finished, dump, load
from tests.support.logs import LOGS


@pytest.mark.parametrize("name", LOGS)
def test_an_event_survives_the_way_into_json_and_back(name: str) -> None:
    for event in LOGS[name]:
        assert load(event.name, orjson.loads(orjson.dumps(dump(event)))) == event


def test_only_the_two_ends_are_terminal() -> None:
    assert {kind for kind in KINDS.values() if kind.terminal} == {Finished, Failed}


def test_names_are_the_canonical_ones() -> None:
    assert set(KINDS) == {"start", "status", "sources", "reasoning", "token", "usage", "done", "error"}
    assert all(issubclass(kind, Event) for kind in KINDS.values())
