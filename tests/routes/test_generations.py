"""Starting, stopping and asking again; the REST twin; history. Over real gunicorn and a real (fake) model API."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

EVERY_SETUP = True
LONG = "count-2000,delay=0.01"


def key() -> str:
    return str(uuid.uuid4())


def prompts(fake_models: FakeModels, model: str) -> list[list[dict[str, str]]]:
    """Return what *model* was asked, call by call, without the system prompt."""
    return [[turn for turn in call["messages"] if turn["role"] != "system"] for call in fake_models.log(model)]


@pytest.mark.parametrize("api", ["openai", "ollama", "anthropic"])
def test_each_kind_of_api_answers(ada: Client, api: str) -> None:
    started, frames = ada.ask("one two three", f"{api}/echo")
    assert ada.answer(started)["content"] == "one two three"
    assert ada.answer(started)["model"] == f"{api}/echo"
    usage = json.loads(next(frame.data for frame in frames if frame.event == "usage"))
    assert usage["estimated"] is False
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_start_stores_the_question_at_once(ada: Client) -> None:
    started = ada.start("Where is it?", "openai/silent-body")
    shown = ada.conversation(started)
    question, answer = shown["messages"]
    assert (question["id"], question["role"], question["content"]) == (started["userMessageId"], "user", "Where is it?")
    assert (answer["id"], answer["parent_id"], answer["status"]) == (started["messageId"], question["id"], "running")
    assert answer["generation_id"] == started["generationId"]
    assert (shown["title"], shown["running"], shown["leaf_id"]) == ("Where is it?", True, answer["id"])
    ada.call("POST", f"/api/chat/conversations/{shown['id']}/stop")
    assert ada.conversation(started)["running"] is False


def test_the_next_question_brings_the_history_along(ada: Client, fake_models: FakeModels) -> None:
    model = f"echo,test={key()}"
    started, _ = ada.ask("first", f"openai/{model}")
    ada.ask("second", f"openai/{model}", chatId=started["conversationId"])
    assert prompts(fake_models, model)[-1] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "second"},
    ]


def test_a_chat_may_go_by_the_clients_own_name_which_is_its_users_alone(ada: Client, bob: Client) -> None:
    first, _ = ada.ask("hi", chatId="chat-123")
    again, _ = ada.ask("hi again", chatId="chat-123")
    other, _ = bob.ask("hello", chatId="chat-123")
    assert first["chatId"] == again["chatId"] == other["chatId"] == "chat-123"
    assert first["conversationId"] == again["conversationId"] != other["conversationId"]
    history = ada.call("GET", "/api/chat/history?chatId=chat-123")
    assert [message["content"] for message in history["messages"]] == ["hi", "hi", "hi again", "hi again"]
    assert history["chatId"] == "chat-123"


@pytest.mark.parametrize("where", ["header", "body"])
def test_fifty_starts_with_one_key_are_one_answer(ada: Client, fake_models: FakeModels, where: str) -> None:
    model, name = f"echo,test={key()}", key()
    body = {"prompt": "once", "modelId": f"openai/{model}", **({"requestId": name} if where == "body" else {})}
    headers = {"Idempotency-Key": name} if where == "header" else {}
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ada.call("POST", "/api/chat/start", body, 201, headers=headers), range(50)))
    assert len({json.dumps(answer, sort_keys=True) for answer in answers}) == 1
    wait_until(lambda: ada.answer(answers[0])["status"] == "finished")
    assert len(ada.conversation(answers[0])["messages"]) == 2
    assert len(fake_models.log(model)) == 1


def test_a_key_is_its_users_alone(ada: Client, bob: Client) -> None:
    name = key()
    mine, theirs = ada.start("a", requestId=name), bob.start("b", requestId=name)
    assert mine["generationId"] != theirs["generationId"]


def test_stop_keeps_what_was_written_and_closes_the_upstream(ada: Client, fake_models: FakeModels) -> None:
    model = f"{LONG},test={key()}"
    started = ada.start("x", f"openai/{model}")
    stream = ada.follow(started["generationId"])
    seen = ""
    while len(seen) < 10:
        frame = next(stream)
        seen += json.loads(frame.data)["content"] if frame.event == "token" else ""
    stopped = ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")["message"]
    assert stopped["status"] == stopped["finish_reason"] == "stopped"
    assert stopped["content"].startswith(seen)
    rest = list(stream)
    assert rest[-1].event == "done"
    assert json.loads(rest[-1].data)["message"] == stopped == ada.answer(started)
    call = fake_models.wait_for(lambda call: call["ended"], 10, model=model)
    assert call["disconnected"]
    assert call["tokens"] < 2000


@pytest.mark.parametrize("scenario", ["silent-headers", "silent-body", "silent-after-2", "heartbeats-only", "drip"])
def test_stop_reaches_a_model_that_says_nothing(ada: Client, fake_models: FakeModels, scenario: str) -> None:
    model = f"{scenario},test={key()}"
    started = ada.start("x", f"openai/{model}")
    wait_until(lambda: fake_models.log(model))
    stopped = ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")["message"]
    assert stopped["status"] == "stopped"
    call = fake_models.wait_for(lambda call: call["ended"], 10, model=model)
    assert call["disconnected"]


def test_stop_after_the_end_returns_the_answer_and_changes_nothing(ada: Client) -> None:
    started, _ = ada.ask("hi")
    before = ada.answer(started)
    for _ in range(2):
        assert ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")["message"] == before
    empty = ada.call("POST", "/api/chat/conversations", {}, 201)
    assert ada.call("POST", f"/api/chat/conversations/{empty['id']}/stop") == {"message": None}


def test_regenerate_keeps_the_old_answer_beside_the_new_one(ada: Client) -> None:
    started, _ = ada.ask("hi")
    again = ada.call(
        "POST", f"/api/chat/messages/{started['messageId']}/regenerate", {"modelId": "openai/count-3"}, 201
    )
    assert again["userMessageId"] == started["userMessageId"]
    list(ada.follow(again["generationId"]))
    shown = ada.conversation(started)
    answers = [message for message in shown["messages"] if message["role"] == "assistant"]
    assert [answer["content"] for answer in answers] == ["hi", "1 2 3"]
    assert {answer["parent_id"] for answer in answers} == {started["userMessageId"]}
    assert shown["leaf_id"] == again["messageId"]


def test_an_edit_begins_a_branch_and_the_old_one_can_be_turned_to(ada: Client, fake_models: FakeModels) -> None:
    model = f"echo,test={key()}"
    started, _ = ada.ask("first", f"openai/{model}")
    second, _ = ada.ask("second", f"openai/{model}", chatId=started["conversationId"])
    edited = ada.call("PATCH", f"/api/chat/messages/{started['userMessageId']}", {"content": "other"}, 201)
    list(ada.follow(edited["generationId"]))
    assert prompts(fake_models, model)[-1] == [{"role": "user", "content": "other"}]
    conversation = f"/api/chat/conversations/{started['conversationId']}"
    assert len(ada.call("GET", conversation)["messages"]) == 6

    def shown() -> list[str]:
        chat = ada.call("GET", f"/api/chat/history?chatId={started['conversationId']}")
        return [message["content"] for message in chat["messages"]]

    assert shown() == ["other", "other"]
    turned = ada.call("PATCH", conversation, {"leaf_id": started["userMessageId"]})
    assert turned["leaf_id"] == second["messageId"]
    assert shown() == ["first", "first", "second", "second"]


def test_two_answers_at_once_in_one_chat_do_not_mix(ada: Client) -> None:
    started = ada.start("x", "openai/count-40,delay=0.01")
    again = ada.call("POST", f"/api/chat/messages/{started['messageId']}/regenerate", {"modelId": "openai/echo"}, 201)
    list(ada.follow(started["generationId"])), list(ada.follow(again["generationId"]))
    contents = {m["id"]: m["content"] for m in ada.conversation(started)["messages"]}
    assert contents[started["messageId"]] == " ".join(str(n) for n in range(1, 41))
    assert contents[again["messageId"]] == "x"


def test_only_a_question_can_be_edited(ada: Client) -> None:
    started, _ = ada.ask("hi")
    refused = ada.call("PATCH", f"/api/chat/messages/{started['messageId']}", {"content": "no"}, 409)
    assert refused["error"]["code"] == "conflict"


def test_a_conversations_stream_answers_its_last_question_once(ada: Client, fake_models: FakeModels) -> None:
    chat = ada.call("POST", "/api/chat/conversations", {}, 201)
    path = f"/api/chat/conversations/{chat['id']}/stream"
    assert ada.call("GET", path, status=409)["error"]["code"] == "conflict"
    ada.call("POST", f"/api/chat/conversations/{chat['id']}/messages", {"content": "quick brown"}, 201)
    with ThreadPoolExecutor(5) as pool:
        heard = list(pool.map(lambda _: list(ada.frames(path)), range(5)))
    assert heard == [heard[0]] * 5
    assert [frame.event for frame in heard[0]][:2] == ["typing", "progress"]
    assert [frame.event for frame in heard[0]][-2:] == ["message", "done"]
    messages = ada.call("GET", f"/api/chat/conversations/{chat['id']}")["messages"]
    assert len(messages) == 2
    assert json.loads(heard[0][-2].data) == {
        "id": messages[1]["id"],
        "role": "assistant",
        "content": messages[1]["content"],
    }


def test_a_reader_who_comes_back_to_an_older_answer_gets_its_rest(ada: Client, fake_models: FakeModels) -> None:
    model = fake_models.slow(30)
    started = ada.start("x", f"openai/{model}")
    path = f"/api/chat/conversations/{started['conversationId']}/stream"
    stream = ada.frames(path)
    seen = [next(stream) for _ in range(6)]
    stream.close()  # type: ignore[attr-defined]
    ada.call("POST", f"/api/chat/messages/{started['messageId']}/regenerate", {"modelId": "openai/echo"}, 201)
    fake_models.hurry(model)
    rest = list(ada.frames(path, seen[-1].id))
    assert json.loads(rest[-2].data)["content"] == " ".join(str(n) for n in range(1, 31))
    chunks = [json.loads(frame.data)["content"] for frame in seen + rest if frame.event == "chunk"]
    assert "".join(chunks) == json.loads(rest[-2].data)["content"]
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/messages", {"content": "next"}, 201)
    assert ada.request("GET", path, headers={"Last-Event-ID": rest[-1].id}).status_code == 204
    assert ada.conversation(started)["messages"][-1]["role"] == "user"  # coming back asked nobody


def test_a_start_that_was_made_before_tells_where_it_was_made(ada: Client) -> None:
    name = key()
    first = ada.start("a", chatId="here", requestId=name)
    again = ada.start("a", chatId="there", requestId=name)
    assert again == first


def test_a_page_of_another_site_cannot_begin_an_answer(ada: Client) -> None:
    chat = ada.call("POST", "/api/chat/conversations", {}, 201)
    ada.call("POST", f"/api/chat/conversations/{chat['id']}/messages", {"content": "hi"}, 201)
    path = f"/api/chat/conversations/{chat['id']}/stream"
    token = str(ada.http.headers["Authorization"]).removeprefix("Bearer ")
    page = Client(ada.url)  # where her browser sends her cookie along, and no header of hers
    page.http.cookies.set("access_token_cookie", token)
    page.call("GET", path, status=403, headers={"Sec-Fetch-Site": "cross-site"})
    assert len(ada.call("GET", f"/api/chat/conversations/{chat['id']}")["messages"]) == 1


def test_the_rest_twin_answers_whole(ada: Client) -> None:
    for path in ("/api/v1/ai/chat", "/ai/chat"):
        answer = ada.call("POST", path, {"message": "one two", "model": "openai/echo"})
        assert answer["message"]["content"] == "one two"
        assert answer["message"]["role"] == "assistant"
        assert answer["metadata"]["conversationId"] == answer["conversationId"]
        assert answer["metadata"]["usage"]["total_tokens"] > 0
        assert answer["timestamp"].endswith("Z")


def test_the_rest_twin_follows_the_answer_that_was_started(ada: Client, fake_models: FakeModels) -> None:
    model, name = f"count-30,delay=0.02,test={key()}", key()
    started = ada.start("x", f"openai/{model}", requestId=name)
    body = {"message": "x", "conversationId": started["conversationId"], "requestId": name}
    answers = [ada.call("POST", "/api/v1/ai/chat", body) for _ in range(2)]
    assert {answer["message"]["id"] for answer in answers} == {started["messageId"]}
    assert answers[0]["message"] == ada.answer(started)
    assert len(fake_models.log(model)) == 1
    assert len(ada.conversation(started)["messages"]) == 2


def test_the_rest_twin_makes_the_conversation_that_a_new_uuid_names(ada: Client, bob: Client) -> None:
    name = key()
    answer = ada.call("POST", "/api/v1/ai/chat", {"message": "a", "model": "openai/echo", "conversationId": name})
    assert answer["conversationId"] == name
    again = ada.call("POST", "/api/v1/ai/chat", {"message": "b", "model": "openai/echo", "conversationId": name})
    assert again["conversationId"] == name
    assert len(ada.call("GET", f"/api/chat/conversations/{name}")["messages"]) == 4
    bob.call("POST", "/api/v1/ai/chat", {"message": "c", "model": "openai/echo", "conversationId": name}, 404)


def test_the_rest_twin_sends_the_last_ten_messages_and_its_own_defaults(ada: Client, fake_models: FakeModels) -> None:
    name, model = key(), f"echo,test={key()}"
    for n in range(7):
        ada.call("POST", "/api/v1/ai/chat", {"message": f"q{n}", "model": f"openai/{model}", "conversationId": name})
    call = fake_models.log(model)[-1]
    told = [turn["content"] for turn in call["messages"] if turn["role"] != "system"]
    assert told == ["q2", "q2", "q3", "q3", "q4", "q4", "q5", "q5", "q6"] or len(told) <= 10
    assert told[-1] == "q6"
    assert call["params"]["temperature"] == 0.7
    assert call["params"]["max_tokens"] == 1500


@pytest.mark.parametrize(
    ("scenario", "status", "code"),
    [
        ("status-401", 502, "provider_unavailable"),
        ("status-404", 404, "not_found"),
        ("status-429,retry-after=7", 429, "rate_limited"),
        ("status-500-html", 502, "provider_unavailable"),
        ("silent-headers", 504, "provider_timeout"),
        ("html-200", 502, "provider_unavailable"),
    ],
)
def test_what_a_model_api_refuses_is_told_by_its_kind(ada: Client, scenario: str, status: int, code: str) -> None:
    model = f"openai/{scenario}"
    twin = Client(ada.url)
    twin.http.headers.update(ada.http.headers)
    with ThreadPoolExecutor(1) as pool:  # at once: a timeout is waited for once
        asked = pool.submit(twin.call, "POST", "/api/v1/ai/chat", {"message": "x", "model": model}, status)
        started, frames = ada.ask("x", model)
    error = asked.result()["error"]
    assert error["code"] == code
    assert frames[-1].event == "fail"
    assert json.loads(frames[-1].data)["code"] == code
    stored = ada.answer(started)
    assert (stored["status"], stored["content"], stored["error"]["code"]) == ("failed", "", code)
    assert ada.conversation(started)["messages"][0]["content"] == "x"
    for canary in ("sk-canary", "Traceback", "canary-upstream"):
        assert canary not in frames[-1].data + error["message"]


@pytest.mark.parametrize("scenario", ["cut-fin-after-3", "cut-rst-after-3", "cut-chunk-after-3", "no-end-after-3"])
def test_a_model_that_breaks_off_leaves_what_it_wrote(ada: Client, scenario: str) -> None:
    started, frames = ada.ask("x", f"openai/{scenario}")
    assert json.loads(frames[-1].data)["code"] == "interrupted"
    assert (ada.answer(started)["status"], ada.answer(started)["content"]) == ("interrupted", "1 2 3")


def test_history_without_a_chat_is_the_users_latest_paged(ada: Client) -> None:
    for n in range(3):
        ada.ask(f"q{n}")
    page = ada.call("GET", "/api/chat/history?page_size=4")
    assert [message["content"] for message in page["messages"]] == ["q1", "q1", "q2", "q2"]
    assert (page["total"], page["page"], page["chatId"]) == (6, 1, None)
    assert set(page["messages"][0]) >= {"id", "role", "content", "createdAt", "model", "status"}
    older = ada.call("GET", "/api/chat/history?page_size=4&page=2")
    assert [message["content"] for message in older["messages"]] == ["q0", "q0"]


def test_models_are_those_of_the_apis_that_answer(ada: Client) -> None:
    told = ada.call("GET", "/api/models")
    found: list[dict[str, Any]] = told["models"]
    assert {model["provider"] for model in found} == {"openai", "ollama", "anthropic"}
    assert all(model["id"] == f"{model['provider']}/{model['name']}" for model in found)
    assert set(found[0]) == {"id", "name", "provider", "context_length", "capabilities"}
    assert told["default"] in {model["id"] for model in found}


def test_a_model_by_its_bare_name_is_found_where_it_is_only_once(ada: Client) -> None:
    found = ada.call("GET", "/api/models")["models"]
    names = [model["name"] for model in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        error = ada.call("POST", "/api/chat/start", {"prompt": "x", "modelId": twice}, 400)["error"]
        assert "Several" in error["message"]
    error = ada.call("POST", "/api/chat/start", {"prompt": "x", "modelId": "no-such-model"}, 400)["error"]
    assert "no-such-model" in error["message"]
    started = ada.call("POST", "/api/chat/start", {"prompt": "x"}, 201)
    assert ada.conversation(started)["model"] == ada.call("GET", "/api/models")["default"]


def test_all_is_there_after_a_restart(new_site: Any) -> None:
    site: Site = new_site()
    client = site.new_user()
    started, whole = client.ask("one two three")
    running = client.start("x", f"openai/{LONG}")
    stream = client.follow(running["generationId"])
    seen = [next(stream) for _ in range(6)]
    site.kill()
    site.start()
    assert list(client.follow(started["generationId"])) == whole
    assert client.answer(started)["content"] == "one two three"
    rest = list(client.follow(running["generationId"], seen[-1].id))
    assert [int(frame.id or 0) for frame in seen + rest] == list(range(1, len(seen + rest) + 1))
    assert (rest[-1].event, json.loads(rest[-1].data)["code"]) == ("fail", "interrupted")
    text = "".join(json.loads(frame.data)["content"] for frame in seen + rest if frame.event == "token")
    assert client.answer(running)["content"] == text
    assert client.answer(running)["status"] == "interrupted"


def test_asking_for_a_streams_head_begins_and_counts_nothing(ada: Client) -> None:
    chat = ada.call("POST", "/api/chat/conversations", {}, 201)
    ada.call("POST", f"/api/chat/conversations/{chat['id']}/messages", {"content": "hi"}, 201)
    head = ada.request("HEAD", f"/api/chat/conversations/{chat['id']}/stream")
    assert (head.status_code, head.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
    assert len(ada.call("GET", f"/api/chat/conversations/{chat['id']}")["messages"]) == 1
    started, _ = ada.ask("hi")
    path = f"/api/chat/stream?sessionId={started['sessionId']}"
    for _ in range(11):
        assert ada.request("HEAD", path).status_code == 200
    assert list(ada.frames(path))
