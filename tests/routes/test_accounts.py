"""Signing up, in and out, as people and attackers do it."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import Cookie
from pathlib import Path
from threading import Thread
from typing import Any

import gevent
import pytest
import requests
from requests.adapters import HTTPAdapter
from werkzeug.security import check_password_hash, generate_password_hash

from chatapp.database import session_of
from chatapp.models import accounts as tables_of
from chatapp.models.accounts import BUILT_IN_EMAIL, User
from chatapp.services import accounts
from tests.support import api, world
from tests.support.api import EXAMPLES, check_error, talk, write
from tests.support.site import PASSWORD, Client, Site

SIGNING_IN = {"POST /api/auth/register", "POST /api/auth/login"}
UNSAFE = [route for route in EXAMPLES if not route.startswith("GET ") and route not in SIGNING_IN]


class FromAddress(HTTPAdapter):
    """Connects from an address of its own in 127/8: who fails at it disturbs no other test."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **options)


def client_from(site: Site, address: str) -> Client:
    client = Client(site.url)
    client.http.mount("http://", FromAddress(address))
    return client


def new_email() -> str:
    return f"{uuid.uuid4().hex[:12]}@example.org"


def registration(**values: Any) -> dict[str, Any]:
    return {"email": new_email(), "password": PASSWORD, **values}


def at_once(number: int, call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(call, range(number)))


def cookie(client: Client, name: str) -> Cookie:
    return next(cookie for cookie in client.http.cookies if cookie.name == name)


def value(client: Client, name: str) -> str:
    return cookie(client, name).value or ""


# Who may join


@pytest.fixture(scope="module")
def first_ones(new_site: Callable[..., Site]) -> tuple[Site, list[tuple[Client, requests.Response]]]:
    """A site that takes invited people only, and six who came first, all at once."""
    site = new_site(CHATAPP_REGISTRATION="invite")
    clients = [Client(site.url) for _ in range(6)]
    answers = at_once(6, lambda n: clients[n].request("POST", "/api/auth/register", registration()))
    return site, list(zip(clients, answers, strict=True))


@pytest.fixture(scope="module")
def club(first_ones: tuple[Site, list[tuple[Client, requests.Response]]]) -> Site:
    return first_ones[0]


@pytest.fixture(scope="module")
def admin(first_ones: tuple[Site, list[tuple[Client, requests.Response]]]) -> Client:
    [(client, answer)] = [(client, answer) for client, answer in first_ones[1] if answer.status_code == 201]
    client.sign(answer.json())
    return client


def test_of_all_who_come_first_one_is_the_admin(
    first_ones: tuple[Site, list[tuple[Client, requests.Response]]], admin: Client
) -> None:
    site, answers = first_ones
    refused = [answer for _, answer in answers if answer.status_code != 201]
    assert [check_error(answer, 403)["code"] for answer in refused] == ["forbidden"] * 5
    assert admin.user["role"] == "admin"
    assert sum(api.tables(site)["users"].values()) == 1


def invited(admin: Client, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = admin.call("POST", "/api/invites", body, 201)
    return made


def test_an_invite_admits_once(club: Site, admin: Client) -> None:
    made = invited(admin)
    assert made["url"] == f"{club.url}/sign-up?invite={made['token']}"
    body = registration(invite=made["token"], name="Guest")
    joined = Client(club.url).call("POST", "/api/auth/register", body, 201)
    assert (joined["user"]["role"], joined["user"]["name"]) == ("user", "Guest")
    again = registration(invite=made["token"])
    check_error(Client(club.url).request("POST", "/api/auth/register", again), 403)


def test_an_invite_used_by_many_at_once_admits_one(club: Site, admin: Client) -> None:
    token = invited(admin)["token"]
    answers = at_once(5, lambda n: Client(club.url).request("POST", "/api/auth/register", registration(invite=token)))
    assert sorted(answer.status_code for answer in answers) == [201, 403, 403, 403, 403]


def test_an_invite_to_an_address_admits_that_address(club: Site, admin: Client) -> None:
    email = new_email()
    token = invited(admin, email=email.upper())["token"]
    check_error(Client(club.url).request("POST", "/api/auth/register", registration(invite=token)), 403)
    body = registration(invite=token, email=f" {email.title()} ")
    assert Client(club.url).call("POST", "/api/auth/register", body, 201)["user"]["email"] == email


def test_an_invite_that_expired_or_was_withdrawn_or_invented_admits_nobody(club: Site, admin: Client) -> None:
    withdrawn, expired = invited(admin), invited(admin)
    admin.call("DELETE", f"/api/invites/{withdrawn['id']}", status=204)
    check_error(admin.request("DELETE", f"/api/invites/{withdrawn['id']}"), 404)
    write(club, "UPDATE invites SET expires_at = '2020-01-01 00:00:00.000000' WHERE id = ?", expired["id"])
    before = api.tables(club)
    messages = set()
    for token in (withdrawn["token"], expired["token"], expired["id"], "", "x", "🦊", None):
        answer = Client(club.url).request("POST", "/api/auth/register", registration(invite=token))
        messages.add(check_error(answer, 403)["message"])
    assert len(messages) == 1
    assert not api.changed(before, api.tables(club))


def test_who_has_an_account_already_is_not_told_so_without_an_invite(club: Site, admin: Client) -> None:
    email = admin.user["email"]
    check_error(Client(club.url).request("POST", "/api/auth/register", registration(email=email)), 403)
    token = invited(admin)["token"]
    check_error(Client(club.url).request("POST", "/api/auth/register", registration(email=email, invite=token)), 409)
    Client(club.url).call("POST", "/api/auth/register", registration(invite=token), 201)  # it is not used up


def test_invites_are_for_admins_and_their_tokens_are_shown_once(club: Site, admin: Client) -> None:
    made = invited(admin, email=new_email())
    listed = admin.call("GET", "/api/invites")["invites"]
    assert next(one for one in listed if one["id"] == made["id"]) == {
        name: made[name] for name in ("id", "email", "plan", "created_at", "expires_at")
    }
    assert made["token"] not in str(api.tables(club))
    member = Client(club.url)
    member.sign(member.call("POST", "/api/auth/register", registration(invite=made["token"], email=made["email"]), 201))
    other = invited(admin)
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{other['id']}"), ("DELETE", f"/{uuid.uuid4()}")):
        check_error(member.request(method, f"/api/invites{path}", {} if method == "POST" else None), 403)
    assert other["id"] in str(admin.call("GET", "/api/invites"))


@pytest.fixture(scope="module")
def closed(new_site: Callable[..., Site]) -> Site:
    return new_site(CHATAPP_REGISTRATION="closed", CHATAPP_COOKIE_SECURE="on")


def test_a_closed_site_takes_the_first_and_nobody_else(closed: Site) -> None:
    root = closed.new_user("Root")
    token = invited(root)["token"]
    for body in (registration(), registration(invite=token), registration(email=root.email)):
        error = check_error(Client(closed.url).request("POST", "/api/auth/register", body), 403)
        assert "no new accounts" in error["message"]


def test_behind_https_cookies_travel_over_https_only(closed: Site) -> None:
    write(closed, "DELETE FROM users")
    client = Client(closed.url)
    client.call("POST", "/api/auth/register", registration(), 201)
    assert len(list(client.http.cookies)) == 4
    assert all(cookie.secure for cookie in client.http.cookies)


def test_many_registrations_of_one_address_make_one_account(site: Site) -> None:
    email = new_email()
    spellings = [email, email.upper(), f" {email}", email.title()] * 2
    answers = at_once(
        8, lambda n: Client(site.url).request("POST", "/api/auth/register", registration(email=spellings[n]))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert sum(email in row for row in api.tables(site)["users"]) == 1


def test_the_sites_own_address_is_nobodys(site: Site) -> None:
    for email in (BUILT_IN_EMAIL, BUILT_IN_EMAIL.upper()):
        check_error(Client(site.url).request("POST", "/api/auth/register", registration(email=email)), 400)


def test_who_ran_the_site_without_sign_in_still_becomes_the_admin(tmp_path: Path) -> None:
    made = world.make(tmp_path)
    with session_of(made.engine, writes=True) as session:
        assert not tables_of.is_empty(session)
        session.get_one(User, made.user_id).email = BUILT_IN_EMAIL
        session.flush()
        assert tables_of.is_empty(session)
    made.close()


def test_a_name_may_be_left_out(site: Site) -> None:
    body = Client(site.url).call("POST", "/api/auth/register", registration(email=new_email()), 201)
    assert body["user"]["name"] == body["user"]["email"].partition("@")[0]
    assert set(body) == {"access_token", "refresh_token", "user"}
    assert set(body["user"]) == {"id", "email", "name", "role", "created_at"}


def test_no_password_is_kept(site: Site, ada: Client) -> None:
    assert PASSWORD not in str(api.tables(site))
    assert PASSWORD not in site.log()


# Signing in


def login(client: Client, email: str, password: str = PASSWORD) -> requests.Response:
    return client.request("POST", "/api/auth/login", {"email": email, "password": password})


def test_signing_in_gives_tokens_and_cookies(site: Site, ada: Client) -> None:
    client = Client(site.url)
    body = login(client, f" {ada.email.upper()} ").json()
    assert set(body) == {"access_token", "refresh_token", "user"}
    assert body["user"] == ada.user == client.call("GET", "/api/auth/me")  # by cookie
    client.sign(body)
    assert client.call("GET", "/api/auth/me") == ada.user  # by Bearer


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(site: Site, ada: Client) -> None:
    client = Client(site.url)
    login(client, ada.email)
    found = {cookie.name: cookie for cookie in client.http.cookies}
    for name, path, hidden in (
        ("access_token_cookie", "/", True),
        ("refresh_token_cookie", "/api/auth", True),
        ("csrf_access_token", "/", False),
        ("csrf_refresh_token", "/", False),
    ):
        one = found.pop(name)
        assert one.path == path
        assert one.has_nonstandard_attr("HttpOnly") == hidden
        assert one.get_nonstandard_attr("SameSite") == "Lax"
        assert not one.secure
        assert one.expires
    assert not found


@pytest.fixture(scope="module")
def browser(site: Site) -> tuple[Client, Client]:
    """Somebody, and their browser."""
    site.new_user("Root")  # the first one is an admin
    owner, browser = site.new_user(), Client(site.url)
    login(browser, owner.email)
    return owner, browser


@pytest.mark.parametrize("route", sorted(UNSAFE, key=lambda route: route.endswith("/logout")))
def test_what_changes_something_by_cookie_needs_the_csrf_token(
    site: Site, browser: tuple[Client, Client], route: str
) -> None:
    owner, page = browser
    one = talk(owner, nonce=uuid.uuid4().hex, route=route)
    refreshing = route.endswith("/refresh")
    other = value(page, "csrf_access_token" if refreshing else "csrf_refresh_token")
    before = api.tables(site)["conversations"], api.tables(site)["messages"]
    for token in (None, "", "x", "é".encode(), other):
        headers = {"Authorization": None, "X-CSRF-TOKEN": token}
        check_error(one.request(route, page, headers=headers), 403, "forbidden")
    assert (api.tables(site)["conversations"], api.tables(site)["messages"]) == before
    right = value(page, "csrf_refresh_token" if refreshing else "csrf_access_token")
    answer = one.request(route, page, headers={"Authorization": None, "X-CSRF-TOKEN": right})
    assert answer.status_code == (EXAMPLES[route].status if not api.for_admins(route) else 403)


def test_a_get_by_cookie_needs_no_csrf_token(site: Site, ada: Client) -> None:
    browser = Client(site.url)
    login(browser, ada.email)
    started = ada.start("hello")
    assert browser.request("GET", "/api/chat/conversations").status_code == 200
    assert browser.request("GET", f"/api/generations/{started['generationId']}/events").status_code == 200


def test_another_sites_page_may_not_begin_an_answer(ada: Client) -> None:
    one = ada.call("POST", "/api/chat/conversations", {}, 201)
    path = f"/api/chat/conversations/{one['id']}"
    ada.call("POST", f"{path}/messages", {"content": "hello"}, 201)
    page = Client(ada.url)  # where her browser sends her cookie along, and no header of hers
    page.http.cookies.set("access_token_cookie", str(ada.http.headers["Authorization"]).removeprefix("Bearer "))
    for where in ("cross-site", "same-site"):
        check_error(page.request("GET", f"{path}/stream", headers={"Sec-Fetch-Site": where}), 403)
        assert len(ada.call("GET", path)["messages"]) == 1
    assert ada.request("GET", f"{path}/stream", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


# Renewing and ending


def refreshed(client: Client, token: str) -> requests.Response:
    return client.request("POST", "/api/auth/refresh", headers={"Authorization": f"Bearer {token}"})


def is_good(client: Client, token: str) -> bool:
    answer = client.request("GET", "/api/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def test_a_sign_in_is_renewed_by_its_refresh_token(ada: Client) -> None:
    body = refreshed(ada, ada.refresh_token).json()
    assert body["user"] == ada.user
    assert is_good(ada, body["access_token"])
    assert body["refresh_token"] != ada.refresh_token
    assert refreshed(ada, body["refresh_token"]).status_code == 200


def test_two_tabs_may_renew_at_once(ada: Client) -> None:
    answers = at_once(4, lambda n: refreshed(Client(ada.url), ada.refresh_token))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(is_good(ada, answer.json()["access_token"]) for answer in answers)
    assert all(refreshed(ada, answer.json()["refresh_token"]).status_code == 200 for answer in answers)


def test_a_refresh_token_that_was_spent_long_ago_ends_the_sign_in(site: Site, ada: Client) -> None:
    second = refreshed(ada, ada.refresh_token).json()
    third = refreshed(ada, second["refresh_token"]).json()
    other = login(Client(site.url), ada.email).json()
    check_error(refreshed(ada, ada.refresh_token), 401)
    assert not is_good(ada, third["access_token"])
    check_error(refreshed(ada, third["refresh_token"]), 401)
    assert is_good(ada, other["access_token"])  # another device is another sign-in


def test_a_refresh_token_that_was_just_spent_is_good_for_seconds_only(site: Site, ada: Client) -> None:
    second = refreshed(ada, ada.refresh_token).json()
    write(
        site,
        "UPDATE sign_ins SET rotated_at = '2020-01-01 00:00:00.000000' WHERE user_id = ? AND rotated_at IS NOT NULL",
        ada.user["id"],
    )
    check_error(refreshed(ada, ada.refresh_token), 401)
    assert not is_good(ada, second["access_token"])


def test_a_sign_in_ends_some_day(site: Site, ada: Client) -> None:
    write(site, "UPDATE sign_ins SET expires_at = '2020-01-01 00:00:00.000000' WHERE user_id = ?", ada.user["id"])
    check_error(refreshed(ada, ada.refresh_token), 401)


def test_an_access_token_renews_nothing_and_a_refresh_token_opens_nothing(ada: Client) -> None:
    access = str(ada.http.headers["Authorization"]).removeprefix("Bearer ")
    check_error(refreshed(ada, access), 401)
    assert not is_good(ada, ada.refresh_token)
    assert is_good(ada, access)


def test_a_browser_renews_by_its_cookies(site: Site, ada: Client) -> None:
    browser = Client(site.url)
    login(browser, ada.email)
    before = {cookie.name: cookie.value for cookie in browser.http.cookies}
    csrf = {"X-CSRF-TOKEN": value(browser, "csrf_refresh_token")}
    assert browser.request("POST", "/api/auth/refresh", headers=csrf).status_code == 200
    after = {cookie.name: cookie.value for cookie in browser.http.cookies}
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert browser.call("GET", "/api/auth/me") == ada.user


def test_signing_out_voids_all_tokens_of_that_sign_in_at_once(site: Site, ada: Client) -> None:
    browser, other = Client(site.url), Client(site.url)
    body = login(browser, ada.email).json()
    other.sign(login(other, ada.email).json())
    renewed = refreshed(Client(site.url), body["refresh_token"]).json()
    csrf = {"X-CSRF-TOKEN": value(browser, "csrf_access_token")}
    assert browser.request("POST", "/api/auth/logout", headers=csrf).status_code == 204
    assert not list(browser.http.cookies)
    for tokens in (body, renewed):
        assert not is_good(browser, tokens["access_token"])
        check_error(refreshed(browser, tokens["refresh_token"]), 401)
    assert other.call("GET", "/api/auth/me") == ada.user
    check_error(browser.request("POST", "/api/auth/logout"), 401)


def test_who_is_locked_out_can_neither_read_nor_sign_in(site: Site, ada: Client) -> None:
    write(site, "UPDATE users SET disabled_at = '2020-01-01 00:00:00.000000' WHERE id = ?", ada.user["id"])
    check_error(ada.request("GET", "/api/auth/me"), 401)
    check_error(refreshed(ada, ada.refresh_token), 401)
    locked = login(client_from(site, "127.0.1.1"), ada.email)
    unknown = login(client_from(site, "127.0.1.1"), new_email())
    assert (locked.status_code, locked.json()) == (unknown.status_code, unknown.json())


# Guessing


def test_a_wrong_password_and_an_unknown_address_answer_alike(site: Site, ada: Client) -> None:
    guesser = client_from(site, "127.0.1.2")
    wrong, unknown = login(guesser, ada.email, "wrong password"), login(guesser, new_email(), "wrong password")
    check_error(wrong, 401)
    assert wrong.json() == unknown.json()
    assert list(wrong.headers) == list(unknown.headers)
    assert "Set-Cookie" not in wrong.headers


def test_for_an_unknown_address_the_same_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    scrypt = hashlib.scrypt

    def recorded(password: bytes, **options: Any) -> bytes:
        asked.append({name: given for name, given in options.items() if name != "salt"})
        return scrypt(password, **options)

    monkeypatch.setattr(hashlib, "scrypt", recorded)
    real = generate_password_hash(PASSWORD, accounts.HASH_METHOD)
    assert check_password_hash(real, PASSWORD)
    assert not check_password_hash(accounts.DUMMY_HASH, PASSWORD)
    assert asked == [asked[0]] * 3
    assert len(accounts.DUMMY_HASH.split("$")[2]) == len(real.split("$")[2])


def test_failures_in_a_row_are_slowed_and_a_success_forgives(site: Site, ada: Client) -> None:
    guesser = client_from(site, "127.0.1.3")
    left = [login(guesser, ada.email, "wrong").json()["error"]["tries_left"] for _ in range(4)]
    assert left == [4, 3, 2, 1]
    assert login(guesser, ada.email).status_code == 200
    left = [login(guesser, ada.email.upper(), "wrong").json()["error"]["tries_left"] for _ in range(5)]
    assert left == [4, 3, 2, 1, 0]
    for password in ("wrong", PASSWORD):  # or the wait would tell which one is right
        slowed = login(client_from(site, "127.0.1.4"), ada.email, password)
        check_error(slowed, 429, "rate_limited")
        assert 1 <= int(slowed.headers["Retry-After"]) <= 3
    assert ada.request("GET", "/api/auth/me").status_code == 200  # who is signed in already is not disturbed


def test_guesses_made_at_once_find_out_no_more_than_guesses_in_a_row(site: Site, ada: Client) -> None:
    passwords = ["wrong"] * 11 + [PASSWORD]
    begun = time.monotonic()
    answers = at_once(12, lambda n: login(client_from(site, f"127.0.2.{n + 1}"), ada.email, passwords[n]))
    later = int(time.monotonic() - begun)  # on a slow machine the last ones come when another guess is allowed
    assert sum(answer.status_code != 429 for answer in answers) <= min(6 + later, 11)


def test_who_guesses_at_many_accounts_is_slowed_too(site: Site, ada: Client) -> None:
    guesser = client_from(site, "127.0.1.5")
    assert login(guesser, new_email(), "wrong").status_code == 401
    write(site, "UPDATE sign_in_attempts SET failures = failures + 17 WHERE key = 'address:127.0.1.5'")
    answers = at_once(2, lambda n: login(client_from(site, "127.0.1.5"), new_email(), "wrong"))
    assert {answer.status_code for answer in answers} == {401}
    slowed = login(guesser, ada.email)
    check_error(slowed, 429, "rate_limited")
    assert int(slowed.headers["Retry-After"]) >= 1
    assert login(client_from(site, "127.0.1.6"), ada.email).status_code == 200


# Hashing beside the event loop


def test_while_a_password_is_hashed_other_greenlets_run() -> None:
    happened: list[str] = []

    def tick() -> None:
        while "done" not in happened:
            happened.append("tick")
            gevent.sleep(0.001)

    ticking = gevent.spawn(tick)
    with api.application().app_context():
        accounts.hash_password(PASSWORD)
    happened.append("done")
    ticking.join()
    assert happened.count("tick") > 3


def test_while_many_sign_in_a_stream_goes_on(site: Site, ada: Client) -> None:
    started = ada.start("count", "openai/count-9000,delay=0.004")
    happened: list[str] = []

    def read() -> None:
        path = f"{ada.url}/api/generations/{started['generationId']}/events"
        with ada.http.get(path, stream=True, timeout=60) as response:
            while response.raw.read1(65_536):
                happened.append("read")

    reading = Thread(target=read)
    reading.start()
    while not happened:
        gevent.sleep(0.005)
    begun = len(happened)
    answers = at_once(8, lambda n: (login(Client(site.url), ada.email).status_code, happened.append("login")))
    heard = happened[begun : len(happened) - happened[::-1].index("login")]
    assert [status for status, _ in answers] == [200] * 8
    # on the event loop each would hold up all reads, so that about one would come between two of them
    assert heard.count("read") > 2 * heard.count("login")
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
    reading.join(20)


# Without sign-in


@pytest.fixture(scope="module")
def mine(new_site: Callable[..., Site]) -> Iterator[Site]:
    """A site for one person on their own machine."""
    site = new_site(CHATAPP_AUTH="off")
    yield site
    assert "Traceback" not in site.log()


def test_without_sign_in_all_belongs_to_the_one_person(mine: Site) -> None:
    everyone = {str(answer) for answer in at_once(8, lambda n: Client(mine.url).call("GET", "/api/auth/me"))}
    assert len(everyone) == 1
    me = Client(mine.url).call("GET", "/api/auth/me")
    assert (me["email"], me["role"]) == (BUILT_IN_EMAIL, "admin")
    started, frames = Client(mine.url).ask("hello")
    assert frames[-1].event == "done"
    [row] = api.tables(mine)["conversations"]
    assert me["id"] in row
    assert started["conversationId"] in row


def test_without_sign_in_every_route_works_but_those_of_signing_in(mine: Site) -> None:
    client = Client(mine.url)
    client.user = client.call("GET", "/api/auth/me")
    for number, (route, example) in enumerate(EXAMPLES.items()):
        if "/members" in route:
            continue  # there is nobody else
        one = talk(client, nonce=f"mine-{number}", route=route)
        answer = one.request(route, ids={"email": "me@example.org", **api.made_for(route, client)})
        is_person = "user_id" in route and not route.startswith("GET ")  # the site's one stays who they are
        if is_person or route.endswith(("/register", "/login", "/refresh")):
            check_error(answer, 409)
        else:
            assert answer.status_code == example.status, f"{route}: {answer.text[:300]}"


def test_without_sign_in_the_site_answers_its_own_pages_only(mine: Site) -> None:
    client = Client(mine.url)
    port = mine.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "10.0.0.1", "[::1", "0.0.0.0"):
        for path in ("/api/auth/me", "/api/chat/conversations", "/"):
            assert client.request("GET", path, headers={"Host": host.encode()}).status_code == 403, host
    for host in (f"localhost:{port}", f"[::1]:{port}", f"127.0.0.1:{port}"):
        assert client.request("GET", "/api/auth/me", headers={"Host": host}).status_code == 200
    path, own = "/api/chat/conversations", f"http://127.0.0.1:{port}"
    before = api.tables(mine)
    for origin in (
        "https://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        f"http://localhost:{port}",
        "http://[::1",
        "é",
    ):
        check_error(client.request("POST", path, {}, headers={"Origin": origin.encode()}), 403)
    assert not api.changed(before, api.tables(mine))
    assert client.request("POST", path, {}, headers={"Origin": own}).status_code == 201
    assert client.request("POST", path, {}).status_code == 201
