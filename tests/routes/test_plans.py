"""Which models a plan includes, and that nobody asks another one, by whatever way."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import flask
import pytest

from app import create_app
from chatapp import sse
from chatapp.models.accounts import User
from chatapp.services import plans
from chatapp.settings import Settings
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

KEYS = {"openai_api_key": "k", "anthropic_api_key": "k", "xai_api_key": "k"}
SIZES = {"BASIC": 2, "PRO": 7, "ENTERPRISE": 10}


@cache
def application(**settings: Any) -> flask.Flask:
    return create_app(Settings(data_dir=Path(tempfile.mkdtemp()), local_model="off", **settings).completed())


def in_plan(name: str, model_id: str, **settings: Any) -> bool:
    """Say whether a plan that nobody changed includes the model."""
    with application(**settings).app_context():
        return plans.allowed(plans.Plan(name, list(SIZES).index(name) + 1, None, {}), model_id)


# The catalogue


@pytest.mark.parametrize(("plan", "count"), SIZES.items())
def test_the_shipped_plans_have_two_seven_and_ten_models(plan: str, count: int) -> None:
    known = plans.catalogue().models
    assert len(known) == 10
    assert {name.partition("/")[0] for name in known} == {"openai", "anthropic", "xai"}
    assert sum(in_plan(plan, name, **KEYS) for name in known) == count


def test_a_dated_version_is_in_the_plans_of_its_model() -> None:
    for name in (
        "openai/gpt-5.2-2025-12-11",
        "anthropic/claude-opus-4-7-20260416",
        "xai/grok-4-0709",
        "xai/grok-4-latest",
    ):
        assert not in_plan("PRO", name, **KEYS), name
        assert in_plan("ENTERPRISE", name, **KEYS), name
    assert in_plan("BASIC", "OpenAI/GPT-5-mini-2025-08-07".lower(), **KEYS)


def test_what_the_catalogue_does_not_know_is_in_every_plan() -> None:
    for name in ("ollama/llama3.2", "vllm/qwen", "local/smollm2-135m", "openai/o9-preview"):
        assert in_plan("BASIC", name, **KEYS), name


# On a site


@pytest.fixture(scope="module")
def apis() -> Iterator[dict[str, str]]:
    """The three paid APIs, each with its models of the catalogue, and settings to ask them."""
    with ExitStack() as stack:
        urls = {}
        for provider in ("openai", "anthropic", "xai"):
            names = [name.partition("/")[2] for name in plans.catalogue().models if name.startswith(f"{provider}/")]
            urls[provider] = stack.enter_context(FakeModels(names)).url
        yield {
            "OPENAI_BASE_URL": f"{urls['openai']}/v1",
            "ANTHROPIC_BASE_URL": urls["anthropic"],
            "XAI_BASE_URL": f"{urls['xai']}/v1",
            "OLLAMA_HOST": "http://127.0.0.1:1",
        }


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site], apis: dict[str, str]) -> Site:
    return new_site(CHATAPP_DEFAULT_PLAN="BASIC", CHATAPP_DEFAULT_MODEL="openai/gpt-5", **apis)


@pytest.fixture(scope="module")
def admin(house: Site) -> Client:
    return house.new_user("Root")


def member(admin: Client, house: Site, plan: str | None = None) -> Client:
    made = house.new_user()
    if plan is not None:
        admin.call("PATCH", f"/api/users/{made.user['id']}", {"plan": plan})
    return made


def shown(client: Client) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in client.call("GET", "/api/models")["models"]}


@pytest.mark.parametrize(("plan", "count"), [(None, 2), *SIZES.items()])
def test_people_are_shown_the_models_of_their_plan(house: Site, admin: Client, plan: str | None, count: int) -> None:
    client = member(admin, house, plan)
    listed = client.call("GET", "/api/models")
    assert len(listed["models"]) == count
    assert listed["default"] in shown(client)
    assert (listed["default"] == "openai/gpt-5") == (count > 2)


def test_what_an_api_does_not_tell_of_a_model_the_catalogue_does(house: Site, admin: Client) -> None:
    told = shown(member(admin, house))["anthropic/claude-haiku-4-5"]
    assert told["context_length"] == 200_000
    assert "vision" in told["capabilities"]


def test_admins_are_shown_and_may_ask_all(house: Site, admin: Client) -> None:
    assert len(shown(admin)) == 10
    admin.start("hello", "openai/gpt-5.2")


def test_who_names_no_model_asks_one_that_they_may(house: Site, admin: Client) -> None:
    client = member(admin, house)
    started = client.call("POST", "/api/chat/start", {"prompt": "hello"}, 201)
    assert client.conversation(started)["model"] in shown(client)


DEAR = "openai/gpt-5.2"


def test_no_way_to_ask_leads_past_the_plan(house: Site, admin: Client) -> None:
    client = member(admin, house)
    started, _ = client.ask("hello", "openai/gpt-5-mini")
    chat = f"/api/chat/conversations/{started['conversationId']}"
    before = client.call("GET", chat)["messages"]
    history = {"messages": [{"id": "1", "role": "user", "content": "hello", "timestamp": None}], "model": DEAR}
    message = f"/api/chat/messages/{started['userMessageId']}"
    ways: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "/api/chat/start", {"prompt": "x", "modelId": DEAR, "chatId": started["conversationId"]}),
        ("POST", f"{message}/regenerate", {"modelId": DEAR}),
        ("PATCH", message, {"content": "x", "modelId": DEAR}),
        ("POST", "/api/v1/ai/chat", {"message": "x", "model": DEAR, "conversationId": started["conversationId"]}),
        ("POST", f"/api/chat/{started['conversationId']}/stream", {"question": "x", "model": DEAR}),
        ("GET", f"/api/chat/{started['conversationId']}/stream?question=x&model={DEAR}", None),
        ("POST", "/api/stream", history),
        ("POST", "/api/stream", {**history, "chatId": started["conversationId"]}),
    ]
    for method, path, body in ways:
        error = check_error(client.request(method, path, body), 403, "forbidden")
        assert "BASIC" in error["message"], path
        assert DEAR in error["message"], path
    assert client.call("GET", chat)["messages"] == before


def test_a_conversation_whose_model_left_the_plan_is_told_so(house: Site, admin: Client) -> None:
    client = member(admin, house, "PRO")
    started, _ = client.ask("hello", "openai/gpt-5")
    admin.call("PATCH", f"/api/users/{client.user['id']}", {"plan": "BASIC"})
    path = f"/api/chat/conversations/{started['conversationId']}"
    body = {"prompt": "again", "chatId": started["conversationId"]}
    assert "openai/gpt-5" in check_error(client.request("POST", "/api/chat/start", body), 403)["message"]
    client.call("POST", f"{path}/messages", {"content": "and again"}, 201)
    check_error(client.request("GET", f"{path}/stream"), 403, "forbidden")
    answer = client.request("GET", f"{path}/stream", headers={"Last-Event-ID": f"{uuid.uuid4().hex}-1"})
    [frame] = sse.Parser().feed(answer.content)
    assert (frame.event, json.loads(frame.data)["code"]) == ("error", "forbidden")


def test_commands_know_the_models_of_the_plan_only(house: Site, admin: Client) -> None:
    client = member(admin, house)
    started = client.start("/model", "openai/gpt-5-mini")
    list(client.follow(started["generationId"]))
    said = client.answer(started)["content"]
    assert "openai/gpt-5-mini" in said
    assert DEAR not in said
    body = {"chatId": started["conversationId"]}
    list(client.follow(client.start(f"/model {DEAR}", "openai/gpt-5-mini", **body)["generationId"]))
    assert client.conversation(started)["model"] != DEAR


# What admins may do


def test_plans_and_people_are_for_admins(house: Site, admin: Client) -> None:
    client = member(admin, house)
    path = f"/api/users/{client.user['id']}"
    for method, address, body in (
        ("GET", "/api/plans", None),
        ("POST", "/api/plans", {"name": "MINE"}),
        ("GET", "/api/plans/BASIC", None),
        ("PATCH", "/api/plans/BASIC", {"tokens_per_day": 5}),
        ("DELETE", "/api/plans/BASIC", None),
        ("GET", "/api/users", None),
        ("GET", path, None),
        ("PATCH", path, {"role": "admin", "plan": "ENTERPRISE"}),
        ("DELETE", path, None),
        ("GET", "/api/usage", None),
    ):
        check_error(client.request(method, address, body), 403, "forbidden")
        check_error(Client(house.url).request(method, address, body), 401)
    assert client.call("GET", "/api/auth/me")["role"] == "user"


def test_a_plan_can_be_made_given_and_deleted(house: Site, admin: Client) -> None:
    made = admin.call("POST", "/api/plans", {"name": "Team", "models": {DEAR: True}, "tokens_per_day": 7}, 201)
    assert {name for name, is_in in made["models"].items() if is_in} == {
        DEAR,
        "openai/gpt-5-mini",
        "anthropic/claude-haiku-4-5",
    }
    check_error(admin.request("POST", "/api/plans", {"name": "team"}), 409)
    client = member(admin, house, "Team")
    assert DEAR in shown(client)
    assert admin.call("GET", "/api/plans/Team")["people"] == 1
    check_error(admin.request("DELETE", "/api/plans/Team"), 409)
    check_error(admin.request("DELETE", "/api/plans/BASIC"), 409)  # the default one
    admin.call("PATCH", f"/api/users/{client.user['id']}", {"plan": None})
    admin.call("DELETE", "/api/plans/Team", status=204)
    check_error(admin.request("GET", "/api/plans/Team"), 404)
    error = check_error(admin.request("PATCH", f"/api/users/{client.user['id']}", {"plan": "Team"}), 400)
    assert list(error["fields"]) == ["plan"]


@pytest.mark.parametrize("registration", ["invite", "open"])
def test_who_comes_by_an_invite_has_its_plan(new_site: Callable[..., Site], registration: str) -> None:
    site = new_site(CHATAPP_REGISTRATION=registration)
    root = site.new_user("Root")
    check_error(root.request("POST", "/api/invites", {"plan": "NONE"}), 400)
    made = root.call("POST", "/api/invites", {"plan": "PRO"}, 201)
    assert made["plan"] == "PRO"
    check_error(root.request("DELETE", "/api/plans/PRO"), 409)  # it was promised
    body = {"email": "ada@example.org", "password": "correct horse battery", "invite": made["token"]}
    user = Client(site.url).call("POST", "/api/auth/register", body, 201)["user"]
    assert root.call("GET", f"/api/users/{user['id']}")["plan"] == "PRO"
    assert root.call("GET", "/api/invites") == {"invites": []}


def test_what_an_admin_says_of_a_model_counts_everywhere_within_seconds(
    new_site: Callable[..., Site], new_database: Callable[[], str]
) -> None:
    site = new_site(CHATAPP_DEFAULT_PLAN="BASIC", CHATAPP_WORKERS="2", CHATAPP_DATABASE_URL=new_database())
    root, ada = site.new_user("Root"), site.new_user("Ada")
    ada.ask("hello", "openai/echo")

    def statuses() -> set[int]:
        """Return what eight questions, on connections of their own, are answered by the workers."""
        body = {"prompt": "x", "modelId": "openai/echo"}
        headers = {"Connection": "close"}
        return {ada.request("POST", "/api/chat/start", body, headers=headers).status_code for _ in range(8)}

    for is_in, status in ((False, 403), (True, 201), (None, 201)):
        changed = root.call("PATCH", "/api/plans/BASIC", {"models": {"openai/echo": is_in}})
        assert changed["models"]["openai/echo"] is (is_in is not False)
        assert ("openai/echo" in changed["overrides"]) == (is_in is not None)
        wait_until(lambda status=status: statuses() == {status}, 10)  # type: ignore[misc]


def test_a_persons_plan_is_theirs_or_the_sites(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, local_model="off", default_plan="PRO").completed()
    from chatapp.database import migrate

    migrate(settings)
    app = create_app(settings)
    with app.app_context():
        assert plans.plan_of(User(plan=None)).name == "PRO"
        assert plans.plan_of(User(plan="BASIC")).name == "BASIC"
        assert plans.plan_of(User(plan="GONE")).name == "BASIC"  # a plan that is not there opens nothing
    app.extensions["chatapp"].engine.dispose()
