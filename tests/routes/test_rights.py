"""Who may do what: every route with an id, for everybody, in every state of the answer. What is not mine is not there."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
import requests

from app import create_app
from chatapp import auth, sse
from chatapp.settings import Settings
from tests.support import api
from tests.support.api import ENDLESS, EXAMPLES, STREAMS, Talk, check_error, talk
from tests.support.site import Client, Site, wait_until

NAMED = [
    route
    for route, example in EXAMPLES.items()
    if not api.for_admins(route) and ("<" in route or "_id}" in str(example.query) + str(example.body))
]
NAMED = [route for route in NAMED if "<session_id>" not in route]  # the user's own name for it
CHATS = [route for route in NAMED if "/ai/chat" in route]  # an unknown id becomes the new conversation's
STATES = ["running", "finished", "deleted"]
STRANGERS = {"other": 404, "admin": 404, "anonymous": 401, "signed out": 401}
KEPT = (  # a running answer's log grows
    *("users", "sign_ins", "conversations", "messages", "generations", "invites", "projects", "project_members"),
)
SECRET = "hello"


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site]) -> Iterator[Site]:
    site = new_site()
    yield site
    assert "Traceback" not in site.log(), site.log()[-4000:]


@pytest.fixture(scope="module")
def people(house: Site) -> dict[str, Client]:
    """The admin, an owner, somebody else, nobody, and a token of the owner's who signed out."""
    admin, owner, other = house.new_user("Root"), house.new_user("Ada"), house.new_user("Bob")
    assert (admin.user["role"], owner.user["role"]) == ("admin", "user")
    signed_out = Client(house.url)
    body = {"email": owner.email, "password": "correct horse battery"}
    signed_out.sign(signed_out.call("POST", "/api/auth/login", body))
    signed_out.call("POST", "/api/auth/logout", status=204)
    return {"admin": admin, "owner": owner, "other": other, "anonymous": Client(house.url), "signed out": signed_out}


def in_state(owner: Client, state: str, route: str) -> Talk:
    model = ENDLESS if state == "running" else "openai/echo"
    one = talk(owner, model, ended=state != "running", nonce=str(uuid.uuid4()), route=route)
    if state == "running":  # it says what it has to say and stores nothing before its end
        events = owner.follow(one.ids["generation_id"])
        while next(events).event != "token":
            pass
        events.close()  # type: ignore[attr-defined]
    if state == "deleted":
        owner.call("DELETE", f"/api/chat/conversations/{one.ids['conversation_id']}", status=204)
        if route not in CHATS:
            owner.call("DELETE", f"/api/projects/{one.ids['project_id']}", status=204)
    return one


def unknown(one: Talk) -> dict[str, str]:
    return {name: str(uuid.uuid4()) for name in one.ids if name.endswith("_id")}


def kept(site: Site) -> dict[str, Any]:
    found = api.tables(site)
    return {name: found[name] for name in KEPT}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("route", NAMED)
def test_what_is_not_mine_is_not_there(house: Site, people: dict[str, Client], route: str, state: str) -> None:
    one = in_state(people["owner"], state, route)
    before = kept(house)
    for who, status in STRANGERS.items():
        if route in CHATS and state == "deleted" and status == 404:
            continue  # nobody's any more, so it is as unknown as any
        answer = one.request(route, people[who], stream=True)
        error = check_error(answer, status)
        if route not in CHATS or status != 404:
            assert error == check_error(one.request(route, people[who], ids=unknown(one)), status), who
    assert not api.changed(before, kept(house))

    answer = one.request(route, stream=True)
    gone = state == "deleted" and route not in CHATS
    assert answer.status_code == (404 if gone else EXAMPLES[route].status), answer.text[:300]
    answer.close()
    if state != "deleted":
        people["owner"].request("DELETE", f"/api/chat/conversations/{one.ids['conversation_id']}")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("route", STREAMS)
def test_a_reader_who_comes_back_without_a_right_is_told_so_in_the_stream(
    people: dict[str, Client], route: str, state: str
) -> None:
    one = in_state(people["owner"], state, route)
    for who, status in STRANGERS.items():
        for options in ({"headers": {"Last-Event-ID": "1"}}, {"params": with_cursor(route, one)}):
            told = error_frame(one.request(route, people[who], **options))  # type: ignore[arg-type]
            assert told == error_frame(
                one.request(route, people[who], ids=unknown(one), headers={"Last-Event-ID": "1"})
            )
            assert SECRET not in told.data
            plain = one.request(route, people[who]).json()["error"]
            assert plain["message"] in json.loads(told.data).values(), status
    if state != "deleted":
        people["owner"].call("DELETE", f"/api/chat/conversations/{one.ids['conversation_id']}", status=204)


def with_cursor(route: str, one: Talk) -> dict[str, str]:
    return {**api.filled(EXAMPLES[route].query, one.ids), "lastEventId": "1"}


def error_frame(answer: requests.Response) -> sse.Frame:
    """Return the one event of a stream that tells of an error; it has no id, so that the reader's cursor stays."""
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    [frame] = sse.Parser().feed(answer.content)
    assert frame.event in ("fail", "error", None)
    assert frame.id is None
    return frame


def test_nobody_finds_what_is_not_theirs(people: dict[str, Client]) -> None:
    word = f"w{uuid.uuid4().hex}"
    started, _ = people["owner"].ask(f"my {word}")
    for who in ("owner", "other", "admin"):
        client, found = people[who], who == "owner"
        assert (word in client.request("GET", f"/api/chat/conversations?q={word}").text) == found
        assert (word in client.request("GET", "/api/chat/conversations?page_size=200").text) == found
        assert (word in client.request("GET", "/api/chat/history?page_size=200").text) == found
    people["owner"].call("DELETE", f"/api/chat/conversations/{started['conversationId']}", status=204)


def test_the_same_name_is_another_conversation_to_each(people: dict[str, Client]) -> None:
    owner, other = people["owner"], people["other"]
    mine, _ = owner.ask("mine", chatId="chat-123")
    theirs, _ = other.ask("theirs", chatId="chat-123")
    assert mine["conversationId"] != theirs["conversationId"]
    borrowed, _ = other.ask("borrowed", chatId=mine["conversationId"])  # no id of theirs: so it is a name
    assert borrowed["chatId"] == mine["conversationId"] != borrowed["conversationId"]
    assert [message["content"] for message in owner.conversation(mine)["messages"]] == ["mine", "mine"]
    for client, said in ((owner, "mine"), (other, "theirs")):
        told = client.call("GET", "/api/chat/history?chatId=chat-123")["messages"]
        assert [message["content"] for message in told] == [said, said]


def test_the_same_key_is_another_answer_to_each(people: dict[str, Client]) -> None:
    key = uuid.uuid4().hex
    mine, theirs = (people[who].start("hello", requestId=key) for who in ("owner", "other"))
    assert mine["generationId"] != theirs["generationId"]
    assert people["owner"].start("again", requestId=key)["generationId"] == mine["generationId"]


def test_a_branch_of_another_conversation_cannot_be_shown(people: dict[str, Client]) -> None:
    one, another, theirs = talk(people["owner"]), talk(people["owner"]), talk(people["other"])
    path = f"/api/chat/conversations/{one.ids['conversation_id']}"
    for message_id in (another.ids["message_id"], theirs.ids["message_id"], str(uuid.uuid4())):
        check_error(people["owner"].request("PATCH", path, {"leaf_id": message_id, "title": "changed"}), 400)
    assert people["owner"].call("GET", path)["title"] == "hello"


# The matrix has no holes

OWN = {  # without anybody's id: they answer with what is the asker's own
    *(f"{method} /api/chat/conversations" for method in ("GET", "POST")),
    *(f"{method} /api/projects" for method in ("GET", "POST")),
    *(f"GET {prefix}/chat/history" for prefix in ("", "/api")),
    *(f"POST {prefix}/chat/start" for prefix in ("", "/api")),
    *(f"{method} {prefix}/chat/<session_id>/stream" for method in ("GET", "POST") for prefix in ("", "/api")),
    "GET /api/auth/me",
    "POST /api/auth/logout",
    "POST /api/auth/refresh",
    "GET /api/chat/export",
    "GET /api/events",
    "GET /api/models",
    "GET /api/usage/me",
    "POST /api/stream",
}


def test_every_route_is_in_the_matrix() -> None:
    """A new one names somebody's thing, and is tried by everybody above; or is an admin's, one's own, or open: say which."""
    left = [route for route in EXAMPLES if route not in NAMED and not api.for_admins(route)]
    assert set(left) <= OWN | PUBLIC | api.WATCHED, set(left) - OWN - PUBLIC - api.WATCHED
    assert set(api.routes()) >= OWN


def test_nobody_gets_past_who_is_not_signed_in_and_what_is_for_admins_is_for_admins(
    house: Site, people: dict[str, Client]
) -> None:
    one = talk(people["owner"], nonce=uuid.uuid4().hex[:12])
    ids = {"plan_name": "PRO", "user_id": people["other"].user["id"]}
    before = kept(house)
    for route in EXAMPLES:
        if route in PUBLIC | api.WATCHED:
            continue
        for who in ("anonymous", "signed out"):
            if route != "POST /api/auth/refresh":  # which is asked with another token
                check_error(one.request(route, people[who], ids=ids, stream=True), 401)
        if api.for_admins(route):
            check_error(one.request(route, people["owner"], ids=ids, stream=True), 403)
            unknown_ids = {"plan_name": "NONE", "user_id": str(uuid.uuid4()), "invite_id": str(uuid.uuid4())}
            check_error(
                one.request(route, people["owner"], ids=unknown_ids, stream=True), 403
            )  # and no word of what there is
    assert not api.changed(before, kept(house))


# Views need a sign-in unless they are marked

PUBLIC = {
    "GET /",
    "GET /c/<uuid:conversation_id>",
    "GET /sign-in",
    "GET /sign-up",
    "GET /static/<path:filename>",
    "GET /static/css/site-<digest>.css",
    "GET /api/openapi.json",
    "POST /api/auth/register",
    "POST /api/auth/login",
}


def open_routes(app: flask.Flask) -> set[str]:
    """Return the routes that do anything but ask a stranger to sign in."""
    found = set()
    for rule in app.url_map.iter_rules():
        path = api.re.sub(r"<[^>]+>", str(uuid.UUID(int=0)), rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if app.test_client().open(path, method=method).status_code != 401:
                found.add(f"{method} {rule.rule}")
    return found


@pytest.fixture
def bare() -> flask.Flask:
    return create_app(Settings(data_dir=Path(tempfile.mkdtemp()), local_model="off").completed())


def test_every_view_needs_a_sign_in_but_those_meant_to_be_open(bare: flask.Flask) -> None:
    assert open_routes(bare) <= PUBLIC | api.WATCHED | {"GET /api/docs"}


def test_a_view_that_was_left_open_would_be_found(bare: flask.Flask) -> None:
    def view() -> str:
        return "anything"

    def left_open() -> str:
        return "anything"

    bare.add_url_rule("/planted", view_func=view)
    bare.add_url_rule("/open", view_func=auth.public(left_open))
    found = open_routes(bare)
    assert "GET /open" in found
    assert "GET /planted" not in found


# Reading changes nothing


def test_reading_changes_nothing(house: Site, people: dict[str, Client]) -> None:
    one = talk(people["owner"])
    unasked = people["owner"].call("POST", "/api/chat/conversations", {}, 201)["id"]
    admin, ids = people["admin"], {"user_id": people["owner"].user["id"], "plan_name": "PRO"}
    for route in [route for route in EXAMPLES if route.startswith("GET ") and route not in api.ASKING]:
        before = api.tables(house)
        client = admin if api.for_admins(route) else one.client
        assert one.request(route, client, ids=ids).status_code == 200
        changes = api.changed(before, api.tables(house))
        if "sessionId" in EXAMPLES[route].query:
            assert list(changes) == ["generations"], route  # its openings are counted
            assert len(changes["generations"]) == 2
        else:
            assert not changes, route
    before = api.tables(house)
    for path in ("/", "/sign-in", "/sign-up", f"/c/{unasked}", "/api/openapi.json"):
        one.client.request("GET", path)
    check_error(one.client.request("GET", f"/api/chat/conversations/{unasked}/stream"), 409)
    assert not api.changed(before, api.tables(house))


def test_reading_a_question_nobody_answered_has_it_answered_once(house: Site, people: dict[str, Client]) -> None:
    owner = people["owner"]
    path = f"/api/chat/conversations/{owner.call('POST', '/api/chat/conversations', {}, 201)['id']}"
    owner.call("POST", f"{path}/messages", {"content": "one two"}, 201)
    for who, status in STRANGERS.items():
        check_error(people[who].request("GET", f"{path}/stream"), status)
    assert [message["role"] for message in owner.call("GET", path)["messages"]] == ["user"]
    for _ in range(3):
        frames = list(owner.frames(f"{path}/stream"))
        assert frames[-1].event == "done"
    wait_until(lambda: not owner.call("GET", path)["running"])
    assert [message["role"] for message in owner.call("GET", path)["messages"]] == ["user", "assistant"]
