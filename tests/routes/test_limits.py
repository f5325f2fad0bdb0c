"""How many streams one person may begin in a minute: the same for all workers, told truly, and counted once."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest

from tests.conftest import SETUPS
from tests.support.api import check_error
from tests.support.site import Client, Site

MOST = 4


@pytest.fixture(scope="module", params=SETUPS)
def strict(request: pytest.FixtureRequest, new_site: Callable[..., Site]) -> Iterator[Site]:
    site = new_site(**SETUPS[request.param](request), CHATAPP_STREAMS_PER_MINUTE=str(MOST))
    yield site
    site.stop()


def path(client: Client, **query: str) -> str:
    project = client.call("POST", "/api/projects", {"name": "Shop"}, 201)["id"]
    return (
        f"/api/v1/ai/chat/stream?{urlencode({'projectId': project, 'message': 'x', 'model': 'openai/echo', **query})}"
    )


def test_one_stream_too_many_in_a_minute_is_refused_in_all_workers(strict: Site) -> None:
    ada, bob = strict.new_user("Ada"), strict.new_user("Bob")
    url = path(ada)

    def begin(number: int) -> int:
        client = Client(ada.url)  # a connection of its own, which any worker may take
        client.http.headers.update(ada.http.headers)
        return client.request("GET", url).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(begin, range(3 * MOST)))
    assert sorted(answers) == [200] * MOST + [429] * 2 * MOST
    response = ada.request("GET", url)
    assert str(MOST) in check_error(response, 429, "rate_limited")["message"]
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert ada.call("GET", "/api/chat/conversations")["total"] == MOST  # nothing is stored of what was refused
    assert bob.request("GET", path(bob)).status_code == 200


def test_a_reader_who_comes_back_is_not_counted_and_told_in_the_stream(strict: Site) -> None:
    ada = strict.new_user()
    url, key = path(ada), uuid.uuid4().hex
    whole = list(ada.frames(url))
    for frame in whole[:-1]:
        assert ada.request("GET", url, headers={"Last-Event-ID": str(frame.id)}).status_code == 200
    for _ in range(MOST):  # one start
        assert ada.request("GET", f"{url}&requestId={key}").status_code == 200
    eves = strict.new_user("Eve").call("POST", "/api/chat/conversations", {}, 201)["id"]
    refused = [f"{url}&conversationId={eves}", f"{url}&conversationId=x", url.replace("openai", "nobody")]
    assert [ada.request("GET", wrong).status_code for wrong in refused] == [404, 400, 400]  # no start at all
    answers = [ada.request("GET", url).status_code for _ in range(MOST)]
    assert answers == [200] * (MOST - 2) + [429] * 2
    [told] = ada.frames(url, "1")
    assert json.loads(told.data)["code"] == "rate_limited"
    assert told.id is None
    assert list(ada.frames(url, whole[0].id)) == whole[1:]
    assert ada.request("GET", f"{url}&requestId={key}").status_code == 200
    for body in ({"requestId": key}, {"model": "openai/echo"}):  # by REST there is always a way
        assert ada.request("POST", "/api/v1/ai/chat", {"message": "x", **body}).status_code == 200


def test_retry_after_is_true(new_site: Callable[..., Site]) -> None:
    site = new_site(application="tests.support.short_window", CHATAPP_STREAMS_PER_MINUTE="2")
    ada = site.new_user()
    url = path(ada)
    assert [ada.request("GET", url).status_code for _ in range(2)] == [200, 200]
    time.sleep(1)
    refused = ada.request("GET", url)
    assert refused.status_code == 429
    seconds = int(refused.headers["Retry-After"])
    time.sleep(seconds)
    assert ada.request("GET", url).status_code == 200
