"""Whatever is sent, the answer is the contract's: the right status and form, nothing stored, nobody else disturbed.

The requests are made from the routes that there are (`tests.support.api`), so that a new one cannot be forgotten.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from chatapp import sse
from tests.support import api
from tests.support.api import EXAMPLES, STREAMS, WITH_BODY, Talk, check_error, shape, tables, talk
from tests.support.site import Client, Site, wait_until

MIB = 1024 * 1024
OPTIONAL_BODY = [route for route in WITH_BODY if not shape(route).get("required")]
WITH_ID = [route for route in EXAMPLES if "<uuid:" in route]
PUBLIC = {"POST /api/auth/register", "POST /api/auth/login"}
SIGNED_IN = [route for route in EXAMPLES if route not in PUBLIC | api.WATCHED]


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site]) -> Iterator[Site]:
    """A site that nobody else uses; in the end the same process must still serve it."""
    site = new_site()
    before = [worker.pid for worker in site.workers()]
    yield site
    assert [worker.pid for worker in site.workers()] == before
    assert "Traceback" not in site.log(), site.log()[-4000:]


@pytest.fixture(scope="module")
def made(house: Site) -> Talk:
    """A conversation of the admin, with a question and an answer."""
    return talk(house.new_user("Root"))


@pytest.fixture
def unchanged(house: Site, made: Talk) -> Iterator[None]:
    """Nothing in the database may change in a test."""
    before = tables(house)
    yield
    assert not api.changed(before, tables(house))


def test_every_route_has_an_example_and_each_example_a_route() -> None:
    assert set(api.routes()) - api.UNENDING == set(EXAMPLES)
    assert set(api.routes()) >= api.UNENDING
    for route in WITH_BODY:
        body = EXAMPLES[route].body or {}
        assert set(shape(route)["properties"]) == set(body), route
    for route in EXAMPLES:
        assert api.parameters(route, "query") - {"lastEventId", "heartbeat"} == set(EXAMPLES[route].query), route


def test_every_example_is_taken(house: Site, made: Talk) -> None:
    for number, (route, example) in enumerate(EXAMPLES.items()):
        client = house.new_user() if route.startswith("POST /api/auth") else made.client
        one = talk(client, nonce=f"example-{number}", route=route)
        response = one.request(route, ids=api.made_for(route, client, house.new_user))
        assert response.status_code == example.status, f"{route}: {response.text[:500]}"


# Bodies

RUBBISH = {
    "cut off": b'{"%s":',
    "two values": b'{"%s": "x"} {}',
    "single quotes": b"{'%s': 'x'}",
    "a comment": b'{"%s": "x"} // x',
    "not UTF-8": b'{"%s": "\xff"}',
    "a lone surrogate": rb'{"%s": "\ud800"}',
    "NaN": b'{"%s": NaN}',
    "Infinity": b'{"%s": -Infinity}',
    "an integer of 5,000 digits": b'{"%s": ' + b"9" * 5000 + b"}",
    "a number too large for a float": b'{"%s": 1e999}',
    "lists nested deep": b'{"%s": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "objects nested deep": b'{"%s":' * 2 + b'{"a":' * 10_000 + b"1" + b"}" * 10_002,
    "a list": b"[]",
    "a list of objects": b'[{"%s": "x"}]',
    "a string": b'"%s"',
    "a number": b"1",
    "a boolean": b"true",
    "null": b"null",
    "a blank": b" ",
    "NUL": b"\0",
    "UTF-16": '{"%s": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"%s": 1}',
}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.usefixtures("unchanged")
def test_a_body_that_is_no_json_object_is_400(made: Talk, route: str) -> None:
    name = next(iter(shape(route)["properties"])).encode()
    for case, pattern in RUBBISH.items():
        response = made.request(route, data=pattern.replace(b"%s", name), headers=JSON)
        assert check_error(response, 400), case


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.usefixtures("unchanged")
def test_a_wrong_field_is_400_and_named(made: Talk, route: str) -> None:
    example = made.ids | {"nonce": "wrong"}
    body = api.filled(EXAMPLES[route].body or {}, example)
    for name, kind in shape(route)["properties"].items():
        for value in wrong_values(kind):
            error = check_error(made.request(route, json={**body, name: value}), 400)
            assert name in error["fields"], (name, repr(value)[:50])
            assert name in error["message"]


def wrong_values(kind: dict[str, Any]) -> list[Any]:
    """Return what a field of this OpenAPI kind must refuse."""
    if kind.get("type") == "object":
        return [[], ["x"], "x", 7, True, {"$ne": None}, {"a\0/b": True}, {"a/b": "maybe"}]
    values: list[Any] = [["x"], "a\0b", "x" * 100_000]
    values += [] if kind.get("type") == "array" else [[]]
    values += [] if {"type": "object"} in kind.get("oneOf", ()) else [{}, {"$ne": None}]
    if kind.get("type") == "integer":
        values += [-1, 10**30, 1.5, True, "x"]
        return values if kind.get("nullable") else [*values, None]
    values += [7, "maybe", 1.5] if kind.get("type") == "boolean" else [7, 1.5, True]
    values += ["x", "0" * 36] if kind.get("format") == "uuid" else []
    values += ["x", "@", "a@", "a b@example.org", "a@example.org\nb"] if kind.get("format") == "email" else []
    return values if kind.get("nullable") else [*values, None]


@pytest.mark.parametrize("route", [route for route in WITH_BODY if route not in OPTIONAL_BODY])
@pytest.mark.usefixtures("unchanged")
def test_a_missing_field_is_400_and_named(made: Talk, route: str) -> None:
    body = api.filled(EXAMPLES[route].body or {}, made.ids)
    for name in shape(route)["required"]:
        error = check_error(made.request(route, json={key: value for key, value in body.items() if key != name}), 400)
        assert list(error["fields"]) == [name]
    for nothing in (b"", b"{}"):
        error = check_error(made.request(route, data=nothing, headers=JSON), 400)
        assert set(error["fields"]) == set(shape(route)["required"])


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.usefixtures("unchanged")
def test_a_body_of_another_type_is_415(made: Talk, route: str) -> None:
    body = json.dumps(api.filled(EXAMPLES[route].body or {}, made.ids)).encode()
    for kind in (
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "x/y/z",
    ):
        check_error(made.request(route, data=body, headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.usefixtures("unchanged")
def test_a_body_past_a_mebibyte_is_413(made: Talk, route: str) -> None:
    big = b'{"%s": "' % next(iter(shape(route)["properties"])).encode() + b"x" * MIB + b'"}'
    assert "1 MiB" in check_error(made.request(route, data=big, headers=JSON), 413)["message"]
    check_error(made.request(route, data=iter([big[:1000], big[1000:]]), headers=JSON), 413)  # without a length
    check_error(made.request(route, data=b" " * (MIB - 1), headers=JSON), 400)


TEXT_FIELDS = {"prompt", "message", "content", "question"}


@pytest.mark.parametrize("route", [route for route in WITH_BODY if TEXT_FIELDS & set(EXAMPLES[route].body or ())])
def test_a_message_may_be_as_long_as_the_limit_and_no_longer(house: Site, made: Talk, route: str) -> None:
    [name] = TEXT_FIELDS & set(EXAMPLES[route].body or ())
    body = api.filled(EXAMPLES[route].body or {}, made.ids | {"nonce": uuid.uuid4().hex})
    before = tables(house)
    for text in ("x" * 32_001, "🦊" * 32_001, " " * 32_001, "", " \r\n\t\u2003"):
        error = check_error(made.request(route, json={**body, name: text}), 400)
        assert list(error["fields"]) == [name]
        assert "32000" in error["message"] or "empty" in error["message"]
    assert not api.changed(before, tables(house))
    assert made.request(route, json={**body, name: "🦊" * 32_000}).status_code == EXAMPLES[route].status
    settle(made.client)


def settle(client: Client) -> None:
    """Wait until no answer is being made for *client*."""
    path = "/api/chat/conversations?page_size=200"
    wait_until(lambda: not any(one["running"] for one in client.call("GET", path)["conversations"]))


KEYS = ["", " ", "a b", "é", "x" * 201, "a\n", "a\x7f"]


@pytest.mark.parametrize("route", [route for route in WITH_BODY if "requestId" in (EXAMPLES[route].body or {})])
@pytest.mark.usefixtures("unchanged")
def test_a_key_that_is_none_is_400(made: Talk, route: str) -> None:
    body = api.filled(EXAMPLES[route].body or {}, made.ids)
    for key in KEYS:
        check_error(made.request(route, json={**body, "requestId": key}), 400)
    for raw in (b"a b", "é".encode(), b"\xff", b"x" * 201, b"x,\ty", b""):
        error = check_error(made.request(route, headers={"Idempotency-Key": raw}), 400)
        assert list(error["fields"]) == ["Idempotency-Key"]


REFERENCES = ["", " ", "a b", "é", "🦊", "x" * 65, "a\n", "a/b", "../x", "%00", "a\u200b", "chat\u20111"]


@pytest.mark.usefixtures("unchanged")
def test_a_reference_that_is_none_is_400(made: Talk) -> None:
    for reference in REFERENCES:
        for route, name in (("POST /api/chat/start", "chatId"), ("POST /api/chat/conversations", "key")):
            body = api.filled(EXAMPLES[route].body or {}, made.ids)
            error = check_error(made.request(route, json={**body, name: reference}), 400)
            assert list(error["fields"]) == [name]
        check_error(made.request("GET /api/chat/history", params={"chatId": reference}), 400)


@pytest.mark.usefixtures("unchanged")
def test_a_model_that_is_not_there_is_400_and_named(made: Talk) -> None:
    for model in ("nonsense", "nobody/nothing", "openai/", "/", "openai", "\u2028", "{}", "'; --"):
        error = check_error(made.request("POST /api/chat/start", json={"prompt": "x", "modelId": model}), 400)
        assert list(error["fields"]) == ["modelId"]


# Addresses

NO_UUIDS = [
    "x",
    "0",
    "null",
    "-1",
    "%00",
    "..%2f..",
    "%2e%2e",
    "é",
    "🦊",
    "{%s}",
    "%sx",
    "urn:uuid:%s",
    "%s%%0a",
    "x" * 4000,
]


@pytest.mark.parametrize("route", WITH_ID)
@pytest.mark.usefixtures("unchanged")
def test_what_is_no_id_is_404(made: Talk, route: str) -> None:
    for text in NO_UUIDS:
        text = text.replace("%s", str(uuid.uuid4())).replace("%%", "%")
        ids = {name: text for name in made.ids if name.endswith("_id")}
        check_error(made.request(route, ids=ids), 404)
    unknown = {name: str(uuid.uuid4()) for name in made.ids if name.endswith("_id")}
    check_error(made.request(route, ids=unknown), 404)


def test_an_id_in_capitals_is_the_same(made: Talk) -> None:
    for route in (
        "GET /api/chat/conversations/<uuid:conversation_id>",
        "GET /api/chat/history",
        "GET /api/chat/stream",
    ):
        ids = {name: value.upper() for name, value in made.ids.items() if name.endswith("_id")}
        assert made.request(route, ids=ids).status_code == 200, route


DAYS = ["", "x", "today", "2026-02-30", "2026-13-01", "01.02.2026", "2026-01-01T00:00:00Z", "\0"]
NO_IDS = ["", "x", "0" * 31, "\0", str(uuid.uuid4()) + "x"]
TEXTS = ["", " \r\n\t", "\0"]
BAD_QUERIES = {
    "page": ["", "0", "-1", str(10**30), "9" * 5000, "x", "1.5", "1;2", "\0", "nan", "0x10", " "],
    "page_size": ["", "0", "-1", "201", str(10**30), "x", "\0"],
    "archived": ["", "maybe", "2", "\0"],
    "project_id": NO_IDS,
    "projectId": NO_IDS,
    "conversationId": NO_IDS,
    "document_ids": NO_IDS,
    "message": TEXTS,
    "question": TEXTS,
    "system_prompt": ["\0"],
    "search_mode": ["", "ALL", "nothing", "\0"],
    "requestId": KEYS,
    "q": ["\0", "x" * 201],
    "chatId": REFERENCES,
    "taskId": REFERENCES,
    "format": ["", "x", "JSON", "markdown ", "\0"],
    "reasoning": ["", "maybe", "2", "\0"],
    "from": DAYS,
    "to": DAYS,
    "user": ["", "x", "0" * 36, "\0"],
    "model": ["\0", "x" * 301],
    "group": ["", "x", "day,x", "day,day", ",", "\0"],
}


@pytest.mark.parametrize("route", [route for route in api.WITH_QUERY if route not in STREAMS])
@pytest.mark.usefixtures("unchanged")
def test_a_wrong_query_is_400_and_named(made: Talk, route: str) -> None:
    example = api.filled(EXAMPLES[route].query, made.ids)
    for name in example:
        for value in BAD_QUERIES[name]:
            error = check_error(made.request(route, params={**example, name: value}), 400)
            assert list(error["fields"]) == [name], value[:50]


@pytest.mark.parametrize("route", [route for route in STREAMS if EXAMPLES[route].query])
@pytest.mark.usefixtures("unchanged")
def test_a_session_that_is_none_is_refused(made: Talk, route: str) -> None:
    for session in ("", "\0", "x" * 65, "x" * 4000):
        check_error(made.request(route, params={"sessionId": session}), 400)
    for session in (
        "x",
        "0",
        str(uuid.uuid4()),
        made.ids["conversation_id"],
        "{" + made.ids["generation_id"] + "}",
        "é",
    ):
        check_error(made.request(route, params={"sessionId": session}), 404)
    check_error(made.request(route, params={}), 400)


@pytest.mark.parametrize("route", [route for route in api.WITH_QUERY if route not in STREAMS + api.ASKING])
@pytest.mark.usefixtures("unchanged")
def test_a_query_that_comes_twice_breaks_nothing(made: Talk, route: str) -> None:
    example = api.filled(EXAMPLES[route].query, made.ids)
    for name, value in example.items():
        for first, second in ((value, value), (value, "\0"), ("\0", value)):
            answer = made.request(
                route, params=[*((key, example[key]) for key in example), (name, first), (name, second)]
            )
            if answer.status_code != 200:
                check_error(answer, 400)


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.usefixtures("unchanged")
def test_of_a_field_that_comes_twice_the_last_one_counts_and_is_checked(made: Talk, route: str) -> None:
    body = json.dumps(api.filled(EXAMPLES[route].body or {}, made.ids | {"nonce": "twice"}))
    for name, kind in shape(route)["properties"].items():
        if kind.get("type") == "string":
            twice = f'{body[:-1]}, "{name}": {{}}}}'
            error = check_error(made.request(route, data=twice.encode(), headers=JSON), 400)
            assert name in error["fields"]


@pytest.mark.usefixtures("unchanged")
def test_odd_searches_find_nothing_and_break_nothing(made: Talk) -> None:
    for q in ("%%", "_", "\\", "'", '"', "' OR 1=1 --", "😀", "\u2028", "\ufffd", "*", "a AND", "NEAR(", "\r\n"):
        response = made.request("GET /api/chat/conversations", params={"q": q})
        assert (response.status_code, response.json()["total"]) == (200, 0), q
    raw = requests.get(
        f"{made.client.url}/api/chat/conversations?q=%ff%ed%a0%80", headers=made.client.http.headers, timeout=20
    )
    assert raw.status_code == 200


@pytest.mark.usefixtures("unchanged")
def test_another_method_is_405_and_told_which_there_are(made: Talk) -> None:
    allowed: dict[str, set[str]] = {}
    for route in EXAMPLES:
        method, rule = route.split(" ")
        allowed.setdefault(rule, {"OPTIONS"}).update({method, "HEAD"} if method == "GET" else {method})
    for rule, methods in allowed.items():
        path = api.re.sub(r"<(?:uuid:)?(\w+)>", lambda match: made.ids[match[1]], rule)
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - methods:
            response = made.client.request(method, path)
            check_error(response, 405)
            assert set(response.headers["Allow"].split(", ")) == methods


def test_an_unknown_address_is_404(made: Talk) -> None:
    for path in (
        "/api",
        "/api/",
        "/api/nothing",
        "/api/auth/me/",
        "/api/chat/conversations//",
        "/%00",
        "/api/..%2fstatic",
    ):
        for client in (made.client, Client(made.client.url)):
            check_error(client.request("GET", path, allow_redirects=False), 404)


def test_what_does_not_reach_the_application_is_told_in_the_same_form(made: Talk) -> None:
    client = made.client
    check_error(client.request("GET", "/api/chat/history?chatId=" + "x" * 9000), 414)
    check_error(client.request("GET", "/" + quote("🦊") * 1000), 414)
    check_error(client.request("GET", "/api/auth/me", headers={"X-Long": "x" * 9000}), 431)
    check_error(client.request("GET", "/api/auth/me", headers={f"X-{n}": "x" for n in range(200)}), 431)


RAW_REQUESTS = [
    b"\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nA\0B: x\r\n\r\n",
    b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
    b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nonsense\r\n\r\n",
]


def test_what_is_no_http_gets_an_answer_in_the_same_form(house: Site) -> None:
    for raw in RAW_REQUESTS:
        head, body = exchange(house.url, raw)
        assert head.split()[1] in (b"400", b"501"), raw
        assert json.loads(body)["error"]["code"] == "validation_error", raw


def exchange(url: str, raw: bytes) -> tuple[bytes, bytes]:
    """Send bytes, end the sending side, and return all that is answered: head and body."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answered = b""
        while data := connection.recv(65_536):
            answered += data
    head, _, body = answered.partition(b"\r\n\r\n")
    return head, body


def test_an_odd_host_breaks_nothing(house: Site, made: Talk) -> None:
    for host in ("", "[::1", "a b", 'evil"<>', "x" * 300, "é", "a:b:c", "[zz]", "127.0.0.1:99999"):
        for route in ("GET /api/auth/me", "GET /api/invites"):
            head, _ = exchange(
                house.url,
                f"GET {route.split()[1]} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n".encode()
                + f"Authorization: {made.client.http.headers['Authorization']}\r\n\r\n".encode(),
            )
            assert head.split()[1] in (b"200", b"400"), host


# Who is asking

GARBAGE = ["", " ", "x", "a.b.c", "...", "Bearer", "a b", "\u00ff", "eyJhbGciOiJub25lIn0.e30.", "null", "x" * 8000]


@pytest.mark.parametrize("route", SIGNED_IN)
@pytest.mark.usefixtures("unchanged")
def test_without_a_good_token_it_is_401(house: Site, made: Talk, route: str) -> None:
    nobody = Client(house.url)
    headers: list[dict[str, Any]] = [{"Authorization": f"Bearer {token}".encode("latin-1")} for token in GARBAGE]
    cookies = {"Cookie": "access_token_cookie=x; refresh_token_cookie=y", "X-CSRF-TOKEN": "x", "Authorization": None}
    headers += [cookies, {"Authorization": "Basic YTpi"}, {"Authorization": None}]
    token = made.client.http.headers["Authorization"]
    assert isinstance(token, str)
    swapped = token if route.endswith("/refresh") else f"Bearer {made.client.refresh_token}"
    bodies = {check_error(made.request(route, nobody, headers=each), 401)["message"] for each in headers}
    bodies.add(check_error(made.request(route, nobody, headers={"Authorization": swapped}), 401)["message"])
    assert len(bodies) == 1


def test_forged_tokens_are_401(made: Talk) -> None:
    head, claims, signature = str(made.client.http.headers["Authorization"]).removeprefix("Bearer ").split(".")
    heads = [
        '{"alg":"none","typ":"JWT"}',
        '{"alg":["HS256"]}',
        '{"alg":"HS256","kid":{}}',
        '{"alg":"HS256","crit":["x"]}',
    ]
    payloads = ["{}", "[]", "null", '{"exp":1e400}', '{"sub":[]}', '"\\ud800"', '{"sub":"\\ud800"}']
    odd = ["[" * 3000, "9" * 4400, ""]
    forged = [
        f"{head}.{claims}.",
        f"{head}.{claims}",
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"{head}.{claims}.{signature}.x",
        *(f"{base64(text)}.{claims}.{end}" for text in heads + odd for end in ("", signature)),
        *(f"{head}.{base64(text)}.{signature}" for text in payloads + odd),
    ]
    for token in forged:
        response = made.client.request("GET", "/api/auth/me", headers={"Authorization": f"Bearer {token}"})
        check_error(response, 401)


def base64(text: str) -> str:
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


# Cursors

CURSORS = [
    b"-1",
    b"1,2",
    b"1.",
    b"01",
    b"0",
    b"0.1",
    b"1e3",
    b"+1",
    b"0x1",
    b"\xd9\xa1",  # a digit, but not of ours
    "é🦊".encode(),
    b"\xff\xfe",
    b"x" * 6000,
    b"null",
    b"' OR 1=1 --",
    b"1.1.1",
    b"1.1000",
    b"9" * 5000,
]
BEYOND = [b"9" * 18, b"12345", b"12345.1"]


def frames(response: requests.Response) -> list[sse.Frame]:
    assert response.status_code == 200, f"{response.status_code} {response.text[:500]}"
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return sse.Parser().feed(response.content)


@pytest.fixture(scope="module")
def foreign(house: Site) -> str:
    """Somebody else's answer."""
    started, _ = house.new_user("Bob").ask("a secret of Bob's")
    generation_id: str = started["generationId"]
    return generation_id


@pytest.mark.parametrize("place", ["header", "query"])
@pytest.mark.parametrize("route", [route for route in STREAMS if route in api.DISTINCT])
def test_a_cursor_that_is_none_begins_at_the_beginning(made: Talk, foreign: str, route: str, place: str) -> None:
    strange = [foreign.encode(), f"{foreign.replace('-', '')}-2".encode(), f"{foreign}-2".encode()]
    one, whole = made, None
    for number, cursor in enumerate([*CURSORS, *BEYOND, *strange]):
        if number % 8 == 0:  # a session can be opened ten times
            one = talk(made.client)
            whole = frames(one.request(route))
        heard = frames(one.request(route, **placed(route, one, place, cursor)))
        assert "secret" not in "".join(frame.data for frame in heard)
        if cursor in BEYOND and route.endswith("/events"):
            assert (heard[0].event, json.loads(heard[0].data)["text"]) == ("reset", "hello")
        else:
            assert heard == whole, cursor[:50]


def placed(route: str, one: Talk, place: str, cursor: bytes) -> dict[str, Any]:
    """Return the options that send *cursor* as a header, or in the query."""
    if place == "header":
        return {"headers": {"Last-Event-ID": cursor}}
    return {"params": {**api.filled(EXAMPLES[route].query, one.ids), "lastEventId": cursor}}


@pytest.mark.parametrize("place", ["header", "query"])
def test_a_cursor_that_is_none_opens_a_session_anew(made: Talk, foreign: str, place: str) -> None:
    route, one = "GET /api/chat/stream", talk(made.client)
    own, other = (name.replace("-", "") for name in (one.ids["generation_id"], foreign))
    for cursor in (b"0", b"-1", b"x", b"999", b"9" * 18, f"{other}-1".encode(), f"{own}-1".encode()) + (
        b"rubbish",
    ) * 3:
        assert one.request(route, **placed(route, one, place, cursor)).status_code == 200
    check_error(one.request(route), 429)
    assert one.request(route, **placed(route, one, place, b"1")).status_code == 200  # who comes back may


RAW_CURSORS = [b"1\0", b"1\r2", b"1\n2", b"1\r\n 2", b"\x0b1", b"1\r\nLast-Event-ID: 2", b"x" * 8150, b"\x7f", b"\t"]


@pytest.mark.parametrize("route", STREAMS)
def test_a_cursor_that_is_no_header_is_refused_or_begins_again(made: Talk, route: str) -> None:
    one = talk(made.client)
    path = urlsplit(str(one.request(route).url))
    for cursor in RAW_CURSORS:
        head, body = exchange(
            made.client.url,
            f"GET {path.path}?{path.query} HTTP/1.1\r\nHost: x\r\n".encode()
            + f"Authorization: {made.client.http.headers['Authorization']}\r\n".encode()
            + b"Connection: close\r\nLast-Event-ID: "
            + cursor
            + b"\r\n\r\n",
        )
        assert head.split()[1] in (b"200", b"400", b"431"), (cursor[:20], head)
        assert b"Traceback" not in body


# The house stays whole


def test_after_many_errors_the_next_request_is_served(house: Site, made: Talk) -> None:
    empty = made.client.call("POST", "/api/chat/conversations", {}, 201)["id"]
    unknown = {name: str(uuid.uuid4()) for name in made.ids if name.endswith("_id")}

    def fail(number: int) -> int:
        route, options = [
            ("GET /api/chat/conversations/<uuid:conversation_id>", {"ids": unknown}),
            ("POST /api/chat/start", {"json": {"prompt": ""}}),
            ("GET /api/chat/conversations/<uuid:conversation_id>/stream", {"ids": {"conversation_id": empty}}),
            ("PATCH /api/chat/conversations/<uuid:conversation_id>", {"json": {"leaf_id": str(uuid.uuid4())}}),
            ("GET /api/generations/<uuid:generation_id>/events", {"ids": unknown}),
        ][number % 5]
        client = Client(house.url)
        client.http.headers.update(made.client.http.headers)
        return made.request(route, client, **options).status_code  # type: ignore[arg-type]

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(fail, range(50))) == [404, 400, 409, 400, 404] * 10
    with ThreadPoolExecutor(20) as pool:  # more than there are connections
        answers = list(pool.map(lambda n: talk(made.client).request("GET /api/auth/me").status_code, range(20)))
    assert answers == [200] * 20


def test_who_waits_for_an_answer_holds_no_connection(house: Site, made: Talk) -> None:
    body = {"message": "count", "model": "openai/count-5000,delay=0.02", "requestId": uuid.uuid4().hex}
    started = made.client.start("count", body["model"], requestId=body["requestId"])
    with ThreadPoolExecutor(15) as pool:  # more than there are connections

        def wait(number: int) -> Any:
            client = Client(house.url)
            client.http.headers.update(made.client.http.headers)
            return client.call("POST", "/api/ai/chat", body)["message"]["id"]

        waiting = [pool.submit(wait, number) for number in range(15)]
        opened = f":{house.port}"
        [worker] = house.workers()
        wait_until(lambda: sum(c.status == "ESTABLISHED" for c in worker.net_connections()) > 15, what=opened)
        for _ in range(20):
            assert made.client.request("GET", "/api/auth/me", timeout=8).status_code == 200
        assert not any(one.done() for one in waiting)
        made.client.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
        assert {one.result(30) for one in waiting} == {started["messageId"]}


ENDS = {
    "status-500": 502,
    "status-401": 502,
    "status-429": 429,
    "context-too-long": 413,
    "close-before-headers": 502,
    "no-end-after-0": 502,
    "status-404": 404,
}


@pytest.mark.parametrize(("model", "status"), ENDS.items())
def test_an_answer_that_failed_before_its_first_word_is_an_error(made: Talk, model: str, status: int) -> None:
    response = made.client.request("POST", "/api/v1/ai/chat", {"message": "x", "model": f"openai/{model}"})
    check_error(response, status)
    assert ("Retry-After" in response.headers) == (status == 429)
