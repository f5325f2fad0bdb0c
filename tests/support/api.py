"""Every route of the API with a request that it takes, the form of its errors, and what the database holds."""

from __future__ import annotations

import re
import sqlite3
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import flask
import requests

from app import create_app
from chatapp.settings import Settings
from tests.support.site import Client, Site, wait_until

CODES = {
    400: {"validation_error"},
    401: {"unauthorized"},
    403: {"forbidden"},
    404: {"not_found"},
    405: {"validation_error"},
    409: {"conflict"},
    410: {"session_expired"},
    413: {"payload_too_large"},
    414: {"uri_too_long"},
    415: {"unsupported_media_type"},
    429: {"rate_limited", "quota_exceeded"},
    431: {"payload_too_large"},
    502: {"provider_unavailable"},
    503: {"overloaded"},
    504: {"provider_timeout"},
}
# what would tell of the machine: a trace, a path, a module, a statement, a key
LEAKS = re.compile(
    r"Traceback|File \"|/work/|/tmp/|/home/|/usr/|\.py\b|site-packages|sqlalchemy|SELECT |sk-canary", re.I
)
ENDLESS = "openai/count-5000,delay=0.05"


@dataclass(frozen=True)
class Example:
    """A request that succeeds; `{name}` in texts stands for one of the ids that `Talk` has."""

    status: int = 200
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)


START = {
    "prompt": "hello",
    "modelId": "openai/echo",
    "chatId": "chat-1",
    "projectId": None,
    "taskId": "task-1",
    "requestId": "key-{nonce}",
}
CHAT = {
    "message": "hello",
    "conversationId": "{conversation_id}",
    "model": "openai/echo",
    "requestId": "key-{nonce}",
    "projectId": "{project_id}",
}
SAID = {
    "messages": [{"id": "said-1", "role": "user", "content": "hello", "timestamp": "2024-01-01T00:00:00Z"}],
    "model": "openai/echo",
    "chatId": "history-{nonce}",
    "systemPrompt": "Be brief.",
    "requestId": "key-{nonce}",
}
QUESTION = {
    "question": "hello",
    "model": "openai/echo",
    "search_mode": "all",
    "document_ids": [],
    "system_prompt": "Be brief.",
    "requestId": "key-{nonce}",
}
QUESTION_QUERY = {**QUESTION, "document_ids": "00000000-0000-4000-8000-000000000000"}
PROJECT = {"name": "Shop", "description": "", "instructions": "Be brief.", "schema": "orders(id)"}
AGAIN = {"modelId": "openai/echo", "requestId": "key-{nonce}"}
PAGE = {"page": "1", "page_size": "10"}
HISTORY = {**PAGE, "chatId": "{conversation_id}", "projectId": "{project_id}", "taskId": "task-1"}
EXPORT = {"format": "markdown", "reasoning": "true"}

# by method and rule; `test_every_route_has_an_example` says what is missing
EXAMPLES = {
    "POST /api/auth/register": Example(
        201, {"email": "new-{nonce}@example.org", "password": "correct horse battery", "name": "New", "invite": "x"}
    ),
    "POST /api/auth/login": Example(200, {"email": "{email}", "password": "correct horse battery"}),
    "POST /api/auth/refresh": Example(200),
    "POST /api/auth/logout": Example(204),
    "GET /api/auth/me": Example(200),
    "POST /api/invites": Example(201, {"email": "new-{nonce}@example.org", "plan": "PRO"}),
    "GET /api/invites": Example(200),
    "DELETE /api/invites/<uuid:invite_id>": Example(204),
    "GET /api/chat/conversations": Example(
        200, query={**PAGE, "q": "hello", "archived": "false", "project_id": "{project_id}"}
    ),
    "POST /api/chat/conversations": Example(201, {"title": "Talk", "key": "chat-2", "project_id": "{project_id}"}),
    "GET /api/chat/conversations/<uuid:conversation_id>": Example(200),
    "PATCH /api/chat/conversations/<uuid:conversation_id>": Example(
        200,
        {
            "title": "Talk",
            "pinned": True,
            "archived": False,
            "leaf_id": "{message_id}",
            "project_id": "{project_id}",
        },
    ),
    "DELETE /api/chat/conversations/<uuid:conversation_id>": Example(204),
    "POST /api/chat/conversations/<uuid:conversation_id>/messages": Example(201, {"content": "hello"}),
    "GET /api/chat/conversations/<uuid:conversation_id>/stream": Example(200),
    "POST /api/chat/conversations/<uuid:conversation_id>/stop": Example(200),
    "GET /chat/history": Example(200, query=HISTORY),
    "GET /api/chat/history": Example(200, query=HISTORY),
    "PUT /api/chat/messages/<uuid:message_id>/reaction": Example(200, {"reaction": "like", "note": "good"}),
    "DELETE /api/chat/messages/<uuid:message_id>/reaction": Example(204),
    "GET /api/chat/conversations/<uuid:conversation_id>/export": Example(200, query=EXPORT),
    "GET /api/chat/export": Example(200, query=EXPORT),
    "POST /chat/start": Example(201, START),
    "POST /api/chat/start": Example(201, START),
    "GET /chat/stream": Example(200, query={"sessionId": "{generation_id}"}),
    "GET /api/chat/stream": Example(200, query={"sessionId": "{generation_id}"}),
    "GET /api/generations/<uuid:generation_id>/events": Example(200),
    "POST /api/chat/messages/<uuid:message_id>/regenerate": Example(201, AGAIN),
    "POST /api/chat/messages/<uuid:message_id>/continue": Example(201, AGAIN),
    "PATCH /api/chat/messages/<uuid:message_id>": Example(201, {"content": "hello", **AGAIN}),
    "POST /ai/chat": Example(200, CHAT),
    "POST /api/ai/chat": Example(200, CHAT),
    "POST /api/v1/ai/chat": Example(200, CHAT),
    "POST /api/stream": Example(200, SAID),
    **{f"GET {prefix}/ai/chat/stream": Example(200, query=CHAT) for prefix in ("", "/api", "/api/v1")},
    **{f"POST {prefix}/chat/<session_id>/stream": Example(200, QUESTION) for prefix in ("", "/api")},
    **{f"GET {prefix}/chat/<session_id>/stream": Example(200, query=QUESTION_QUERY) for prefix in ("", "/api")},
    "GET /api/projects": Example(200, query={**PAGE, "archived": "false"}),
    "POST /api/projects": Example(201, PROJECT),
    "GET /api/projects/<uuid:project_id>": Example(200),
    "PATCH /api/projects/<uuid:project_id>": Example(200, {**PROJECT, "archived": False}),
    "DELETE /api/projects/<uuid:project_id>": Example(204),
    "GET /api/projects/<uuid:project_id>/members": Example(200),
    "POST /api/projects/<uuid:project_id>/members": Example(
        201, {"email": "{colleague_email}", "user_id": None, "role": "reader"}
    ),
    "PATCH /api/projects/<uuid:project_id>/members/<uuid:user_id>": Example(200, {"role": "owner"}),
    "DELETE /api/projects/<uuid:project_id>/members/<uuid:user_id>": Example(204),
    "POST /api/chat/conversations/<uuid:conversation_id>/typing": Example(204, {"isTyping": True}),
    "GET /api/models": Example(200),
    "GET /api/plans": Example(200),
    "POST /api/plans": Example(
        201, {"name": "plan-{nonce}", "models": {"ollama/llama3.2": True}, "tokens_per_day": 1000}
    ),
    "GET /api/plans/<plan_name>": Example(200),
    "PATCH /api/plans/<plan_name>": Example(200, {"models": {"ollama/llama3.2": None}, "tokens_per_day": 1000}),
    "DELETE /api/plans/<plan_name>": Example(204),
    "GET /api/users": Example(200, query={**PAGE, "q": "ada"}),
    "GET /api/users/<uuid:user_id>": Example(200),
    "PATCH /api/users/<uuid:user_id>": Example(200, {"name": "New", "role": "user", "plan": "PRO", "disabled": False}),
    "DELETE /api/users/<uuid:user_id>": Example(204),
    "GET /api/usage": Example(
        200,
        query={
            **PAGE,
            "from": "2026-01-01",
            "to": "2026-12-31",
            "user": "00000000-0000-4000-8000-000000000000",
            "model": "openai/echo",
            "group": "day,user,model",
        },
    ),
    "GET /api/usage/me": Example(200, query={**PAGE, "from": "2026-01-01", "to": "2026-12-31"}),
    "GET /metrics": Example(200),
    "GET /api/metrics": Example(200),
    "GET /health": Example(200),
    "GET /api/health": Example(200),
}
UNENDING = {"GET /api/events"}  # no request of it ends: it has tests of its own
FOR_ADMINS = re.compile(r" /api/(invites|plans|users|usage)(/(?!me$)|$)")
WATCHED = {route for route in EXAMPLES if route.endswith(("/metrics", "/health"))}  # by programs that do not sign in
# of the addresses of one view the longest: the others lead to the same schemas
DISTINCT = {re.sub(r" (/api)?(/v1)?", " ", route): route for route in sorted(EXAMPLES, key=len)}.values()
WITH_BODY = [route for route in DISTINCT if EXAMPLES[route].body is not None]
WITH_QUERY = [route for route in DISTINCT if EXAMPLES[route].query]
ASKING = [route for route in EXAMPLES if route.endswith(("/ai/chat/stream", "/<session_id>/stream"))]  # each asks anew
STREAMS = [
    route
    for route in EXAMPLES
    if route.startswith("GET ") and route.endswith(("/stream", "/events")) and route not in ASKING
]


@cache
def application() -> flask.Flask:
    """An application that serves nobody: its routes are looked at."""
    settings = Settings(data_dir=Path(tempfile.mkdtemp()), local_model="off")
    return create_app(settings.completed())


def routes() -> Iterator[str]:
    """Yield the API's routes: "METHOD rule"."""
    for rule in application().url_map.iter_rules():
        if rule.endpoint.split(".")[0] not in ("static", "pages", "docs", "api-docs"):
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield f"{method} {rule.rule}"


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    found: dict[str, Any] = application().test_client().get("/api/openapi.json").get_json()
    return found


def documented(rule: str) -> str:
    """Return a rule's path as the document has it."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def operation(route: str) -> dict[str, Any]:
    """Return what the document says of a route."""
    method, rule = route.split(" ")
    found: dict[str, Any] = document()["paths"][documented(rule)][method.lower()]
    return found


def shape(route: str) -> dict[str, Any]:
    """Return the schema of a route's body."""
    reference: str = operation(route)["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    found: dict[str, Any] = document()["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def parameters(route: str, place: str) -> set[str]:
    """Return the names of a route's parameters in "query" or "header"."""
    return {found["name"] for found in operation(route).get("parameters", ()) if found["in"] == place}


@dataclass(frozen=True)
class Talk:
    """A conversation of one user with a question and its answer, and the ids that routes ask for."""

    client: Client
    ids: Mapping[str, str]

    def request(self, route: str, client: Client | None = None, **options: Any) -> requests.Response:
        """Send the route's example as *client*, by default its owner; *options* replace `json`, `data`, `params`, ids."""
        example = EXAMPLES[route]
        method, rule = route.split(" ")
        ids = {**self.ids, **options.pop("ids", {})}
        if not {"json", "data"} & options.keys() and example.body is not None:
            options["json"] = filled(example.body, ids)
        options.setdefault("params", filled(example.query, ids))
        path = re.sub(r"<(?:uuid:)?(\w+)>", lambda match: ids[match[1]], rule)
        headers = {"Authorization": f"Bearer {self.client.refresh_token}"} if rule.endswith("/refresh") else {}
        return (client or self.client).request(
            method, path, headers={**headers, **options.pop("headers", {})}, allow_redirects=False, **options
        )


def filled(values: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    return {name: value.format(**ids) if isinstance(value, str) else value for name, value in values.items()}


def talk(client: Client, model: str = "openai/echo", *, ended: bool = True, nonce: str = "0", route: str = "") -> Talk:
    """Ask something new. `message_id` is the question, which can be edited and answered anew.

    For the *route* that goes on with an answer it is one that broke off, beside the other.
    """
    started = client.start("hello", model)
    if ended:
        wait_until(lambda: client.answer(started)["status"] != "running")
    message_id = started["messageId" if route.endswith("/reaction") else "userMessageId"]
    if route.endswith("/continue"):
        path = f"/api/chat/messages/{message_id}/regenerate"
        message_id = client.call("POST", path, {"modelId": "openai/length"}, 201)["messageId"]
        wait_until(lambda: client.answer({**started, "messageId": message_id})["status"] != "running")
    project_id = client.call("POST", "/api/projects", {"name": "Shop"}, 201)["id"]
    colleague = newcomer(client) if "/members" in route else client
    if route.startswith("DELETE "):
        client.request("POST", f"/api/projects/{project_id}/members", {"user_id": colleague.user["id"]})
    ids = {
        "project_id": project_id,
        "user_id": (colleague if route.startswith("DELETE ") else client).user["id"],
        "colleague_email": colleague.email,
        "session_id": f"session-{nonce}",
        "conversation_id": started["conversationId"],
        "generation_id": started["generationId"],
        "message_id": message_id,
        "invite_id": "00000000-0000-4000-8000-000000000000",
        "plan_name": "NONE",
        "email": client.email,
        "nonce": nonce,
    }
    return Talk(client, ids)


def for_admins(route: str) -> bool:
    return bool(FOR_ADMINS.search(route))


def made_for(route: str, admin: Client, new_user: Callable[[], Client] | None = None) -> dict[str, str]:
    """Return the ids that *route* asks for and only an admin can make; people are made by *new_user*."""
    ids = {}
    if "invite_id" in route:
        ids["invite_id"] = admin.call("POST", "/api/invites", {}, 201)["id"]
    if "user_id" in route and for_admins(route):
        ids["user_id"] = new_user().user["id"] if new_user else admin.call("GET", "/api/auth/me")["id"]
    if "plan_name" in route:
        ids["plan_name"] = f"plan-{uuid.uuid4().hex[:8]}"
        admin.call("POST", "/api/plans", {"name": ids["plan_name"]}, 201)
    return ids


def newcomer(client: Client) -> Client:
    """Return somebody else who is signed in to the same site."""
    other = Client(client.url)
    email = f"new-{uuid.uuid4().hex[:12]}@example.org"
    body = {"email": email, "password": "correct horse battery", "name": "New"}
    other.sign(other.call("POST", "/api/auth/register", body, 201))
    other.email = email
    return other


def check_error(response: requests.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Return the error in *response*, which must have *status* and exactly the contract's form."""
    assert response.status_code == status, f"{response.status_code} {response.text[:500]}"
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert error["code"] in ({code} if code else CODES[status])
    assert isinstance(error["message"], str)
    assert error["message"]
    if "fields" in error:
        assert error["code"] == "validation_error"
        assert all(isinstance(problem, str) for problem in problems(error["fields"])), error["fields"]
    assert not LEAKS.search(response.text), response.text[:500]
    return error


def problems(tree: Any) -> Iterator[Any]:
    """Yield the leaves of `fields`: name -> list of sentences, or deeper where shapes are nested."""
    if isinstance(tree, dict):
        assert all(isinstance(name, str) for name in tree)
        for branch in tree.values():
            yield from problems(branch)
    else:
        assert isinstance(tree, list)
        assert tree
        yield from tree


def tables(site: Site) -> dict[str, Counter[str]]:
    """Return all rows of the site's database, by table, but for the leases, which processes renew by themselves."""
    file = Path(site.environ["CHATAPP_DATA_DIR"]) / "chatapp.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        names.remove("log_owners")
        return {name: Counter(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for name in names}


def changed(before: dict[str, Counter[str]], after: dict[str, Counter[str]]) -> dict[str, list[str]]:
    """Return the rows that came, went or changed, by table."""
    names = before.keys() | after.keys()
    changes = {name: [*(after[name] - before[name]), *(before[name] - after[name])] for name in names}
    return {name: rows for name, rows in changes.items() if rows}


def write(site: Site, statement: str, *values: Any) -> None:
    """Change the site's database behind its back, as time would."""
    file = Path(site.environ["CHATAPP_DATA_DIR"]) / "chatapp.db"
    with closing(sqlite3.connect(file, timeout=20)) as database, database:
        database.execute(statement, values)
