"""The site on PostgreSQL, by nothing but its address."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from chatapp.database import connected
from chatapp.eventlog import sql
from tests.support import world
from tests.support.site import PASSWORD, Client, Site


def test_an_answer_is_streamed_stored_and_there_after_a_restart(
    new_site: Callable[..., Site], new_database: Callable[[], str]
) -> None:
    site = new_site(CHATAPP_DATABASE_URL=new_database())
    ada = site.new_user()
    started, whole = ada.ask("Grüße 🦊 one two")
    running = ada.start("x", "openai/count-2000,delay=0.01")
    stream = ada.follow(running["generationId"])
    seen = [next(stream) for _ in range(5)]
    stopped = ada.call("POST", f"/api/chat/conversations/{running['conversationId']}/stop")["message"]
    assert stopped["status"] == "stopped"
    rest = list(stream)
    assert json.loads(rest[-1].data)["message"] == stopped
    assert [frame.id for frame in seen + rest] == [str(n) for n in range(1, len(seen + rest) + 1)]
    site.kill()
    site.start()
    assert list(ada.follow(started["generationId"])) == whole
    assert ada.answer(started)["content"] == "Grüße 🦊 one two"
    assert not (site.folder / "data" / "chatapp.db").exists()


def test_many_answers_at_once_do_not_lock_each_other_out(
    new_site: Callable[..., Site], new_database: Callable[[], str]
) -> None:
    """Leases are renewed while answers are written: both lock the heads of the logs."""
    site = new_site(CHATAPP_DATABASE_URL=new_database())
    ada = site.new_user()
    answers = [ada.start("x", "openai/count-150,delay=0.01") for _ in range(30)]
    for started in answers:
        list(ada.follow(started["generationId"]))
    assert {len(ada.answer(started)["content"]) for started in answers} == {len(" ".join(map(str, range(1, 151))))}
    assert "deadlock" not in site.log().lower()


def test_those_who_come_first_at_once_are_not_all_the_admin(
    new_site: Callable[..., Site], new_database: Callable[[], str]
) -> None:
    site = new_site(CHATAPP_DATABASE_URL=new_database())

    def register(number: int) -> str:
        body = {"email": f"{number}@example.org", "password": PASSWORD}
        role: str = Client(site.url).call("POST", "/api/auth/register", body, 201)["user"]["role"]
        return role

    with ThreadPoolExecutor(8) as pool:
        roles = list(pool.map(register, range(8)))
    assert roles.count("admin") == 1


def test_a_log_that_is_being_written_to_is_renewed_all_the_same(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """A renewal that skipped what is locked just now would let the busiest answers be taken over."""
    made = world.make(tmp_path, new_database())
    store = sql.Store(made.engine)
    name = made.generation(store=store, owner="me")
    store.renew([name], owner="me", lease_seconds=-1)
    with ThreadPoolExecutor(1) as pool:
        with connected(made.engine, writes=True) as connection:
            connection.execute(sql.HEADS.update().values(stop_requested=False))  # a writer at work
            assert store.take_expired(owner="thief", lease_seconds=60) == []
            renewal = pool.submit(store.renew, [name], owner="me", lease_seconds=60)
            wait([renewal], timeout=1)  # one that skips has ended by now, and renewed nothing
        renewal.result(timeout=20)
    assert store.take_expired(owner="thief", lease_seconds=60) == []
    made.close()
