"""What an admin does with people: and that who is shut out or deleted is so at once, with all that is theirs."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import api
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import PASSWORD, Client, Site, wait_until


@pytest.fixture(scope="module")
def house(new_site: Callable[..., Site]) -> Site:
    return new_site(CHATAPP_WORKERS="2", CHATAPP_STREAM_RETENTION_SECONDS="3")  # then it sweeps as often


@pytest.fixture(scope="module")
def admin(house: Site) -> Client:
    return house.new_user("Root")


def path_of(client: Client) -> str:
    return f"/api/users/{client.user['id']}"


def test_people_are_listed_in_pages_and_found_by_name_and_address(house: Site, admin: Client) -> None:
    word = f"w{uuid.uuid4().hex[:8]}"
    made = [house.new_user(f"{word} {number}".replace(" ", "-")) for number in range(3)]
    found = admin.call("GET", f"/api/users?q={word.upper()}&page_size=2")
    assert (found["total"], [user["id"] for user in found["users"]]) == (3, [one.user["id"] for one in made[:2]])
    assert len(admin.call("GET", f"/api/users?q={word}&page_size=2&page=2")["users"]) == 1
    one = admin.call("GET", f"/api/users?q={made[0].email}")["users"][0]
    assert (one["email"], one["role"], one["plan"], one["disabled"]) == (made[0].email, "user", None, False)
    assert one["effective_plan"] == "ENTERPRISE"
    assert admin.call("GET", "/api/users?q=%25")["total"] == 0  # is no pattern
    assert "password" not in str(found)
    assert admin.call("GET", "/api/users")["users"][0]["id"] == admin.user["id"]


def test_a_name_a_role_and_a_plan_can_be_given(house: Site, admin: Client) -> None:
    ada = house.new_user()
    changed = admin.call("PATCH", path_of(ada), {"name": "Ada L.", "role": "admin", "plan": "PRO"})
    assert (changed["name"], changed["role"], changed["plan"]) == ("Ada L.", "admin", "PRO")
    assert ada.call("GET", "/api/users")["total"] > 1  # at once
    assert admin.call("PATCH", path_of(ada), {"role": "user", "plan": None})["effective_plan"] == "ENTERPRISE"
    check_error(ada.request("GET", "/api/users"), 403)
    check_error(admin.request("PATCH", f"/api/users/{uuid.uuid4()}", {"name": "x"}), 404)


def test_the_last_admin_stays_one(house: Site, admin: Client) -> None:
    for body in ({"role": "user"}, {"disabled": True}):
        check_error(admin.request("PATCH", path_of(admin), body), 409)
    check_error(admin.request("DELETE", path_of(admin)), 409)
    other = house.new_user()
    admin.call("PATCH", path_of(other), {"role": "admin", "disabled": True})
    check_error(admin.request("PATCH", path_of(admin), {"role": "user"}), 409)  # the other one cannot sign in
    admin.call("PATCH", path_of(other), {"disabled": False})
    other.sign(Client(house.url).call("POST", "/api/auth/login", {"email": other.email, "password": PASSWORD}))
    admin.call("PATCH", path_of(admin), {"role": "user"})
    other.call("PATCH", path_of(admin), {"role": "admin"})
    other.call("PATCH", path_of(other), {"role": "user"})


def test_who_is_disabled_is_out_at_once_and_loses_nothing(house: Site, admin: Client, fake_models: FakeModels) -> None:
    ada = house.new_user()
    slow = fake_models.slow(200)
    started = ada.start("hello", f"openai/{slow}")
    events = ada.follow(started["generationId"])
    while next(events).event != "token":
        pass
    assert admin.call("PATCH", path_of(ada), {"disabled": True})["disabled"] is True
    check_error(ada.request("GET", "/api/auth/me"), 401)
    login = {"email": ada.email, "password": PASSWORD}
    check_error(Client(house.url).request("POST", "/api/auth/login", login), 401)
    body = {"Authorization": f"Bearer {ada.refresh_token}"}
    check_error(ada.request("POST", "/api/auth/refresh", headers=body), 401)
    begun = time.monotonic()
    assert [frame.event for frame in events][-1] == "fail"
    assert time.monotonic() - begun < 8
    fake_models.hurry(slow)
    admin.call("PATCH", path_of(ada), {"disabled": False})
    check_error(ada.request("GET", "/api/auth/me"), 401)  # what was revoked stays so
    ada.sign(Client(house.url).call("POST", "/api/auth/login", login))
    wait_until(lambda: ada.answer(started)["status"] == "finished")
    assert ada.answer(started)["content"].endswith(" 200")


def rows_with(site: Site, *words: str) -> dict[str, list[str]]:
    """Return the rows of the database in which one of *words* stands, by table."""
    file = Path(site.environ["CHATAPP_DATA_DIR"]) / "chatapp.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        database.text_factory = lambda data: data.decode(errors="replace")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {
            name: [str(row) for row in database.execute(f'SELECT * FROM "{name}"') if any(w in str(row) for w in words)]
            for name in tables
        }
    return {name: rows for name, rows in found.items() if rows}


def test_who_is_deleted_leaves_nothing_behind(house: Site, admin: Client, fake_models: FakeModels) -> None:
    """While an answer is made: the stream ends with `fail` within 5 s, the model is left, and no row is orphaned."""
    invited = admin.call("POST", "/api/invites", {}, 201)
    ada, word = Client(house.url), f"w{uuid.uuid4().hex}"
    ada.email = f"{word}@example.org"
    body = {"email": ada.email, "password": PASSWORD, "invite": invited["token"]}
    ada.sign(ada.call("POST", "/api/auth/register", body, 201))
    whole, _ = ada.ask(f"my {word}")
    slow = fake_models.slow(5000)
    started = ada.start(f"more {word}", f"openai/{slow}")
    events = ada.follow(started["generationId"])
    while next(events).event != "token":
        pass
    ids = [ada.user["id"], *whole.values(), *started.values()]
    assert {"users", "conversations", "messages", "generations", "usage"} <= set(rows_with(house, word, *ids))

    begun = time.monotonic()
    admin.call("DELETE", path_of(ada), status=204)
    last = list(events)[-1]
    assert time.monotonic() - begun < 5
    assert last.event == "fail"
    wait_until(lambda: all(call["disconnected"] for call in fake_models.log(slow)), 5)
    wait_until(lambda: not rows_with(house, word, *ids), what="nothing is left")
    check_error(ada.request("GET", "/api/auth/me"), 401)
    check_error(Client(house.url).request("POST", "/api/auth/login", {"email": ada.email, "password": PASSWORD}), 401)
    check_error(admin.request("GET", path_of(ada)), 404)
    check_error(admin.request("DELETE", path_of(ada)), 404)
    assert invited["id"] not in str(admin.call("GET", "/api/invites"))  # or it would admit somebody again
    assert "Traceback" not in house.log(), house.log()[-3000:]


def test_a_project_outlives_its_owner_if_somebody_else_is_in_it(house: Site, admin: Client) -> None:
    ada, bob = house.new_user("Ada"), house.new_user("Bob")
    shared, own = (ada.call("POST", "/api/projects", {"name": name}, 201)["id"] for name in ("shared", "own"))
    ada.call("POST", f"/api/projects/{shared}/members", {"email": bob.email, "role": "reader"}, 201)
    admin.call("DELETE", path_of(ada), status=204)
    assert bob.call("GET", f"/api/projects/{shared}")["role"] == "owner"
    assert own not in str(api.tables(house)["projects"])


def test_two_admins_cannot_demote_each_other_at_once(house: Site, admin: Client) -> None:
    """One of them is the last: whoever comes second."""
    from concurrent.futures import ThreadPoolExecutor

    other = house.new_user()
    admin.call("PATCH", path_of(other), {"role": "admin"})

    def demote(pair: tuple[Client, Client]) -> Any:
        return pair[0].request("PATCH", path_of(pair[1]), {"role": "user"}).status_code

    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(pool.map(demote, [(admin, other), (other, admin)]))
    assert statuses in ([200, 409], [200, 403])
    demoted = admin if admin.call("GET", "/api/auth/me")["role"] == "user" else other
    last = other if demoted is admin else admin
    last.call("PATCH", path_of(admin), {"role": "admin"})
    last.call("PATCH", path_of(other), {"role": "user"})
