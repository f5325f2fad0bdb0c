"""Nobody can make the site connect where they choose: no parameter takes an address, no model API's redirect is followed."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from chatapp import providers
from chatapp.errors import ProviderError
from chatapp.providers import ChatRequest, Turn
from chatapp.settings import Settings
from tests.support import api

STATUSES = (301, 302, 303, 307, 308)
SPELLINGS = (  # of this machine; {port} is where somebody listens who should hear nothing
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://127.255.255.254:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://example.org@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.org/",
    "http://127.0.0.1:{port}/?x=http://example.org",
    "//127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}\\",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
)
ELSEWHERE = (
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:a9fe:a9fe]/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://[fe80::1]/",
    "http://metadata.google.internal/",
    "http://100.100.100.200/",
    "http://10.0.0.1/",
    "http://192.168.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_GET",
    "ftp://127.0.0.1:{port}/",
    "dict://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "data:text/event-stream,x",
    "",
)
CASES = [(status, to) for status in STATUSES for to in SPELLINGS + ELSEWHERE]


class Listener:
    """Somebody on this machine who counts who connects."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port: int = self.socket.getsockname()[1]
        self.heard = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.heard += 1
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.socket.close()


@pytest.fixture(scope="module")
def redirecting(listener: Listener) -> Iterator[str]:
    """A model API that sends everybody on; the model's name is the number of the case."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_to(int(re.findall(rb'"model": ?"(\d+)"', asked)[0]))

        def do_GET(self) -> None:
            self.send_to(int(self.path.rpartition("/")[2]))

        def send_to(self, number: int) -> None:
            status, to = CASES[number]
            self.send_response(status)
            location = to.replace("{port}", str(listener.port))
            self.send_header("Location", location.encode().decode("latin-1"))
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_no_redirect_of_a_model_api_is_followed_however_it_is_spelt(redirecting: str, listener: Listener) -> None:
    assert len(CASES) >= 200
    provider = providers.load(Settings(openai_api_key="sk-x", openai_base_url=redirecting))["openai"]
    before = listener.heard
    for number, case in enumerate(CASES):
        with pytest.raises(ProviderError) as caught:
            list(provider.stream(ChatRequest(str(number), (Turn("user", "hello"),))))
        assert "redirect" in caught.value.message, case
        assert "127" not in caught.value.message.replace(redirecting, "")
    assert listener.heard == before


def test_the_control_who_follows_redirects_is_heard(redirecting: str, listener: Listener) -> None:
    before = listener.heard
    for number in range(len(SPELLINGS)):
        try:
            requests.get(f"{redirecting}/{number}", timeout=5).close()
        except (requests.RequestException, UnicodeError):
            pass  # some spellings are too odd for it
    assert listener.heard >= before + 10


def test_no_parameter_takes_an_address() -> None:
    """Where a model API is, the environment alone says."""
    fields = {
        name: schema
        for shape in api.document()["components"]["schemas"].values()
        for name, schema in shape.get("properties", {}).items()
    }
    asked = {
        name
        for route in api.WITH_BODY
        for name in api.shape(route)["properties"]
        if fields[name].get("format") in ("uri", "url", "hostname", "ipv4", "ipv6")
        or re.search(r"url|uri|host|address|link|endpoint|webhook|callback|avatar|proxy", name, re.I)
    }
    asked |= {
        name
        for route in api.EXAMPLES
        for name in api.parameters(route, "query")
        if re.search(r"url|uri|host|address|link|next|redirect|callback", name, re.I)
    }
    assert asked == set()
