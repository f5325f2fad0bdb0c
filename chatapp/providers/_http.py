"""One call to a model API over HTTP, and what can go wrong on the way, each as a sentence.

A call is sent once. Each has a connection of its own, which is closed when the call ends, however it ends. A kept
connection that the server closes while the next request is on its way gives an error that does not tell whether the
request was seen: it could be neither trusted nor sent again. A new one costs 0.3 ms on one machine, and two round
trips (three with TLS 1.2) to a server far away, where the first token takes hundreds of milliseconds.

The caller may throw any exception into a blocking read (a time limit, a kill). Nothing here catches what is not a
failure of the network, and every way out closes the socket.

A server on a fast line may always have sent more by the time it is read, and a read that never has to wait never lets
another greenlet run. So each read gives way first (`Source`), whatever part of HTTP it is for: a server that says "100
Continue" for ever keeps nobody's stream waiting. And a body that was compressed though nobody asked is unpacked in
pieces of bounded size.
"""

from __future__ import annotations

import http.client
import io
import re
import ssl
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import gevent
import orjson
import requests
import urllib3
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError

from chatapp.errors import Interrupted, ProviderError, ProviderTimeout
from chatapp.providers import _failures

READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 1024 * 1024  # of headers, and of what may come before them
MAX_ERROR_BYTES = 64 * 1024  # more than any API says about an error
ERROR_SECONDS = 1.0  # what an error's words are waited for, after its status came
PACKED = ("gzip", "x-gzip", "deflate")
GZIP_OR_ZLIB = 47  # zlib's number for: whichever it is
MAX_LIST_BYTES = 8 * 1024 * 1024
SENDABLE = re.compile(r"[\x20-\x7e]*")  # as a header's value, RFC 9110 5.5
LIST_CONNECT_SECONDS = 1.5
LIST_SECONDS = 3.0  # a page waits for the list of models


@dataclass(frozen=True, kw_only=True)
class Api:
    """Where a model API is, and what to tell people about it. `headers` may hold a key, so it is never shown."""

    title: str
    base_url: str  # without a slash at its end
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    connect_seconds: float
    silence_seconds: float  # a backstop: the exact limits are the caller's
    not_there: str  # what to do when nothing answers: "Is it running?"
    check_address: str  # what to do when something else answers: "Check OPENAI_BASE_URL."
    key_refused: str  # "OpenAI refused the API key. Check OPENAI_API_KEY."
    model_missing: str = "Choose another one."

    def __post_init__(self) -> None:
        if self.base_url.startswith("https:"):
            tls_context()  # at the start, not during somebody's answer

    @cached_property
    def session(self) -> requests.Session:
        """What all calls go through; it keeps nothing of one for the next but how a request to each path begins."""
        return session(self)

    @cached_property
    def requests(self) -> dict[tuple[str, str], requests.PreparedRequest]:
        """The requests without their bodies, by method and path: to prepare one takes as long as to connect."""
        return {}

    @property
    def where(self) -> str:
        """The server's address as it may be shown: no user, password, path or query."""
        url = urlsplit(self.base_url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


class Source(io.RawIOBase):
    """What a response is read from: gives way before each read, and ends a head that does not end."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self.head_left: int | None = MAX_HEAD_BYTES
        self._raw = raw

    @property
    def client(self) -> Any:
        """The socket, None where it is something else."""
        return getattr(self._raw, "_sock", None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        time.sleep(0)
        size = self._raw.readinto(buffer)
        if self.head_left is not None and size:
            self.head_left -= size
            if self.head_left < 0:
                raise http.client.LineTooLong("head")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """A response that is read from a `Source`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._source = Source(self.fp.detach())
        self.fp = io.BufferedReader(self._source)

    def begin(self) -> None:
        super().begin()
        self._source.head_left = None


class Connecting:
    """One limit for all that connecting is: the name's look-up, each of its addresses, the TLS handshake."""

    response_class: Any = Response
    timeout: Any

    def connect(self) -> None:
        limit = gevent.Timeout(self.timeout)
        limit.start()
        try:
            super().connect()  # type: ignore[misc]
        except gevent.Timeout as expired:
            if expired is not limit:
                raise
            raise ConnectTimeoutError(self, "the time for connecting is over") from None
        finally:
            limit.close()


class Plain(Connecting, urllib3.connection.HTTPConnection):
    pass


class Secure(Connecting, urllib3.connection.HTTPSConnection):
    pass


class OfOneCallEach:
    """Makes a pool of connections keep none of them."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        return self._new_conn()  # type: ignore[attr-defined]

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.close()


class PlainPool(OfOneCallEach, urllib3.HTTPConnectionPool):
    ConnectionCls = Plain


class SecurePool(OfOneCallEach, urllib3.HTTPSConnectionPool):
    ConnectionCls = Secure


class Adapter(HTTPAdapter):
    """Checks certificates by one context made once: loading the authorities takes 35 ms, too long for an event loop."""

    def __init__(self, *, secure: bool) -> None:
        self._context: dict[str, Any] = {"ssl_context": tls_context()} if secure else {}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **(kwargs | self._context))
        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"  # and no ca_certs, which urllib3 would load again for each connection


@cache
def tls_context() -> ssl.SSLContext:
    """Return what certificates are checked by: the machine's authorities and Mozilla's."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


class OneCall(requests.Session):
    def get_redirect_target(self, resp: Any) -> None:
        """Say that there is none: requests reads a redirect's whole body, of any size, even if it is not to follow it."""


def session(api: Api) -> requests.Session:
    made = OneCall()
    made.trust_env = False  # neither a proxy nor a password from the environment
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    scheme = "https://" if api.base_url.lower().startswith("https:") else "http://"
    made.mount(scheme, Adapter(secure=scheme == "https://"))
    return made


@contextmanager
def call(
    api: Api, path: str, body: Any = None, *, model: str = "", timeout: tuple[float, float] | None = None
) -> Iterator[requests.Response]:
    """Send one request (POST where there is a body) and give its response, whose body is not read yet.

    Raises ProviderError for any status but 200. The connection is closed at the end.
    """
    try:
        response = api.session.send(
            prepared(api, path, body),
            timeout=timeout or (api.connect_seconds, api.silence_seconds),
            stream=True,
            proxies={},
            allow_redirects=False,
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, UnicodeError) as error:
        let_go(error)
        raise unreachable(api, error) from error
    try:
        if response.status_code != 200:
            raise refused(api, response, model)
        yield response
    finally:
        response.close()


def prepared(api: Api, path: str, body: Any) -> requests.PreparedRequest:
    """Return the request with *body* as JSON. Raises ProviderError, and what requests says of the address."""
    method = "GET" if body is None else "POST"
    if (method, path) not in api.requests:
        api.requests[method, path] = bodiless(api, method, path)
    request = api.requests[method, path].copy()
    if body is not None:
        request.body = orjson.dumps(body)
        request.headers["Content-Length"] = str(len(request.body))
    return request


def bodiless(api: Api, method: str, path: str) -> requests.PreparedRequest:
    if not all(SENDABLE.fullmatch(value) for value in api.headers.values()):
        raise ProviderError(api.key_refused, retryable=False)  # requests would show the key
    headers = {"Accept-Encoding": "identity", "Connection": "close", **api.headers}
    if method == "POST":
        headers["Content-Type"] = "application/json"
    return api.session.prepare_request(requests.Request(method, api.base_url + path, headers=headers))


def blocks(api: Api, response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it comes, up to 64 KiB a time. Raises Interrupted if the connection breaks.

    `read1` returns what one read of the socket brought, in each framing; `iter_content` and `iter_lines` hold a body
    without a declared length back until it ends.
    """
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing in PACKED:
        yield from unpacked(api, sent(api, response))
    elif packing in ("", "identity"):
        yield from sent(api, response)
    else:
        raise unreadable(api)


def sent(api: Api, response: requests.Response) -> Iterator[bytes]:
    while True:
        try:
            block = response.raw.read1(READ_BYTES, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise silent(api) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise interrupted(api) from error
        if not block:
            return
        yield block


def unpacked(api: Api, packed: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what *packed* unpacks to, at most 64 KiB a time and perhaps nothing; urllib3 would go on until it is something."""
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    for block in packed:
        while block:
            try:
                yield unpacker.decompress(block, READ_BYTES)
            except zlib.error as error:
                raise unreadable(api) from error
            block = unpacker.unconsumed_tail
            if unpacker.eof:  # and another member may follow
                block = unpacker.unused_data
                unpacker = zlib.decompressobj(GZIP_OR_ZLIB)


def read_json(api: Api, path: str) -> Any:
    """Return the JSON at *path*, in a few seconds at most. Raises ProviderError."""
    deadline = time.monotonic() + LIST_SECONDS
    body = bytearray()
    timeout = (min(api.connect_seconds, LIST_CONNECT_SECONDS), LIST_SECONDS)
    late = ProviderTimeout(f"{api.title} did not list its models in time.")
    with gevent.Timeout(LIST_SECONDS, late), call(api, path, timeout=timeout) as response:
        try:
            for block in blocks(api, response):
                body += block
                if len(body) > MAX_LIST_BYTES or time.monotonic() > deadline:
                    raise unreadable(api)
        except Interrupted as error:
            raise unreadable(api) from error
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise unreadable(api) from error


def error_body(api: Api, response: requests.Response) -> bytes:
    """Return the beginning of an error's JSON, which is read for what it means and never shown; b"" for other kinds.

    What comes too late, or not at all, is not waited for: the status says enough.
    """
    body = bytearray()
    if "json" not in response.headers.get("Content-Type", "").lower():
        return b""
    try:
        with gevent.Timeout(ERROR_SECONDS, False):  # type: ignore[arg-type]  # False: leave the block silently
            for block in blocks(api, response):
                body += block
                if len(body) > MAX_ERROR_BYTES:
                    break
    except ProviderError:
        pass
    return bytes(body[:MAX_ERROR_BYTES])


def refused(api: Api, response: requests.Response, model: str) -> ProviderError:
    return _failures.from_status(
        api,
        response.status_code,
        detail=_failures.detail(error_body(api, response)),
        model=model,
        retry_after=_failures.seconds(response.headers.get("Retry-After")),
    )


def unreachable(api: Api, error: Exception) -> ProviderError:
    """Return what a request that got no response failed of."""
    for kind, outcome, sentence in UNREACHABLE:
        if any(isinstance(cause, kind) for cause in causes(error)):
            return outcome(sentence.format(api=api))
    return ProviderError(f"{api.title} closed the connection without an answer. Try again.")


UNREACHABLE: tuple[tuple[type[Exception], type[ProviderError], str], ...] = (
    (NameResolutionError, ProviderError, "The name of {api.title}'s server, {api.where}, is not known. {api.not_there}"),
    (requests.exceptions.SSLError, ProviderError,
     "{api.title} at {api.where} has no valid certificate, so nothing was sent. {api.check_address}"),
    (requests.exceptions.ConnectTimeout, ProviderTimeout,
     "{api.title} could not be reached in time at {api.where}. {api.not_there}"),
    (requests.exceptions.ReadTimeout, ProviderTimeout, "{api.title} at {api.where} was silent for too long. Try again."),
    (urllib3.exceptions.NewConnectionError, ProviderError,
     "{api.title} does not answer at {api.where}. {api.not_there}"),
    (requests.exceptions.InvalidURL, ProviderError, "{api.title} has no valid address. {api.check_address}"),
)  # fmt: skip


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and what it was raised of; requests and urllib3 keep the cause in `args` or `reason`."""
    while error is not None:
        yield error
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        error = inner if isinstance(inner, BaseException) else None


def let_go(error: BaseException | None) -> None:
    """Free what the failed call's frames hold: a response whose headers were refused keeps its socket open."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def unreadable(api: Api) -> ProviderError:
    return ProviderError(f"{api.title} at {api.where} sent something that cannot be read. {api.check_address}")


def silent(api: Api) -> ProviderTimeout:
    return ProviderTimeout(f"{api.title} was silent for too long. Try again.")


def interrupted(api: Api) -> Interrupted:
    return Interrupted(f"{api.title} broke off before the end of the answer. What it wrote is kept.")
