"""Contract B: questions to documents, in sessions that the client names; POST and GET `/chat/{session_id}/stream`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from chatapp import sse
from tests.contracts import SETUPS
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client, wait_until
from tests.support.wire import read_in_pieces

__all__ = ["SETUPS"]
PATHS = ["/chat/1/stream", "/api/chat/1/stream"]
SEARCHING = {"type": "status", "content": "Searching documents…"}
NOTHING_FOUND = {"type": "sources", "content": [], "chunks_used": 0}
GENERATING = {"type": "status", "content": "Generating response…"}


def fresh(scenario: str) -> str:
    """Return a model that nobody else asks."""
    return f"{scenario},test={uuid.uuid4().hex}"


def post(client: Client, path: str, model: str = "openai/echo", *, question: str = "one two", **body: Any) -> list[Any]:
    """Return what the events of a POST say; they have no names."""
    frames = list(posted(client, path, {"question": question, "model": model, **body}))
    assert all(frame.event is None and frame.id for frame in frames)
    return [json.loads(frame.data) for frame in frames]


def posted(client: Client, path: str, body: dict[str, Any], **headers: str) -> Iterator[sse.Frame]:
    with client.http.post(client.url + path, json=body, headers=headers, stream=True, timeout=60) as response:
        assert response.status_code == 200, response.text
        parser = sse.Parser()
        while data := response.raw.read1(65536):
            yield from parser.feed(data)


def heard(client: Client, path: str, last_event_id: str | None = None, **query: str) -> list[sse.Frame]:
    return list(client.frames(f"{path}?{urlencode(query)}", last_event_id))


def messages(client: Client, session: str = "1") -> list[tuple[str, str]]:
    found = client.call("GET", f"/api/chat/history?chatId={session}")["messages"]
    return [(message["role"], message["content"]) for message in found]


@pytest.mark.parametrize("path", PATHS)
def test_the_events_come_in_the_documents_order_and_form(ada: Client, path: str) -> None:
    events = post(ada, path)
    assert events == [
        {"type": "start", "session_id": 1, "model": "openai/echo"},
        SEARCHING,
        NOTHING_FOUND,
        GENERATING,
        *[{"type": "chunk", "content": event["content"]} for event in events[4:-2]],
        {
            "type": "metadata",
            "content": {
                "model": "openai/echo",
                "confidence": None,
                "hallucination": None,
                "search_mode": "all",
                "total_response": "one two",
            },
        },
        {"type": "done"},
    ]
    assert "".join(event["content"] for event in events[4:-2]) == "one two"
    assert messages(ada) == [("user", "one two"), ("assistant", "one two")]


@pytest.mark.parametrize(
    ("mode", "begins"), [("documents", [SEARCHING, NOTHING_FOUND, GENERATING]), ("none", [GENERATING])]
)
def test_documents_are_searched_as_the_client_says(ada: Client, mode: str, begins: list[Any]) -> None:
    events = post(ada, PATHS[0], search_mode=mode, document_ids=[str(uuid.uuid4())])
    assert events[1 : 1 + len(begins)] == begins
    assert events[1 + len(begins)]["type"] == "chunk"
    assert events[-2]["content"]["search_mode"] == mode


def test_chunks_come_as_they_are_made(ada: Client) -> None:
    frames = posted(ada, PATHS[0], {"question": "x", "model": "openai/count-30,delay=0.02"})
    while json.loads(next(frames).data)["type"] != "chunk":
        pass
    assert ada.call("GET", "/api/chat/history?chatId=1")["messages"][-1]["status"] == "running"
    assert json.loads(list(frames)[-1].data) == {"type": "done"}


@pytest.mark.parametrize(
    ("session", "told"),
    [
        ("1", 1),
        ("0", 0),
        ("42", 42),
        ("007", "007"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("a:b_c-d.e", "a:b_c-d.e"),
        ("9" * 15, int("9" * 15)),
        ("9" * 64, "9" * 64),
    ],
)
def test_a_session_is_any_reference_and_comes_back_as_it_was_given(ada: Client, session: str, told: Any) -> None:
    for _ in range(2):
        start = post(ada, f"/api/chat/{session}/stream", search_mode="none")[0]
        assert (start["session_id"], type(start["session_id"])) == (told, type(told))
    assert len(messages(ada, session)) == 4  # made on first use, then used


def test_the_id_of_a_conversation_is_a_reference_too(ada: Client, bob: Client) -> None:
    made = ada.call("POST", "/api/chat/conversations", {}, 201)["id"]
    assert post(ada, f"/chat/{made}/stream")[0]["session_id"] == made
    assert len(ada.call("GET", f"/api/chat/conversations/{made}")["messages"]) == 2
    assert post(bob, f"/chat/{made}/stream", question="mine")[0]["session_id"] == made  # no id of Bob's: his own name
    assert messages(bob, made) == [("user", "mine"), ("assistant", "mine")]
    assert len(ada.call("GET", f"/api/chat/conversations/{made}")["messages"]) == 2


@pytest.mark.parametrize("session", ["x" * 65, "a b", "é", "a%2Fb", "%00", "a\u200b"])
def test_what_is_no_reference_is_refused(ada: Client, session: str) -> None:
    path = f"/api/chat/{quote(session, safe='%')}/stream"
    for response in (
        ada.request("POST", path, {"question": "x"}),
        ada.request("GET", f"{path}?question=x"),
        ada.request("GET", path),
    ):
        assert response.status_code in (400, 404)
        check_error(response, response.status_code)


def test_the_longer_paths_of_other_contracts_are_not_shadowed(ada: Client) -> None:
    started, whole = ada.ask("hi")
    named = f"/api/chat/conversations/{started['conversationId']}/stream"
    assert {frame.event for frame in ada.frames(named)} >= {"typing", "done"}
    assert len(list(ada.frames(f"/api/chat/stream?sessionId={started['sessionId']}"))) < len(whole)
    assert post(ada, "/api/chat/conversations/stream")[0]["session_id"] == "conversations"


def test_the_history_is_told_to_the_model_and_the_prompt_is_the_clients(ada: Client, fake_models: FakeModels) -> None:
    model = fresh("echo")
    post(ada, PATHS[0], f"openai/{model}", question="first", system_prompt="Be a pirate.")
    post(ada, PATHS[1], f"openai/{model}", question="second")
    one, two = (call["messages"] for call in fake_models.log(model))
    assert [turn["content"] for turn in one] == ["Be a pirate.", "first"]
    assert [turn["content"] for turn in two[1:]] == ["first", "first", "second"]
    assert "pirate" not in two[0]["content"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("text/plain", "text/plain"),
        ("text/plain, */*", "text/event-stream"),
    ],
)
def test_the_type_is_an_event_streams_but_for_who_takes_plain_text_alone(
    ada: Client, accept: str | None, kind: str
) -> None:
    body = {"question": "x", "model": "openai/echo"}
    with ada.http.post(ada.url + PATHS[0], json=body, headers={"Accept": accept}, stream=True, timeout=60) as response:  # type: ignore[dict-item]
        assert response.headers["Content-Type"].partition(";")[0] == kind
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        frames = sse.Parser().feed(response.content)
    assert json.loads(frames[-1].data) == {"type": "done"}


def test_event_source_starts_an_answer_with_its_question_and_ends_with_204(
    ada: Client, fake_models: FakeModels
) -> None:
    model = fresh("count-20")
    query = {"question": "x", "model": f"openai/{model}", "search_mode": "none"}
    whole = heard(ada, PATHS[1], **query)
    assert [json.loads(frame.data)["type"] for frame in whole[-2:]] == ["metadata", "done"]
    for n, frame in enumerate(whole[:-1], 1):
        assert heard(ada, PATHS[1], frame.id, **query) == whole[n:]
        assert heard(ada, PATHS[1], **query, lastEventId=str(frame.id)) == whole[n:]
    last = ada.request("GET", f"{PATHS[1]}?{urlencode(query)}", headers={"Last-Event-ID": str(whole[-1].id)})
    assert (last.status_code, last.content) == (204, b"")
    assert len(fake_models.log(model)) == 1
    assert len(messages(ada)) == 2


def test_without_a_question_it_attaches_to_the_running_or_latest_answer(ada: Client) -> None:
    assert check_error(ada.request("GET", PATHS[1]), 404)
    ada.call("POST", "/api/chat/conversations", {"key": "1"}, 201)
    assert check_error(ada.request("GET", PATHS[1]), 409)
    frames = list(posted(ada, PATHS[1], {"question": "x", "model": "openai/count-3"}))
    assert heard(ada, PATHS[1]) == frames
    running = posted(ada, PATHS[1], {"question": "y", "model": "openai/count-50,delay=0.02"})
    first = next(running)
    attached = list(ada.frames(PATHS[1]))
    assert [first, *running] == attached
    assert heard(ada, PATHS[1], frames[0].id) == frames[1:]  # who comes back to an older one gets that
    assert len(messages(ada)) == 4


def test_the_same_question_asked_anew_is_asked_again(ada: Client, fake_models: FakeModels) -> None:
    model = fresh("echo")
    query = {"question": "x", "model": f"openai/{model}"}
    first = heard(ada, PATHS[1], **query)
    again = heard(ada, PATHS[1], **query)
    assert first[0].id != again[0].id
    other = heard(
        ada, PATHS[1], first[0].id, **{**query, "question": "y"}
    )  # a cursor of another question's counts as none
    assert json.loads(other[0].data)["type"] == "start"
    elsewhere = heard(ada, "/api/chat/2/stream", first[0].id, **query)
    assert json.loads(elsewhere[0].data)["session_id"] == 2
    assert len(fake_models.log(model)) == 4


def test_a_cursor_of_somebody_elses_shows_nothing_of_theirs(ada: Client, bob: Client) -> None:
    theirs = heard(bob, PATHS[1], question="x", model="openai/echo")
    mine = heard(ada, PATHS[1], theirs[0].id, question="x", model="openai/echo")
    assert {str(frame.id).partition("-")[0] for frame in mine} != {str(frame.id).partition("-")[0] for frame in theirs}
    assert json.loads(mine[0].data)["type"] == "start"


@pytest.mark.parametrize("place", ["header", "body"])
def test_a_start_is_done_once_for_a_key_however_many_ask_at_once(
    ada: Client, fake_models: FakeModels, place: str
) -> None:
    model, key = fresh("count-5,delay=0.01"), uuid.uuid4().hex
    body = {"question": "x", "model": f"openai/{model}", **({"requestId": key} if place == "body" else {})}
    headers = {"Idempotency-Key": key} if place == "header" else {}
    with ThreadPoolExecutor(10) as pool:
        streams = list(pool.map(lambda _: ada.request("POST", PATHS[1], body, headers=headers).content, range(20)))
    frames = [sse.Parser().feed(stream) for stream in streams]
    assert frames == [frames[0]] * 20
    assert heard(ada, PATHS[1], question="x", requestId=key) == frames[0]
    assert len(fake_models.log(model)) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_readers_cut_off_at_random_bytes_lose_and_repeat_nothing(
    ada: Client, fake_models: FakeModels, method: str
) -> None:
    model = fresh("count-100,delay=0.003")
    given = {
        "question": "x",
        "model": f"openai/{model}",
        "requestId": uuid.uuid4().hex,
    }  # for a cut before the first id
    path, body = (f"{PATHS[1]}?{urlencode(given)}", b"") if method == "GET" else (PATHS[1], json.dumps(given).encode())
    frames, cuts = read_in_pieces(ada, path, method=method, body=body)
    assert cuts > 5
    assert frames == heard(ada, PATHS[1])
    assert "".join(json.loads(f.data)["content"] for f in frames if '"chunk"' in f.data) == messages(ada)[1][1]
    assert len(fake_models.log(model)) == 1


@pytest.mark.parametrize(
    "scenario", ["status-500", "cut-fin-after-3", "silent-after-2", "status-401", "bad-json-after-3"]
)
def test_what_goes_wrong_comes_as_an_error_event_and_nothing_after_it(ada: Client, scenario: str) -> None:
    events = post(ada, PATHS[0], f"openai/{scenario}", search_mode="none")
    assert [event["type"] for event in events if event["type"] != "chunk"] == ["start", "status", "error"]
    assert list(events[-1]) == ["type", "content"]
    assert "canary" not in events[-1]["content"].lower()
    assert heard(ada, PATHS[0])[-1].data == json.dumps(events[-1], separators=(",", ":"), ensure_ascii=False)


def test_a_request_that_cannot_be_carried_out_is_an_http_error(ada: Client) -> None:
    good = {"question": "x", "model": "openai/echo"}
    wrong: list[dict[str, Any]] = [
        {"question": ""},
        {"question": None},
        {"question": "x" * 32_001},
        {"model": "nobody/x"},
    ]
    wrong += [{"search_mode": "some"}, {"document_ids": ["x"]}, {"document_ids": "x"}, {"system_prompt": 7}]
    for change in wrong:
        error = check_error(ada.request("POST", PATHS[0], {**good, **change}), 400)
        assert list(error["fields"]) == list(change)
    for stranger in (
        Client(ada.url).request("POST", PATHS[0], good),
        Client(ada.url).request("GET", f"{PATHS[0]}?question=x"),
    ):
        check_error(stranger, 401)
    told = list(Client(ada.url).frames(f"{PATHS[0]}?question=x", "1"))  # who comes back is told in the stream
    assert json.loads(told[0].data) == {"type": "error", "content": "Sign in to go on."}
    check_error(ada.request("GET", "/api/chat/history?chatId=1"), 404)  # nothing of it was stored


def test_a_page_of_another_site_begins_nothing_by_a_cookie(ada: Client) -> None:
    cookie = {"Authorization": None, "Cookie": f"access_token_cookie={str(ada.http.headers['Authorization'])[7:]}"}
    for where, status in (("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)):
        headers: Any = {**cookie, "Sec-Fetch-Site": where}
        response = ada.request("GET", f"{PATHS[0]}?question=x&model=openai/echo", headers=headers)
        assert response.status_code == status, where
    token: Any = {"Sec-Fetch-Site": "cross-site"}  # a page elsewhere that was let in by CORS sends one
    assert ada.request("GET", f"{PATHS[0]}?question=x&model=openai/echo", headers=token).status_code == 200


def test_an_answer_goes_on_without_its_reader(ada: Client) -> None:
    frames = posted(ada, PATHS[0], {"question": "x", "model": "openai/count-40,delay=0.01"})
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    wait_until(lambda: messages(ada)[1][1].endswith(" 40"))
