"""What people use, told once for each answer whatever dies, and the quota of a day."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support import api
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

SETUPS = ("sqlite, 2 workers", "postgresql, redis, 2 workers")


def used(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", "/api/usage/me")
    return found


def told(frames: list[Any]) -> tuple[int, int]:
    """Return the tokens that a stream told of."""
    found = re.search(r'"prompt_tokens":(\d+),"completion_tokens":(\d+)', "".join(frame.data for frame in frames))
    assert found
    return int(found[1]), int(found[2])


def test_each_answer_is_counted_once_with_the_tokens_that_were_told(site: Site, ada: Client) -> None:
    frames = [ada.ask(f"hello {number}", "openai/count-20")[1] for number in range(3)]
    mine = used(ada)
    [row] = mine["usage"]
    assert (row["answers"], row["model"], row["day"]) == (3, "openai/count-20", datetime.now(UTC).date().isoformat())
    assert (row["prompt_tokens"], row["completion_tokens"]) == tuple(map(sum, zip(*map(told, frames), strict=True)))
    assert mine["used"] == row["total_tokens"] == mine["total"]["total_tokens"] > 60
    assert (mine["quota"], mine["left"], mine["plan"]) == (None, None, "ENTERPRISE")
    assert mine["renews_at"].endswith("T00:00:00.000000Z")


def test_what_one_uses_is_not_anothers(site: Site, ada: Client, bob: Client) -> None:
    ada.ask("hello")
    assert used(bob)["used"] == 0
    assert used(bob)["usage"] == []


def test_an_answer_without_a_word_costs_nothing_and_a_stopped_one_what_it_said(site: Site, ada: Client) -> None:
    _, frames = ada.ask("x" * 4000, "openai/status-401")
    assert frames[-1].event == "fail"
    assert used(ada)["used"] == 0
    started = ada.start("hello", "openai/count-5000,delay=0.02")
    events = ada.follow(started["generationId"])
    while next(events).event != "token":
        pass
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
    assert used(ada)["used"] > 0


def test_a_command_costs_nothing(site: Site, ada: Client) -> None:
    _, frames = ada.ask("/help")
    assert frames[-1].event == "done"
    assert (used(ada)["used"], used(ada)["usage"]) == (0, [])


def test_going_on_with_an_answer_costs_what_is_new(site: Site, ada: Client) -> None:
    started, frames = ada.ask("hello", "openai/length")
    before = used(ada)["total"]
    assert before["completion_tokens"] == told(frames)[1]
    path = f"/api/chat/messages/{started['messageId']}/continue"
    again = ada.call("POST", path, {"modelId": "openai/count-20"}, 201)
    list(ada.follow(again["generationId"]))
    total = used(ada)["total"]
    message = ada.answer({**started, "messageId": started["messageId"]})
    assert total["answers"] == 2
    assert total["completion_tokens"] <= message["usage"]["completion_tokens"]


def test_an_answer_that_is_stored_nowhere_is_counted_too(site: Site, ada: Client) -> None:
    body = {
        "messages": [{"id": "1", "role": "user", "content": "hello", "timestamp": None}],
        "model": "openai/count-20",
    }
    assert "message-complete" in ada.request("POST", "/api/stream", body).text
    [row] = wait_until(lambda: used(ada)["usage"])
    assert row["answers"] == 1
    assert row["completion_tokens"] >= 20

    endless = {**body, "model": "openai/count-5000,delay=0.01"}
    with ada.http.post(f"{site.url}/api/stream", json=endless, stream=True, timeout=90) as response:
        while b"message-chunk" not in response.raw.read1(65536):
            pass
    wait_until(lambda: used(ada)["total"]["answers"] == 2, what="an answer that its reader left is counted")


def test_a_quota_that_is_used_up_ends_asking_until_midnight(site: Site, ada: Client) -> None:
    admin = ada
    make_admin(site, admin)
    name = f"tiny-{admin.user['id'][:8]}"
    admin.call("POST", "/api/plans", {"name": name, "tokens_per_day": 30}, 201)
    client = site.new_user()
    admin.call("PATCH", f"/api/users/{client.user['id']}", {"plan": name})
    started, frames = client.ask("hello", "openai/count-200")  # it is let begin, and ends although it runs over
    assert frames[-1].event == "done"
    mine = used(client)
    assert mine["used"] >= 200
    assert (mine["quota"], mine["left"], mine["plan"]) == (30, 0, name)
    history = {"messages": [{"id": "1", "role": "user", "content": "hello", "timestamp": None}], "model": "openai/echo"}
    message = f"/api/chat/messages/{started['userMessageId']}"
    for method, path, body in (
        ("POST", "/api/chat/start", {"prompt": "x", "modelId": "openai/echo"}),
        ("POST", f"{message}/regenerate", {}),
        ("PATCH", message, {"content": "x"}),
        ("POST", "/api/v1/ai/chat", {"message": "x", "model": "openai/echo"}),
        ("POST", "/api/stream", history),
    ):
        answer = client.request(method, path, body)
        error = check_error(answer, 429, "quota_exceeded")
        left = datetime.now(UTC).replace(hour=23, minute=59, second=59) - datetime.now(UTC)
        assert abs(int(answer.headers["Retry-After"]) - left.total_seconds()) < 60
        assert "30" in error["message"]
        assert name in error["message"]
        assert "UTC" in error["message"]
    assert len(client.conversation(started)["messages"]) == 2  # what was refused is not stored
    client.ask("/help")  # no model is asked
    admin.call("PATCH", f"/api/plans/{name}", {"tokens_per_day": 100_000})
    wait_until(lambda: client.request("POST", "/api/chat/start", {"prompt": "x"}).status_code == 201, 10)


def make_admin(site: Site, client: Client) -> None:
    if "CHATAPP_DATABASE_URL" not in site.environ:
        api.write(site, "UPDATE users SET role = 'admin' WHERE id = ?", client.user["id"])
        return
    from sqlalchemy import text

    from chatapp.database import connected, engine_for
    from chatapp.settings import Settings

    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine, writes=True) as connection:
        connection.execute(text("UPDATE users SET role = 'admin' WHERE id = :of"), {"of": client.user["id"]})
    engine.dispose()


def test_admins_see_what_all_use_by_day_person_and_model(site: Site, ada: Client, bob: Client) -> None:
    root = site.new_user("Root")
    make_admin(site, root)
    ada.ask("hello", "openai/count-20")
    ada.ask("hello", "openai/echo")
    bob.ask("hello", "openai/echo")
    today = datetime.now(UTC).date().isoformat()

    def rows(query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = root.call("GET", f"/api/usage?page_size=200&from={today}&{query}")["usage"]
        return found

    of_ada = f"user={ada.user['id']}"
    [row] = rows(of_ada)
    assert (row["day"], row["answers"]) == (today, 2)
    assert {row["model"]: row["answers"] for row in rows(f"{of_ada}&group=model")} == {
        "openai/count-20": 1,
        "openai/echo": 1,
    }
    by_user = {row["email"]: row["answers"] for row in rows("group=user,model&model=openai/echo")}
    assert (by_user[ada.email], by_user[bob.email]) == (1, 1)
    assert rows(f"{of_ada}&to=2020-01-01") == []
    page = root.call("GET", f"/api/usage?{of_ada}&group=day,user,model&page_size=1")
    assert (len(page["usage"]), page["rows"], page["total"]["answers"]) == (1, 2, 2)
    check_error(ada.request("GET", "/api/usage"), 403)


@pytest.mark.parametrize("workers", [2])
def test_an_answer_is_counted_once_however_often_its_runners_die(
    new_site: Callable[..., Site], fake_models: FakeModels, workers: int
) -> None:
    site = new_site(CHATAPP_WORKERS=str(workers))
    ada = site.new_user()
    slow = fake_models.slow(300)
    model = f"anthropic/{slow}"  # goes on from what is there
    started = ada.start("hello", model)
    for _ in range(2):
        events = ada.follow(started["generationId"])
        while next(events).event != "token":
            pass
        events.close()  # type: ignore[attr-defined]
        for worker in site.workers():
            worker.kill()
        wait_until(site.answers)
    fake_models.hurry(slow)
    wait_until(lambda: ada.answer(started)["status"] == "finished")
    site.kill()  # and with it whoever could count again
    site.start()
    [row] = used(ada)["usage"]
    assert row["answers"] == 1
    assert row["total_tokens"] == ada.answer(started)["usage"]["total_tokens"]


def test_the_sites_own_quota_is_for_plans_that_say_nothing(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_TOKENS_PER_DAY="10")
    root = site.new_user("Root")
    root.ask("hello", "openai/count-20")
    assert used(root)["quota"] == 10
    check_error(root.request("POST", "/api/chat/start", {"prompt": "x"}), 429, "quota_exceeded")
    root.call("PATCH", "/api/plans/ENTERPRISE", {"tokens_per_day": 0})  # any number
    root.call("POST", "/api/chat/start", {"prompt": "x"}, 201)
    root.call("PATCH", "/api/plans/ENTERPRISE", {"tokens_per_day": None})
    check_error(root.request("POST", "/api/chat/start", {"prompt": "x"}), 429)
