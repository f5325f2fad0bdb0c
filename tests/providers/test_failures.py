"""Each way in which a model API fails, on a real socket: its code, and a sentence that a person can act on."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chatapp import providers
from chatapp.errors import Interrupted, ModelNotFound, ProviderError, ProviderRateLimited, ProviderTimeout
from chatapp.events import Token
from chatapp.providers import Piece, Provider, _failures
from chatapp.settings import Settings
from tests.providers.conftest import KEY, NAMES, asked, settings_for
from tests.support.fake_models import BODY_CANARY, FakeModels

TITLES = {
    "anthropic": "Anthropic",
    "local": "The built-in model",
    "ollama": "Ollama",
    "openai": "OpenAI",
    "vllm": "vLLM",
    "xai": "xAI",
}
UNKEYED = ("ollama", "vllm", "local")


class Outcome(NamedTuple):
    text: str
    error: ProviderError


def failure(provider: Provider, model: str, **more: Any) -> Outcome:
    """Ask for *model*, which must fail, and return the text before the failure and the failure."""
    pieces: list[Piece] = []
    stream = provider.stream(asked(model, **more))
    with pytest.raises(ProviderError) as caught:
        pieces.extend(piece for batch in stream for piece in batch)
    sentence = caught.value.message
    assert TITLES[provider.name] in sentence
    assert KEY not in sentence
    assert BODY_CANARY not in sentence
    assert "Traceback" not in sentence
    assert sentence.endswith((".", model, "ollama signin"))
    return Outcome("".join(piece.content for piece in pieces if isinstance(piece, Token)), caught.value)


@pytest.mark.parametrize(
    ("model", "code", "retryable", "says"),
    [
        ("status-400", "provider_unavailable", False, "did not accept"),
        ("status-401", "provider_unavailable", False, "refused|API key|key"),
        ("status-403", "provider_unavailable", False, "does not let this site use status-403"),
        ("status-404", "not_found", False, "has no model status-404"),
        ("status-404-html", "provider_unavailable", False, "is not at http://127.0.0.1:"),
        ("status-408", "provider_timeout", True, "took too long"),
        ("status-413", "payload_too_large", False, "too long for status-413. Start a new one"),
        ("status-413-html", "payload_too_large", False, "too long"),
        ("status-418", "provider_unavailable", False, "did not accept"),
        ("status-429", "rate_limited", True, "Try again in a moment"),
        ("status-429,retry-after=7", "rate_limited", True, "Try again in 7 seconds"),
        ("status-429,retry-after=soon", "rate_limited", True, "Try again in a moment"),
        ("status-500", "provider_unavailable", True, "an error of its own (HTTP 500)"),
        ("status-500-html", "provider_unavailable", True, "an error of its own (HTTP 500)"),
        ("status-502-html", "provider_unavailable", True, "an error of its own (HTTP 502)"),
        ("status-503,retry-after=3", "provider_unavailable", True, "overloaded. Try again in 3 seconds"),
        ("status-504-html", "provider_timeout", True, "took too long"),
        ("status-529", "provider_unavailable", True, "overloaded"),
        ("status-204", "provider_unavailable", False, "HTTP 204"),
        ("context-too-long", "payload_too_large", False, "too long for context-too-long"),
        ("redirect", "provider_unavailable", False, "redirect, which is not followed"),
        ("close-before-headers", "provider_unavailable", True, "closed the connection without an answer"),
        ("html-200", "provider_unavailable", False, "a web page instead of a stream"),
    ],
)
def test_a_refusal_is_told_in_a_sentence(provider: Provider, model: str, code: str, retryable: bool, says: str) -> None:
    text, error = failure(provider, model)
    assert (text, error.code, error.retryable) == ("", code, retryable)
    assert any(phrase in error.message for phrase in says.split("|"))


@pytest.mark.parametrize("framing", ["", ",close-delimited"])
@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("bad-json-after-2", "provider_unavailable"),
        ("wrong-type-after-2", "provider_unavailable"),
        ("error-in-stream-after-2", "provider_unavailable"),
        ("cut-fin-after-2", "interrupted"),
        ("cut-rst-after-2", "interrupted"),
        ("cut-chunk-after-2", "interrupted"),
        ("no-end-after-2", "interrupted"),
        ("cut-fin-after-2,gzip", "interrupted"),
    ],
)
def test_a_fault_in_mid_stream_keeps_what_came_before(provider: Provider, model: str, code: str, framing: str) -> None:
    text, error = failure(provider, model + framing)
    assert (text, error.code, error.retryable) == ("1 2", code, True)
    assert isinstance(error, Interrupted) == (code == "interrupted")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ollama"])
@pytest.mark.parametrize(
    ("model", "code"),
    [("json-error-200", "rate_limited"), ("error-in-stream-after-0,status=429", "rate_limited"),
     ("content-filter-after-2", "provider_unavailable")],
)  # fmt: skip
def test_an_error_with_a_status_of_200_is_an_error(all_providers: Any, name: str, model: str, code: str) -> None:
    assert failure(all_providers[name], model).error.code == code


@pytest.mark.parametrize(
    "model", ["huge-line,size=3000000", "huge-line,size=3000000,close-delimited", "huge-line,gzip"]
)
def test_one_huge_line_fails_at_the_cap(provider: Provider, model: str) -> None:
    text, error = failure(provider, model)
    assert (text, error.code, error.retryable) == ("", "payload_too_large", False)


def test_an_endless_answer_fails_at_the_cap(fake: FakeModels) -> None:
    for provider in providers.load(settings_for(fake.url, max_answer_bytes=1000)).values():
        text, error = failure(provider, "endless")
        assert (len(text), error.code) == (64 * 15, "payload_too_large")


def test_a_missing_ollama_model_comes_with_the_command_that_gets_it(all_providers: Any) -> None:
    error = failure(all_providers["ollama"], "status-404").error
    assert isinstance(error, ModelNotFound)
    assert error.message == "Ollama has no model status-404. Get it with: ollama pull status-404"


def test_a_refused_key_is_told_with_its_variable(all_providers: Any) -> None:
    for name in ("openai", "xai", "anthropic"):
        assert failure(all_providers[name], "status-401").error.message.endswith(f"Check {name.upper()}_API_KEY.")


def test_a_missing_key_is_told_with_its_variable(fake: FakeModels) -> None:
    provider = providers.load(Settings(openai_base_url=fake.url))["openai"]
    assert failure(provider, "status-401").error.message == "OpenAI wants an API key. Set OPENAI_API_KEY."


@pytest.mark.parametrize("key", ["sk-CANARY-KEY\nX: y", "sk-CANARY-KEY-ü", "sk-CANARY-KEY-…"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(fake: FakeModels, key: str) -> None:
    provider = providers.load(Settings(openai_base_url=fake.url, openai_api_key=key))["openai"]
    error = failure(provider, "status-401").error
    assert error.message == "OpenAI refused the API key. Check OPENAI_API_KEY."
    while error is not None:
        assert KEY not in f"{error} {error.args}"
        error = error.__cause__  # type: ignore[assignment]


def test_retry_after_is_passed_on(all_providers: Any) -> None:
    error = failure(all_providers["openai"], "status-429,retry-after=7").error
    assert isinstance(error, ProviderRateLimited)
    assert error.retry_after == 7


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("", None), ("0.2", 1), ("120", 120), ("-5", 0), ("1e9", 86400), ("nan", None), ("inf", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 86400), ("soon", None)],
)  # fmt: skip
def test_retry_after_is_read_in_both_forms(header: str | None, expected: int | None) -> None:
    assert _failures.seconds(header) == expected


# What APIs really say, for statuses that mean several things
@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***"},
         "provider_unavailable", "refused the API key"),
        (400, {"code": "Client specified an invalid argument", "error": "Model not found: grok-9"}, "not_found", "grok-9"),
        (400, {"error": {"message": "This model's maximum context length is 4096 tokens.", "code": 400}},
         "payload_too_large", "too long"),
        (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "the request exceeds it"}},
         "payload_too_large", "too long"),
        (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API"}},
         "rate_limited", "no credit left"),
        (400, {"error": {"message": "This model does not support assistant message prefill."}},
         "provider_unavailable", "cannot go on"),
        (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.2 with this model."}},
         "provider_unavailable", "did not accept"),
        (429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "see billing"}},
         "rate_limited", "no credit left"),
        (500, {"error": "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"},
         "provider_unavailable", "too little memory"),
        (404, {"detail": "Not Found"}, "provider_unavailable", "is not at"),
        (404, {"error": {"type": "not_found_error", "message": "model: grok-9"}}, "not_found", "grok-9"),
        (404, [], "provider_unavailable", "is not at"),
        (404, None, "provider_unavailable", "is not at"),
    ],
)  # fmt: skip
def test_what_apis_say_is_understood_and_not_repeated(
    all_providers: Any, status: int, body: Any, code: str, says: str
) -> None:
    import orjson

    words = _failures.detail(orjson.dumps(body))
    error = _failures.from_status(all_providers["xai"].api, status, detail=words, model="grok-9")
    assert error.code == code
    assert says in error.message
    assert "***" not in error.message


# Nothing there


def test_a_closed_port_is_told_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for provider in providers.load(settings_for(f"http://user:{KEY}@127.0.0.1:{port}")).values():
        sentence = failure(provider, "echo").error.message
        assert f"does not answer at http://127.0.0.1:{port}." in sentence
        with pytest.raises(ProviderError, match=r"does not answer at http://127\.0\.0\.1"):
            provider.models()


def test_a_name_that_is_unknown_is_told() -> None:
    provider = providers.load(Settings(vllm_base_url="http://nowhere.invalid:8000"))["vllm"]
    assert failure(provider, "echo").error.message == (
        "The name of vLLM's server, http://nowhere.invalid:8000, is not known. Is it running? Check VLLM_BASE_URL."
    )


def test_silence_past_the_backstop_is_a_timeout(fake: FakeModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapp.providers._openai_api.silence_seconds", lambda settings: 0.05)
    provider = providers.load(settings_for(fake.url))["openai"]
    for model in ("silent-headers", "silent-body", "silent-after-2"):
        assert isinstance(failure(provider, model).error, ProviderTimeout)


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: connecting takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield server.getsockname()[1]
        for client in waiting:
            client.close()


def test_a_connection_that_takes_too_long_is_a_timeout(full_port: int) -> None:
    provider = providers.load(settings_for(f"http://127.0.0.1:{full_port}", connect_seconds=0.1))["openai"]
    error = failure(provider, "echo").error
    assert isinstance(error, ProviderTimeout)
    assert f"could not be reached in time at http://127.0.0.1:{full_port}." in error.message


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", file, "-out", f"{file}.crt", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


def serve_once(answer: Callable[[socket.socket], None]) -> tuple[int, threading.Thread]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server:
            client, _ = server.accept()
            client.settimeout(20)
            with client:
                answer(client)

    thread = threading.Thread(target=run)
    thread.start()
    return server.getsockname()[1], thread


def test_a_certificate_of_nobody_gets_no_request(certificate: Path) -> None:
    received: list[bytes] = []

    def answer(client: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        try:
            with context.wrap_socket(client, server_side=True) as secure:
                received.append(secure.recv(1))
        except OSError:
            pass

    port, thread = serve_once(answer)
    provider = providers.load(settings_for(f"https://localhost:{port}"))["openai"]
    sentence = failure(provider, "echo").error.message
    thread.join()
    assert f"OpenAI at https://localhost:{port} has no valid certificate, so nothing was sent." in sentence
    assert received in ([], [b""])


def test_a_server_without_tls_is_no_server_with_tls() -> None:
    port, thread = serve_once(lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    provider = providers.load(settings_for(f"https://localhost:{port}"))["openai"]
    assert f"OpenAI at https://localhost:{port}" in failure(provider, "echo").error.message
    thread.join()


# Odd bytes where the headers should be


@pytest.mark.parametrize(
    "reply",
    [b"", b"\r\n\r\n", b"rubbish\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
     b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/event-stream\r\n\r\nno gzip",
     b"HTTP/1.1 100 Continue\r\n\r\n", b"\x00" * 100],
)  # fmt: skip
def test_rubbish_instead_of_http_is_an_error_of_the_provider(reply: bytes) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(reply)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass

    port, thread = serve_once(answer)
    failure(providers.load(settings_for(f"http://127.0.0.1:{port}"))["openai"], "echo")
    thread.join()


@pytest.mark.parametrize("status", [b"302 Found", b"502 Bad Gateway"])
def test_a_body_that_says_nothing_is_not_waited_for(status: bytes) -> None:
    head = b"\r\nLocation: http://169.254.169.254/\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n"

    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 " + status + head)
        while client.recv(65536):  # the connection stays open until the other side closes it
            pass

    port, thread = serve_once(answer)
    error = failure(providers.load(settings_for(f"http://127.0.0.1:{port}"))["openai"], "echo").error
    assert error.code == "provider_unavailable"
    thread.join()
