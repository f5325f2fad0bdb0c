"""One call to a model API over HTTP, and what can go wrong on the way, each as a sentence.

A call is sent once. Each has a connection of its own, which is closed when the call ends, however it ends. A kept
connection that the server closes while the next request is on its way gives an error that does not tell whether the
request was seen: it could be neither trusted nor sent again. A new one costs 0.3 ms on one machine, and two round
trips (three with TLS 1.2) to a server far away, where the first token takes hundreds of milliseconds.

The caller may throw any exception into a blocking read (a time limit, a kill). Nothing here catches what is not a
failure of the network, and every way out closes the socket.
"""

from __future__ import annotations

import re
import ssl
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
import urllib3
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.exceptions import NameResolutionError

from chatapp.errors import Interrupted, ProviderError, ProviderTimeout
from chatapp.providers import _failures

READ_BYTES = 64 * 1024
MAX_ERROR_BYTES = 64 * 1024  # more than any API says about an error
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

    @property
    def where(self) -> str:
        """The server's address as it may be shown: no user, password, path or query."""
        url = urlsplit(self.base_url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


class Adapter(HTTPAdapter):
    """Checks certificates by one context made once: loading the authorities takes 35 ms, too long for an event loop."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=tls_context())

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
    secure = api.base_url.startswith("https:")
    made.mount(api.base_url, Adapter(max_retries=0) if secure else HTTPAdapter(max_retries=0))
    return made


@contextmanager
def call(
    api: Api, path: str, body: Any = None, *, model: str = "", timeout: tuple[float, float] | None = None
) -> Iterator[requests.Response]:
    """Send one request (POST where there is a body) and give its response, whose body is not read yet.

    Raises ProviderError for any status but 200. The connection is closed at the end.
    """
    if not all(SENDABLE.fullmatch(value) for value in api.headers.values()):
        raise ProviderError(api.key_refused, retryable=False)  # requests would show the key
    headers = {"Accept-Encoding": "identity", "Connection": "close", **api.headers}
    if body is not None:
        headers["Content-Type"] = "application/json"
    with session(api) as one_call:
        try:
            response = one_call.request(
                "GET" if body is None else "POST",
                api.base_url + path,
                data=None if body is None else orjson.dumps(body),
                headers=headers,
                timeout=timeout or (api.connect_seconds, api.silence_seconds),
                stream=True,
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


def blocks(api: Api, response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it comes, up to 64 KiB a time. Raises Interrupted if the connection breaks.

    `read1` returns what one read of the socket brought, in each framing; `iter_content` and `iter_lines` hold a body
    without a declared length back until it ends.
    """
    while True:
        try:
            block = response.raw.read1(READ_BYTES, decode_content=True)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ProviderTimeout(f"{api.title} was silent for too long. Try again.") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise interrupted(api) from error
        if not block:
            return
        yield block


def read_json(api: Api, path: str) -> Any:
    """Return the JSON at *path*, in a few seconds at most. Raises ProviderError."""
    deadline = time.monotonic() + LIST_SECONDS
    body = bytearray()
    timeout = (min(api.connect_seconds, LIST_CONNECT_SECONDS), LIST_SECONDS)
    with call(api, path, timeout=timeout) as response:
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
    """Return the beginning of an error's JSON, which is read for what it means and never shown; b"" for other kinds."""
    body = bytearray()
    if "json" not in response.headers.get("Content-Type", "").lower():
        return b""
    try:
        for block in blocks(api, response):
            body += block
            if len(body) > MAX_ERROR_BYTES:
                break
    except ProviderError:
        pass  # the status says enough
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


def interrupted(api: Api) -> Interrupted:
    return Interrupted(f"{api.title} broke off before the end of the answer. What it wrote is kept.")
