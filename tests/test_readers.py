"""Who may read, how many, in all processes together; and how they are let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from sqlalchemy import delete, update

import chatapp.readers
from chatapp.bells.local import Bell
from chatapp.database import session_of, utcnow
from chatapp.errors import Overloaded, RateLimited
from chatapp.models.accounts import SignIn, User
from chatapp.models.conversations import Conversation
from chatapp.readers import Readers
from tests.support import world
from tests.support.world import World


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    fresh = world.make(tmp_path)
    yield fresh
    fresh.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatapp.readers, "RIGHTS_SECONDS", 0.0)
    monkeypatch.setattr(chatapp.readers, "STEP_SECONDS", 0.01)


def readers(made: World, bell: Bell | None = None, **limits: int) -> Readers:
    return Readers(made.engine, bell or Bell(), replace(made.settings, **limits))


def nothing() -> None:
    pass


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.002)


def test_one_too_many_of_a_user_is_refused_and_others_are_not(made: World) -> None:
    these = readers(made, streams_per_user=2)
    first, _ = [these.join("ada", None, "g", nothing) for _ in range(2)]
    with pytest.raises(RateLimited) as refusal:
        these.join("ada", None, "g", nothing)
    assert refusal.value.retry_after
    these.join("bob", None, "g", nothing)
    these.leave(first)
    these.leave(first)  # a second time does not count
    these.join("ada", None, "g", nothing)
    assert (these.count("ada"), these.count()) == (2, 3)


def test_one_too_many_in_all_is_refused(made: World) -> None:
    these = readers(made, max_streams=2)
    for name in ("ada", "bob"):
        these.join(name, None, "g", nothing)
    with pytest.raises(Overloaded):
        these.join("eve", None, "g", nothing)


@pytest.mark.usefixtures("quick")
def test_readers_of_other_processes_count_until_they_leave(made: World) -> None:
    bell = Bell()  # as two processes that hear each other
    here, there = readers(made, bell, streams_per_user=1), readers(made, bell)
    reader = there.join("ada", None, "g", nothing)
    until(lambda: here.count("ada") == 1)
    with pytest.raises(RateLimited):
        here.join("ada", None, "g", nothing)
    there.leave(reader)
    until(lambda: here.count("ada") == 0)
    here.join("ada", None, "g", nothing)


def test_a_process_that_says_nothing_more_is_forgotten(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Bell()
    here = readers(made, bell)
    bell.tell("readers", {"process": "elsewhere", "counts": {"ada": 3}})
    assert here.count() == 3
    monkeypatch.setattr(chatapp.readers, "FORGET_SECONDS", 0.0)
    assert here.count() == 0


@pytest.mark.parametrize("message", [{}, {"process": 1, "counts": {}}, {"process": "x", "counts": None}])
def test_rubbish_on_the_bell_counts_nothing(made: World, message: dict[str, object]) -> None:
    bell = Bell()
    here = readers(made, bell)
    bell.tell("readers", message)
    assert here.count() == 0


def sign_in(made: World) -> str:
    with session_of(made.engine, writes=True) as session:
        one = SignIn(user_id=made.user_id, refresh_jti="jti", expires_at=utcnow())
        session.add(one)
        session.flush()
        return one.id


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "loss",
    [
        update(SignIn).values(revoked_at=utcnow()),
        delete(SignIn),
        update(User).values(disabled_at=utcnow()),
        delete(Conversation),
    ],
    ids=["signed out", "sign-in gone", "user disabled", "conversation deleted"],
)
def test_who_lost_the_right_to_read_is_woken_and_the_others_are_not(made: World, loss: object) -> None:
    name, sign_in_id, woken = made.generation(), sign_in(made), []
    these = readers(made)
    reader = these.join(made.user_id, sign_in_id, name, lambda: woken.append("reader"))
    stranger = these.join("somebody else", None, name, lambda: woken.append("stranger"))
    until(lambda: not stranger.allowed)
    assert reader.allowed
    assert set(woken) == {"stranger"}
    with session_of(made.engine, writes=True) as session:
        session.execute(loss)  # type: ignore[call-overload]
    until(lambda: not reader.allowed)
    assert "reader" in woken


def test_a_process_that_leaves_lets_all_its_readers_go(made: World) -> None:
    woken: list[int] = []
    these = readers(made)
    for number in range(3):
        these.join("ada", None, "g", lambda number=number: woken.append(number))  # type: ignore[misc]
    these.close()
    assert these.closing
    assert woken == [0, 1, 2]
