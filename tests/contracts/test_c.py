"""Contract C: chats in projects; GET `/api/v1/ai/chat/stream` and POST `/api/v1/ai/chat`."""

from __future__ import annotations

import json
import re
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from chatapp import sse
from tests.contracts import SETUPS
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client
from tests.support.wire import read_in_pieces

__all__ = ["SETUPS"]
PATHS = ["/api/v1/ai/chat", "/api/ai/chat", "/ai/chat"]
STREAM, REST = f"{PATHS[0]}/stream", PATHS[0]


def fresh(scenario: str) -> str:
    return f"{scenario},test={uuid.uuid4().hex}"


@pytest.fixture
def project(ada: Client) -> str:
    body = {"name": "Shop", "instructions": "Answer like a pirate.", "schema": {"orders": ["id", "placed_at"]}}
    made: str = ada.call("POST", "/api/projects", body, 201)["id"]
    return made


def url(project: str, message: str = "one two", model: str = "openai/echo", path: str = STREAM, **query: str) -> str:
    return f"{path}?{urlencode({'projectId': project, 'message': message, 'model': model, **query})}"


def heard(client: Client, path: str, last_event_id: str | None = None) -> list[Any]:
    """Return what the events of a stream say; they have no names."""
    frames = list(client.frames(path, last_event_id))
    assert all(frame.event is None for frame in frames)
    return [json.loads(frame.data) for frame in frames]


def text_of(events: list[Any]) -> str:
    return "".join(event["content"] for event in events if event["type"] == "token")


def told(client: Client, conversation_id: str) -> list[str]:
    return [
        message["content"] for message in client.call("GET", f"/api/chat/conversations/{conversation_id}")["messages"]
    ]


@pytest.mark.parametrize("path", PATHS)
def test_the_events_come_in_the_documents_order_and_form(ada: Client, project: str, path: str) -> None:
    first, *tokens, last = heard(ada, url(project, path=f"{path}/stream"))
    name = first["conversationId"]
    assert first == {"type": "conversationId", "conversationId": name}
    assert uuid.UUID(name).version == 4
    assert all(token == {"type": "token", "content": token["content"]} for token in tokens)
    assert text_of(tokens) == "one two"
    assert last == {
        "type": "complete",
        "timestamp": last["timestamp"],
        "metadata": {"model": "openai/echo", "conversationId": name},
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", last["timestamp"])
    found = ada.call("GET", f"/api/chat/conversations/{name}")
    assert found["project_id"] == project
    assert told(ada, name) == ["one two", "one two"]


@pytest.mark.parametrize("path", PATHS)
def test_the_rest_answer_has_the_documents_form(ada: Client, project: str, path: str) -> None:
    answer = ada.call("POST", path, {"projectId": project, "message": "one two", "model": "openai/echo"})
    assert set(answer) == {"conversationId", "message", "timestamp", "metadata"}
    assert (answer["message"]["role"], answer["message"]["content"]) == ("assistant", "one two")
    assert answer["message"]["id"]
    assert answer["metadata"]["model"] == "openai/echo"
    assert answer["metadata"]["conversationId"] == answer["conversationId"]
    assert answer["metadata"]["usage"]["total_tokens"] > 0
    assert ada.call("GET", f"/api/chat/conversations/{answer['conversationId']}")["project_id"] == project


def test_tokens_come_as_they_are_made(ada: Client, project: str) -> None:
    frames = ada.frames(url(project, model="openai/count-30,delay=0.02"))
    name = json.loads(next(frames).data)["conversationId"]
    next(frames)
    assert ada.call("GET", f"/api/chat/conversations/{name}")["messages"][-1]["status"] == "running"
    assert json.loads(list(frames)[-1].data)["type"] == "complete"


def test_an_unknown_uuid_becomes_the_new_conversations_id_and_a_known_one_is_gone_on_with(
    ada: Client, project: str
) -> None:
    name = str(uuid.uuid4())
    for message in ("a", "b"):
        assert heard(ada, url(project, message, conversationId=name))[0]["conversationId"] == name
    ada.call("POST", REST, {"projectId": project, "message": "c", "model": "openai/echo", "conversationId": name})
    assert told(ada, name) == ["a", "a", "b", "b", "c", "c"]


def test_projects_and_conversations_must_be_ones_that_the_user_may_see(ada: Client, bob: Client, project: str) -> None:
    name = heard(ada, url(project))[0]["conversationId"]
    own = bob.call("POST", "/api/projects", {"name": "Own"}, 201)["id"]
    refused = [
        (bob, {"projectId": project}, 404, "There is no such project."),
        (ada, {"projectId": str(uuid.uuid4())}, 404, "There is no such project."),
        (bob, {"projectId": own, "conversationId": name}, 404, "There is no such conversation."),
        (Client(ada.url), {"projectId": project}, 401, "Sign in to go on."),
    ]
    for client, query, status, sentence in refused:
        body = {"message": "x", "model": "openai/echo", **query}
        for response in (client.request("GET", f"{STREAM}?{urlencode(body)}"), client.request("POST", REST, body)):
            assert check_error(response, status)["message"] == sentence
        told_in_stream = heard(client, f"{STREAM}?{urlencode(body)}", "1")
        assert [(one["type"], one["message"]) for one in told_in_stream] == [("error", sentence)]
        assert set(told_in_stream[0]) == {"type", "message", "code"}
    assert told(ada, name) == ["one two", "one two"]
    assert bob.call("GET", "/api/chat/conversations")["total"] == 0


def test_whoever_is_in_the_project_may_chat_in_it_each_for_themselves(ada: Client, bob: Client, project: str) -> None:
    ada.call("POST", f"/api/projects/{project}/members", {"email": bob.email, "role": "reader"}, 201)
    mine, theirs = (heard(client, url(project))[0]["conversationId"] for client in (ada, bob))
    check_error(ada.request("GET", url(project, conversationId=theirs)), 404)
    check_error(bob.request("GET", url(project, conversationId=mine)), 404)


def test_a_conversation_of_another_project_is_a_conflict_and_one_of_none_comes_in(ada: Client, project: str) -> None:
    other = ada.call("POST", "/api/projects", {"name": "Other"}, 201)["id"]
    name = heard(ada, url(other))[0]["conversationId"]
    body = {"projectId": project, "message": "x", "model": "openai/echo", "conversationId": name}
    for response in (ada.request("GET", f"{STREAM}?{urlencode(body)}"), ada.request("POST", REST, body)):
        assert "another project" in check_error(response, 409)["message"]
    free = ada.call("POST", "/api/chat/conversations", {}, 201)["id"]
    heard(ada, url(project, conversationId=free))
    assert ada.call("GET", f"/api/chat/conversations/{free}")["project_id"] == project
    ada.call("POST", REST, {"message": "without one", "model": "openai/echo", "conversationId": free})
    assert ada.call("GET", f"/api/chat/conversations/{free}")["project_id"] == project


def test_what_is_no_request_is_400_and_named(ada: Client, project: str) -> None:
    good = {"projectId": project, "message": "x", "model": "openai/echo"}
    wrong = [
        ("projectId", "abc123"),
        ("projectId", ""),
        ("conversationId", "conv_1762194312799"),
        ("conversationId", ""),
    ]
    wrong += [("message", ""), ("message", " \n"), ("model", "nobody/x"), ("requestId", "a b")]
    for name, value in wrong:
        error = check_error(ada.request("GET", f"{STREAM}?{urlencode({**good, name: value})}"), 400)
        assert list(error["fields"]) == [name]
        assert list(check_error(ada.request("POST", REST, {**good, name: value}), 400)["fields"]) == [name]
    for name in ("projectId", "message"):
        rest = {key: value for key, value in good.items() if key != name}
        assert list(check_error(ada.request("GET", f"{STREAM}?{urlencode(rest)}"), 400)["fields"]) == [name]
    assert "32000" in check_error(ada.request("POST", REST, {**good, "message": "x" * 32_001}), 400)["message"]
    assert ada.call("GET", "/api/chat/conversations")["total"] == 0


def test_a_message_too_long_for_a_query_is_414_and_told_of_the_post(ada: Client, project: str) -> None:
    for path in PATHS:
        error = check_error(ada.request("GET", url(project, "x" * 9000, path=f"{path}/stream")), 414)
        assert "POST /api/v1/ai/chat" in error["message"]
    assert text_of(heard(ada, url(project, "x" * 7500))) == "x" * 7500
    answer = ada.call("POST", REST, {"projectId": project, "message": "x" * 32_000, "model": "openai/echo"})
    assert answer["message"]["content"] == "x" * 32_000


def test_the_model_is_told_the_last_ten_messages_the_project_and_its_own_settings(
    ada: Client, project: str, fake_models: FakeModels
) -> None:
    model, name = fresh("echo"), str(uuid.uuid4())
    for n in range(7):
        heard(ada, url(project, f"q{n}", f"openai/{model}", conversationId=name))
    call = fake_models.log(model)[-1]
    system, *turns = call["messages"]
    assert [turn["content"] for turn in turns] == ["q2", "q2", "q3", "q3", "q4", "q4", "q5", "q5", "q6"] or len(
        turns
    ) == 10
    assert turns[-1] == {"role": "user", "content": "q6"}
    assert (call["params"]["temperature"], call["params"]["max_tokens"]) == (0.7, 1500)
    assert system["role"] == "system"
    for part in ("Answer like a pirate.", '"placed_at"', "“Shop”"):
        assert part in system["content"]


def test_who_comes_back_gets_the_rest_and_asks_nobody_twice(ada: Client, project: str, fake_models: FakeModels) -> None:
    model = fresh("count-20")
    path = url(project, model=f"openai/{model}")
    whole = list(ada.frames(path))
    for n, frame in enumerate(whole[:-1], 1):
        assert list(ada.frames(path, frame.id)) == whole[n:]
        assert list(ada.frames(f"{path}&lastEventId={frame.id}")) == whole[n:]
    last = ada.request("GET", path, headers={"Last-Event-ID": str(whole[-1].id)})
    assert (last.status_code, last.content) == (204, b"")
    assert len(fake_models.log(model)) == 1


def test_a_cursor_of_another_answer_counts_as_none(ada: Client, bob: Client, project: str) -> None:
    ada.call("POST", f"/api/projects/{project}/members", {"email": bob.email}, 201)
    first, theirs = list(ada.frames(url(project))), list(bob.frames(url(project)))
    another = str(uuid.uuid4())
    for path, cursor in (
        (url(project, "another message"), first[0].id),
        (url(project, conversationId=another), first[0].id),
        (url(project), theirs[0].id),
        (url(project), "rubbish"),
        (url(project), f"{uuid.uuid4().hex}-3"),
    ):
        events = heard(ada, path, cursor)
        assert events[0]["type"] == "conversationId"
        assert events[0]["conversationId"] not in (
            json.loads(first[0].data)["conversationId"],
            json.loads(theirs[0].data)["conversationId"],
        )


def test_readers_cut_off_at_random_bytes_lose_and_repeat_nothing(
    ada: Client, project: str, fake_models: FakeModels
) -> None:
    model = fresh("count-100,delay=0.003")
    path = url(project, model=f"openai/{model}", requestId=uuid.uuid4().hex)  # for a cut before the first id
    frames, cuts = read_in_pieces(ada, path)
    assert cuts > 5
    assert frames == list(ada.frames(path))
    name, answer = json.loads(frames[0].data)["conversationId"], text_of([json.loads(frame.data) for frame in frames])
    assert told(ada, name) == ["one two", answer]
    assert len(fake_models.log(model)) == 1


def test_a_start_is_done_once_for_a_key_by_stream_and_by_rest(
    ada: Client, project: str, fake_models: FakeModels
) -> None:
    model, key = fresh("count-5,delay=0.02"), uuid.uuid4().hex
    path, body = (
        url(project, model=f"openai/{model}", requestId=key),
        {"projectId": project, "message": "one two", "model": f"openai/{model}", "requestId": key},
    )

    def ask(number: int) -> str:
        if number % 2:
            return str(ada.call("POST", REST, body)["message"]["content"])
        return text_of(heard(ada, path))

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(ask, range(20))) == {"1 2 3 4 5"}
    assert len(fake_models.log(model)) == 1
    assert ada.call("GET", "/api/chat/conversations")["total"] == 1


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("status-500", "provider_unavailable"),
        ("cut-fin-after-3", "interrupted"),
        ("silent-body", "provider_timeout"),
        ("silent-after-2", "provider_timeout"),
    ],
)
def test_what_goes_wrong_comes_as_an_error_event_and_nothing_after_it(
    ada: Client, project: str, scenario: str, code: str
) -> None:
    events = heard(ada, url(project, model=f"openai/{scenario}"))
    assert events[0]["type"] == "conversationId"
    assert [event["type"] for event in events[1:] if event["type"] != "token"] == ["error"]
    assert (set(events[-1]), events[-1]["code"]) == ({"type", "message", "code"}, code)
    if scenario.startswith("silent"):
        assert " 2 s" in events[-1]["message"]  # a stall is one from the first second on (CHATAPP_IDLE_SECONDS)


def test_a_stream_is_compressed_for_who_asks_and_each_event_is_there_at_once(ada: Client, project: str) -> None:
    path, unpack, blocks = url(project, model="openai/count-20,delay=0.05"), zlib.decompressobj(31), list[bytes]()
    with ada.http.get(
        ada.url + path, headers={"Accept-Encoding": "gzip, deflate"}, stream=True, timeout=60
    ) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Content-Type"].startswith("text/event-stream")
        while data := response.raw.read1(65536, decode_content=False):
            blocks.append(unpack.decompress(data))
    assert unpack.eof
    assert len([block for block in blocks if block]) > 10
    events = [json.loads(frame.data) for frame in sse.Parser().feed(b"".join(blocks))]
    assert text_of(events) == " ".join(str(n) for n in range(1, 21))


def test_a_page_of_another_site_begins_nothing_by_a_cookie(ada: Client, project: str) -> None:
    cookie = {"Authorization": None, "Cookie": f"access_token_cookie={str(ada.http.headers['Authorization'])[7:]}"}
    for where, status in (("same-origin", 200), ("same-site", 403), ("cross-site", 403)):
        headers: Any = {**cookie, "Sec-Fetch-Site": where}
        assert ada.request("GET", url(project), headers=headers).status_code == status
    token: Any = {"Sec-Fetch-Site": "cross-site"}  # a page elsewhere that was let in by CORS sends one
    assert ada.request("GET", url(project), headers=token).status_code == 200


def test_an_answer_can_be_stopped_and_what_it_said_is_complete(ada: Client, project: str) -> None:
    frames = ada.frames(url(project, model="openai/endless,delay=0.02"))
    name = json.loads(next(frames).data)["conversationId"]
    next(frames)
    stopped: requests.Response = ada.request("POST", f"/api/chat/conversations/{name}/stop")
    rest = [json.loads(frame.data) for frame in frames]
    assert rest[-1]["type"] == "complete"
    assert stopped.json()["message"]["content"] == told(ada, name)[1]
