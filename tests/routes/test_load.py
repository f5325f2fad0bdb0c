"""What a crowd, or a few who mean harm, cannot do to the others."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.support.site import Client, Site


def test_bodies_that_never_arrive_hold_no_connection_to_the_database(ada: Client) -> None:
    address = urlsplit(ada.url)
    head = (
        f"POST /api/chat/start HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: {ada.http.headers['Authorization']}\r\nContent-Length: 100\r\n\r\n{{"
    )
    with contextlib.ExitStack() as opened:
        for _ in range(15):
            raw = opened.enter_context(socket.create_connection((address.hostname, address.port), timeout=20))
            raw.sendall(head.encode())
        for _ in range(5):
            ada.call("GET", "/api/auth/me", timeout=5)
        _, frames = ada.ask("still here")
        assert frames[-1].event == "done"


def test_a_body_that_drips_is_refused_in_time_and_its_place_is_free(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_BODY_SECONDS="1")
    ada = site.new_user()
    head = (
        f"POST /api/chat/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: {ada.http.headers['Authorization']}\r\n"
    )
    for length in ("Content-Length: 100", "Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", site.port), timeout=20) as raw:
            raw.sendall(f"{head}{length}\r\n\r\n".encode())
            begun, answered = time.monotonic(), b""
            raw.settimeout(0.2)
            while b"}}" not in answered and time.monotonic() < begun + 30:
                with contextlib.suppress(TimeoutError):
                    data = raw.recv(65_536)
                    assert data, "it was closed without a word"
                    answered += data
                    continue
                raw.sendall(b"{" if length.startswith("Content") else b"1\r\n{\r\n")  # each byte is in time by itself
            raw.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(1) == b""  # closed: nothing is kept for who is that slow
            assert b" 400 " in answered.partition(b"\r\n")[0], answered
            assert b"did not arrive in time" in answered
    ada.call("GET", "/api/auth/me", timeout=5)


def test_a_rush_of_sign_ins_is_turned_away_in_part_and_breaks_nothing(new_site: Callable[..., Site]) -> None:
    site = new_site()
    ada = site.new_user()

    def try_in(number: int) -> int:
        body = {"email": f"{number}@example.org", "password": "wrong password"}
        return Client(site.url).request("POST", "/api/auth/login", body).status_code

    with ThreadPoolExecutor(80) as pool:
        statuses = list(pool.map(try_in, range(80)))
    assert set(statuses) <= {401, 429, 503}
    assert 401 in statuses
    ada.call("GET", "/api/auth/me")
