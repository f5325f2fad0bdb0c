"""Other sites' pages: those that are named may, others get no header at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from chatapp.errors import SettingsError
from chatapp.settings import Settings
from tests.support.site import Client, Site

FRIEND = "https://app.example.org"
FOREIGN = [
    "https://evil.example",
    "http://app.example.org",
    "https://app.example.org:8443",
    "https://app.example.org.evil.example",
    "https://xapp.example.org",
    "https://app.example.org/",
    "HTTPS://APP.EXAMPLE.ORG",
    "https://app.example.org https://evil.example",
    "null",
    "*",
    "",
]
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site]) -> Site:
    return new_site(CHATAPP_CORS_ORIGINS=f"{FRIEND}, http://localhost:3000")


@pytest.fixture(scope="module")
def ada(house: Site) -> Client:
    return house.new_user()


def granted(answer: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control-")}


def check_granted(answer: requests.Response, origin: str = FRIEND) -> None:
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("path", ["/api/chat/start", "/api/chat/1/stream", "/api/generations/x/events", "/nowhere"])
def test_a_preflight_is_answered_before_any_sign_in(house: Site, path: str) -> None:
    answer = requests.options(house.url + path, headers={"Origin": FRIEND, **PREFLIGHT}, timeout=90)
    assert (answer.status_code, answer.content) == (204, b"")
    check_granted(answer)
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
    assert allowed >= {"authorization", "content-type", "idempotency-key", "last-event-id", "x-csrf-token"}


def test_what_a_friend_asks_is_theirs_to_read_also_streams_and_errors(house: Site, ada: Client) -> None:
    for origin in (FRIEND, "http://localhost:3000"):
        check_granted(ada.request("GET", "/api/models", headers={"Origin": origin}), origin)
    headers = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}
    started = ada.call("POST", "/api/chat/start", {"prompt": "hello"}, 201, headers=headers)
    for path in (f"/api/chat/stream?sessionId={started['sessionId']}", "/api/chat/cors-1/stream?question=x"):
        for encoding in ("identity", "gzip"):
            answer = ada.request("GET", path, headers={**headers, "Accept-Encoding": encoding})
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            check_granted(answer)
            assert "data:" in answer.text
    for status, answer in (
        (401, Client(house.url).request("GET", "/api/models", headers=headers)),
        (404, ada.request("GET", "/nowhere", headers=headers)),
        (400, ada.request("POST", "/api/chat/start", {}, headers=headers)),
        (405, ada.request("PUT", "/api/models", headers=headers)),
    ):
        assert answer.status_code == status
        check_granted(answer)
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", FOREIGN)
def test_another_origin_gets_no_header_at_all(house: Site, ada: Client, origin: str) -> None:
    for answer in (
        ada.request("GET", "/api/models", headers={"Origin": origin}),
        ada.request("GET", "/nowhere", headers={"Origin": origin}),
        requests.options(f"{house.url}/api/chat/start", headers={"Origin": origin, **PREFLIGHT}, timeout=90),
    ):
        assert granted(answer) == {}
        assert "Origin" in answer.headers["Vary"]  # a cache must not give it a friend's answer


def test_without_an_origin_nothing_is_granted(ada: Client) -> None:
    assert granted(ada.request("GET", "/api/models")) == {}


def test_by_default_there_is_no_cors(site: Site) -> None:
    client = site.new_user()
    for origin in (FRIEND, site.url, *FOREIGN):
        assert granted(client.request("GET", "/api/models", headers={"Origin": origin})) == {}
        answer = requests.options(f"{site.url}/api/models", headers={"Origin": origin, **PREFLIGHT}, timeout=90)
        assert granted(answer) == {}


def test_a_friends_page_with_the_cookie_alone_still_needs_the_csrf_token(house: Site) -> None:
    ada = house.new_user()
    page = Client(house.url)
    page.call("POST", "/api/auth/login", {"email": ada.email, "password": "correct horse battery"})
    answer = page.request("POST", "/api/chat/start", {"prompt": "x"}, headers={"Origin": FRIEND})
    assert answer.status_code == 403
    # but may follow and begin streams by it, as an EventSource with credentials does
    headers = {"Origin": FRIEND, "Sec-Fetch-Site": "same-site"}
    assert page.request("GET", "/api/chat/cors-2/stream?question=x", headers=headers).status_code == 200
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-site"}
    assert page.request("GET", "/api/chat/cors-2/stream?question=y", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "value",
    ["*", "https://*.example.org", "null", "example.org", "https://a.example/path", "https://u:p@a.example", "ftp://a"],
)
def test_what_is_no_origin_stops_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="CHATAPP_CORS_ORIGINS"):
        Settings.load({"CHATAPP_CORS_ORIGINS": value}, dotenv=None)


def test_origins_are_kept_as_browsers_write_them(tmp_path: object) -> None:
    given = {"CHATAPP_CORS_ORIGINS": "HTTPS://A.example:443/, http://[::1]:3000", "CHATAPP_DATA_DIR": str(tmp_path)}
    assert Settings.load(given, dotenv=None).cors_origins == ("https://a.example", "http://[::1]:3000")
