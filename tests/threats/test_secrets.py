"""Keys, passwords, tokens and what people ask are where they belong: not in logs, figures, errors, or other tables."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import requests

from tests.support import api
from tests.support.api import EXAMPLES
from tests.support.site import Client, Site, wait_until

PASSWORD = "canary-password-7f3a"
PROMPT = "canary-prompt-91be"
KEYS = ("canary-key-openai-55c1", "canary-key-anthropic-02ad")
FAULTS = (
    "status-401",
    "status-500",
    "status-429",
    "status-500-html",
    "context-too-long",
    "close-before-headers",
    "cut-rst-after-2",
    "cut-chunk-after-2",
    "no-end-after-2",
    "bad-json-after-2",
    "wrong-type-after-2",
    "error-in-stream-after-2",
    "html-200",
    "json-error-200",
    "redirect",
    "nonsense",
)
# what a person wrote is kept in these, and in what SQLite keeps beside them for its search
OWN = ("conversations", "messages", "generations", "log", "projects", "usage")


@dataclass
class Told:
    """What the site said, wherever that was."""

    site: Site
    errors: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def keep(self, answer: requests.Response) -> None:
        if answer.status_code >= 400:
            self.errors.append(answer.text)

    def sign_in(self, client: Client) -> None:
        body = client.call("POST", "/api/auth/login", {"email": client.email, "password": PASSWORD})
        client.sign(body)
        self.tokens += [body["access_token"], body["refresh_token"]]


@pytest.fixture(scope="module")
def told(new_site: Callable[..., Site]) -> Told:
    """A site whose every route was asked, rightly and wrongly, and whose models failed in every way."""
    site = new_site(OPENAI_API_KEY=KEYS[0], ANTHROPIC_API_KEY=KEYS[1], CHATAPP_METRICS_TOKEN="")
    told = Told(site)
    root, ada, bob = (newcomer(site, name) for name in ("root", "ada", "bob"))
    for client in (root, ada, bob):
        told.sign_in(client)
    wrong = {"email": ada.email, "password": f"{PASSWORD}-wrong"}
    told.keep(Client(site.url).request("POST", "/api/auth/login", wrong))
    for fault, provider in zip(FAULTS, itertools.cycle(("openai", "anthropic")), strict=False):
        answer = ada.request(
            "POST", "/api/v1/ai/chat", {"message": f"{PROMPT} {fault}", "model": f"{provider}/{fault}"}
        )
        told.keep(answer)
    one = api.talk(ada, nonce=uuid.uuid4().hex)
    for route in EXAMPLES:
        if route.endswith(("/logout", "/api/events")) or route.startswith("DELETE"):
            continue
        ask_every_way(told, route, one, (ada, bob, Client(site.url)))
    wait_until(lambda: not any(talk["running"] for talk in ada.call("GET", "/api/chat/conversations")["conversations"]))
    return told


def newcomer(site: Site, name: str) -> Client:
    client = Client(site.url)
    client.email = f"{name}@example.org"
    body = client.call("POST", "/api/auth/register", {"email": client.email, "password": PASSWORD, "name": name}, 201)
    client.sign(body)
    return client


def ask_every_way(told: Told, route: str, one: api.Talk, people: tuple[Client, ...]) -> None:
    """Send the route's example with the prompt in it, as several people, and broken."""
    example = EXAMPLES[route]
    body = example.body and {
        name: f"{PROMPT} {uuid.uuid4().hex}" if name in ("prompt", "message", "content", "question") else value
        for name, value in api.filled(example.body, {**one.ids, "nonce": uuid.uuid4().hex}).items()
    }
    if body and "password" in body:
        body["password"] = PASSWORD
    options = {"json": body} if body is not None else {}
    for client in people:
        told.keep(one.request(route, client, stream=True, **options))
    told.keep(one.request(route, headers={"Authorization": f"Bearer {told.tokens[0]}x"}, stream=True, **options))
    if body is not None:
        told.keep(
            one.request(
                route, data=f'{{"password": "{PASSWORD}", "x": '.encode(), headers={"Content-Type": "application/json"}
            )
        )


def found(text: str, *canaries: str) -> list[str]:
    return [canary for canary in canaries if canary in text]


def test_errors_and_figures_hold_none_of_it(told: Told) -> None:
    assert len(told.errors) > 100
    figures = requests.get(f"{told.site.url}/metrics", timeout=90).text
    assert "chatapp" in figures
    health = requests.get(f"{told.site.url}/health", timeout=90).text
    for text in (*told.errors, figures, health):
        assert not found(text, PASSWORD, *KEYS, *told.tokens), text[:500]
        assert PROMPT not in text, text[:500]


def test_the_log_holds_none_of_it(told: Told) -> None:
    assert not found(told.site.log(), PASSWORD, PROMPT, *KEYS, *told.tokens)


def test_the_database_holds_no_secret_and_what_people_wrote_is_in_their_own_tables(told: Told) -> None:
    tables = {name: "\n".join(rows) for name, rows in api.tables(told.site).items()}
    assert any(PROMPT in rows for rows in tables.values())  # or nothing was looked at
    for name, rows in tables.items():
        assert not found(rows, PASSWORD, *KEYS, *told.tokens), name
        if not name.startswith(OWN):
            assert PROMPT not in rows, name
    for rows in tables["generations"].splitlines():
        assert not found(rows, *KEYS)


def test_what_is_told_of_a_person_is_no_hash(told: Told) -> None:
    client = Client(told.site.url)
    client.email = "root@example.org"
    told.sign_in(client)
    for route in EXAMPLES:
        if route.startswith("GET ") and api.for_admins(route) and "<" not in route:
            assert "scrypt" not in client.request("GET", route.split()[1]).text
