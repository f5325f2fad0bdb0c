"""What two do at once, on PostgreSQL, whose transactions run side by side; SQLite lets one write at a time."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.site import PASSWORD, Client, Site

MANY = 8


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site], new_database: Callable[[], str]) -> Site:
    return new_site(CHATAPP_DATABASE_URL=new_database(), CHATAPP_REGISTRATION="invite", CHATAPP_WORKERS="2")


def at_once(call: Callable[[Client], Any], signed: Client) -> list[Any]:
    """Return what MANY clients get who do the same with *signed*'s token."""

    def one(number: int) -> Any:
        client = Client(signed.url)
        client.http.headers.update(signed.http.headers)
        return call(client)

    with ThreadPoolExecutor(MANY) as pool:
        return list(pool.map(one, range(MANY)))


def registered(client: Client, **body: Any) -> requests.Response:
    given = {"email": f"{uuid.uuid4().hex}@example.org", "password": PASSWORD, **body}
    return client.request("POST", "/api/auth/register", given)


def statuses(answers: list[requests.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


@pytest.fixture(scope="module")
def first_ones(house: Site) -> list[requests.Response]:
    return at_once(registered, Client(house.url))


@pytest.fixture(scope="module")
def admin(house: Site, first_ones: list[requests.Response]) -> Client:
    client = Client(house.url)
    client.sign(next(answer for answer in first_ones if answer.status_code == 201).json())
    return client


def invite(admin: Client) -> str:
    return str(admin.call("POST", "/api/invites", {}, 201)["token"])


def test_of_all_who_come_first_one_is_the_admin(first_ones: list[requests.Response]) -> None:
    assert statuses(first_ones) == [201] + [403] * (MANY - 1)


def test_an_invite_admits_one(admin: Client) -> None:
    token = invite(admin)
    answers = at_once(lambda client: registered(client, invite=token), Client(admin.url))
    assert statuses(answers) == [201] + [403] * (MANY - 1)


def test_tabs_that_renew_at_once_stay_signed_in(house: Site, admin: Client) -> None:
    body = registered(Client(house.url), invite=invite(admin)).json()

    def renew(token: str) -> list[requests.Response]:
        signed = Client(house.url)
        signed.http.headers["Authorization"] = f"Bearer {token}"
        return at_once(lambda client: client.request("POST", "/api/auth/refresh"), signed)

    answers = renew(body["refresh_token"])
    assert statuses(answers) == [200] * MANY
    for answer in answers[:3]:
        assert statuses(renew(answer.json()["refresh_token"])) == [200] * MANY


def test_no_failed_try_goes_uncounted(admin: Client) -> None:
    email = f"{uuid.uuid4().hex}@example.org"
    body = {"email": email, "password": "wrong"}
    answers = at_once(lambda client: client.request("POST", "/api/auth/login", body), Client(admin.url))
    told = sorted(answer.json()["error"].get("tries_left", -1) for answer in answers)
    assert told[-5:] == [0, 1, 2, 3, 4]
    assert set(told[:-5]) <= {-1, 0}


def test_a_name_used_first_by_many_is_one_conversation(admin: Client) -> None:
    made = at_once(lambda client: client.call("POST", "/api/chat/conversations", {"key": "trip"}, 201)["id"], admin)
    assert len(set(made)) == 1
    started = at_once(lambda client: client.start("hello", chatId="other")["conversationId"], admin)
    assert len(set(started)) == 1
    named = str(uuid.uuid4())
    body = {"message": "hello", "model": "openai/echo", "conversationId": named}
    asked = at_once(lambda client: client.call("POST", "/api/ai/chat", body)["conversationId"], admin)
    assert set(asked) == {named}
    assert len(admin.call("GET", f"/api/chat/conversations/{named}")["messages"]) == 2 * MANY


def test_starts_with_one_key_are_one_answer(admin: Client) -> None:
    key = uuid.uuid4().hex
    assert (
        len({one["generationId"] for one in at_once(lambda client: client.start("hello", requestId=key), admin)}) == 1
    )


def test_questions_asked_at_once_are_all_kept(admin: Client) -> None:
    path = f"/api/chat/conversations/{admin.call('POST', '/api/chat/conversations', {}, 201)['id']}"
    at_once(lambda client: client.call("POST", f"{path}/messages", {"content": "hello"}, 201), admin)
    messages = admin.call("GET", path)["messages"]
    assert [message["parent_id"] for message in messages] == [None, *(message["id"] for message in messages[:-1])]
    assert len(messages) == MANY
