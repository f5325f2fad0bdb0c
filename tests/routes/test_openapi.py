"""The OpenAPI document: whole, and true of what the site does."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from chatapp.settings import ROOT
from tests.support import api
from tests.support.api import EXAMPLES, Talk, document, operation, talk
from tests.support.site import Client, Site

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
OPEN = {"POST /api/auth/register", "POST /api/auth/login", "GET /health", "GET /api/health"}
PROMISED = [  # what clients are told that there is
    "POST /api/auth/register",
    "POST /api/auth/login",
    "POST /api/auth/refresh",
    "POST /api/auth/logout",
    "GET /api/auth/me",
    "GET /api/generations/{generation_id}/events",
    "GET /api/models",
    "GET /api/chat/conversations",
    "POST /api/chat/conversations",
    "GET /api/chat/conversations/{conversation_id}",
    "PATCH /api/chat/conversations/{conversation_id}",
    "DELETE /api/chat/conversations/{conversation_id}",
    "GET /api/chat/conversations/{conversation_id}/stream",
    "POST /api/chat/conversations/{conversation_id}/stop",
    "POST /api/chat/messages/{message_id}/regenerate",
    "POST /api/chat/messages/{message_id}/continue",
    "PATCH /api/chat/messages/{message_id}",
    "POST /api/invites",
    "GET /api/invites",
    "DELETE /api/invites/{invite_id}",
    "GET /api/users",
    "PATCH /api/users/{user_id}",
    "GET /api/plans",
    "PATCH /api/plans/{plan_name}",
    "GET /api/usage",
    "GET /health",
    "GET /metrics",
    "GET /api/metrics",
    *(f"POST {prefix}/chat/start" for prefix in ("/api", "")),
    *(f"GET {prefix}/chat/stream" for prefix in ("/api", "")),
    *(f"GET {prefix}/chat/history" for prefix in ("/api", "")),
    "POST /api/v1/ai/chat",
    "POST /ai/chat",
    *(f"GET {prefix}/ai/chat/stream" for prefix in ("/api/v1", "/api", "")),
    *(f"{method} {prefix}/chat/{{session_id}}/stream" for method in ("GET", "POST") for prefix in ("/api", "")),
    "GET /api/projects",
    "POST /api/projects",
    *(f"{method} /api/projects/{{project_id}}" for method in ("GET", "PATCH", "DELETE")),
    *(f"{method} /api/projects/{{project_id}}/members" for method in ("GET", "POST")),
    *(f"{method} /api/projects/{{project_id}}/members/{{user_id}}" for method in ("PATCH", "DELETE")),
    *(f"GET {prefix}/ai/chat/stream" for prefix in ("/api/v1", "/api", "")),
    *(f"{method} {prefix}/chat/{{session_id}}/stream" for method in ("GET", "POST") for prefix in ("/api", "")),
    "POST /api/stream",
    "GET /api/events",
    "PUT /api/chat/messages/{message_id}/reaction",
    "DELETE /api/chat/messages/{message_id}/reaction",
    "GET /api/chat/conversations/{conversation_id}/export",
    "GET /api/chat/export",
    *(f"{method} /api/users/{{user_id}}" for method in ("GET", "PATCH")),
    "GET /api/users",
    "GET /api/plans",
    "GET /api/usage",
    "GET /health",
    "GET /metrics",
    "GET /api/metrics",
]


def told() -> set[str]:
    """Return the document's operations: "METHOD /path/{name}"."""
    return {
        f"{method.upper()} {path}" for path, item in document()["paths"].items() for method in item if method in METHODS
    }


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON tree."""
    if isinstance(tree, dict):
        yield tree
        for branch in tree.values():
            yield from walk(branch)
    elif isinstance(tree, list):
        for branch in tree:
            yield from walk(branch)


def resolved(reference: str) -> Any:
    found = document()
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def test_what_is_there_is_told_and_what_is_told_is_there() -> None:
    assert told() == {" ".join((route.split()[0], api.documented(route.split()[1]))) for route in api.routes()}
    assert set(PROMISED) <= told()


def test_the_document_is_whole() -> None:
    whole = document()
    assert whole["openapi"] == "3.0.3"
    assert whole["info"]["title"]
    assert whole["info"]["version"]
    for part in walk(whole):
        if isinstance(part.get("$ref"), str):
            assert resolved(part["$ref"])
            assert list(part) == ["$ref"]
        if "enum" in part:
            assert part["enum"]
    used = {part["$ref"] for part in walk(whole) if isinstance(part.get("$ref"), str)}
    defined = {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}
    assert defined - used <= {"#/components/schemas/PaginationMetadata"}  # which the library always adds


@pytest.mark.parametrize("route", EXAMPLES)
def test_an_operation_is_described(route: str) -> None:
    found = operation(route)
    assert found["summary"]
    assert len(found["tags"]) == 1
    assert all(re.fullmatch(r"[1-5][0-9][0-9]|default", status) for status in found["responses"])
    assert all("$ref" in answer or answer["description"] for answer in found["responses"].values())
    item = document()["paths"][api.documented(route.split()[1])]
    given = [*item.get("parameters", ()), *found.get("parameters", ())]
    assert max(Counter((one["in"], one["name"]) for one in given).values(), default=1) == 1
    in_path = {one["name"] for one in given if one["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", api.documented(route.split()[1])))
    assert all(one["required"] for one in given if one["in"] == "path")
    assert all("schema" in one for one in given)


@pytest.mark.parametrize("route", EXAMPLES)
def test_an_operations_errors_are_told(route: str) -> None:
    found, example = operation(route), EXAMPLES[route]
    responses = set(found["responses"])
    method = route.split()[0]
    assert str(example.status) in responses
    assert ("requestBody" in found) == (example.body is not None)
    if example.body is not None:
        assert {"400", "413", "415"} <= responses
    if example.query:
        assert "400" in responses
    if route not in OPEN:
        assert "401" in responses
        assert found.get("security") != []
        if method != "GET":
            assert "403" in responses  # the CSRF token
    else:
        assert found["security"] == []
    if "<" in route or "sessionId" in example.query or "chatId" in example.query:
        assert "404" in responses
    for status in responses - {"default", str(example.status), "204"}:
        answer = found["responses"][status]
        answer = resolved(answer["$ref"]) if "$ref" in answer else answer
        if route.endswith("/health"):  # says what is down, in its own form
            continue
        assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}, status


def test_each_cursor_is_explained() -> None:
    found = [part for part in walk(document()["paths"]) if part.get("name") == "lastEventId"]
    assert found
    assert all("Last-Event-ID" in parameter.get("description", "") for parameter in found)


def test_patterns_mean_the_same_to_everyone() -> None:
    patterns = [part["pattern"] for part in walk(document()) if isinstance(part.get("pattern"), str)]
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        assert pattern.startswith("^")
        assert "\\Z" not in pattern  # to others than Python: the letter Z
        assert "\\A" not in pattern


@pytest.fixture(scope="module")
def made(site: Site) -> Talk:
    return talk(site.new_user(), nonce="openapi")


@pytest.mark.parametrize("route", EXAMPLES)
def test_an_answer_is_as_it_is_told(site: Site, made: Talk, route: str) -> None:
    client = site.new_user() if "auth" in route else made.client
    ids = {}
    if api.for_admins(route):
        api.write(site, "UPDATE users SET role = 'admin' WHERE id = ?", client.user["id"])
        ids = api.made_for(route, client, site.new_user)
    one = talk(client, nonce=uuid.uuid4().hex, route=route)
    check_told(route, one.request(route, ids=ids))


def check_told(route: str, answer: requests.Response) -> None:
    shown = operation(route)["responses"][str(answer.status_code)]
    if answer.status_code == 204:
        assert not answer.content
        return
    kind = answer.headers["Content-Type"].split(";")[0]
    assert kind in shown["content"]
    if kind == "application/json":
        check(shown["content"][kind]["schema"], answer.json(), route)


def check(schema: dict[str, Any], value: Any, place: str) -> None:
    """Assert that *value* has the kind that *schema* tells: all its fields and no other."""
    if "anyOf" in schema:  # a nested shape, or null
        return None if value is None else check(schema["anyOf"][-1], value, place)
    if "$ref" in schema:
        return check(resolved(schema["$ref"]), value, place)
    if value is None:
        assert schema.get("nullable") or schema == {}, f"{place} is null"
        return None
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    assert isinstance(value, kinds[schema["type"]]), f"{place} is {value!r}"
    if schema["type"] == "array":
        for one in value:
            check(schema["items"], one, f"{place}[]")
    if schema.get("format") == "uuid":
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", value), place
    if schema.get("format") == "date-time":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value), place
    if "properties" in schema:
        assert set(value) <= set(schema["properties"]), f"{place}: {set(value) - set(schema['properties'])} is not told"
        for name, kind in schema["properties"].items():
            if name in value:
                check(kind, value[name], f"{place}.{name}")
    return None


def test_the_document_is_for_everyone(site: Site) -> None:
    answer = Client(site.url).request("GET", "/api/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == document()


def test_the_application_is_made_without_a_warning(tmp_path: Any) -> None:
    code = "import app; app.create_app().test_client().get('/api/openapi.json').get_json()['paths']"
    environ = {"PATH": "/usr/bin", "CHATAPP_DATA_DIR": str(tmp_path), "HOME": str(tmp_path)}
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (made.returncode, made.stderr) == (0, "")
