"""The settings: read once from the environment or a `.env` file, frozen. Nobody else reads os.environ.

Each field names its variable and says what it is for; `docs/settings.md` is made from this class.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from chatapp.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
ORIGIN_HOST = re.compile(r"[a-z0-9._:-]+")  # no patterns: a `*` would be taken for a name
SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly and truthfully, and say so when you do not know."


def number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a number from {low:g} to {high:g}"
    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a whole number from {low} to {high}"
    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    parse.__doc__ = "one of " + ", ".join(allowed)
    return parse


def text(value: str) -> str:
    """any text"""
    return value


def path(value: str) -> Path:
    """a folder"""
    return Path(value).expanduser().resolve()


def address(value: str) -> str:
    """host:port, such as 127.0.0.1:8000"""
    host, _, port = value.rpartition(":")
    if not host or not 0 <= int(port) <= 65535:
        raise ValueError
    return value


def http_url(value: str) -> str:
    """an http:// or https:// address"""
    url = urlsplit(value if "//" in value else f"http://{value}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError
    _ = url.port  # raises ValueError for a port that is no number
    return url.geturl().rstrip("/")


def redis_address(value: str) -> str:
    """redis://host:port/0, rediss:// for TLS, or unix://path"""
    url = urlsplit(value)
    if url.scheme not in ("redis", "rediss", "unix") or not (url.path if url.scheme == "unix" else url.hostname):
        raise ValueError
    _ = url.port
    return value


def origins(value: str) -> tuple[str, ...]:
    """origins such as https://example.org, separated by commas"""
    return tuple(origin(one.strip()) for one in value.split(",") if one.strip())


def origin(value: str) -> str:
    """Return an origin as browsers write it (RFC 6454 6.2). Raises ValueError for what none of them sends."""
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or not ORIGIN_HOST.fullmatch(url.hostname):
        raise ValueError
    if url.path not in ("", "/") or url.query or url.fragment or url.username is not None or url.password is not None:
        raise ValueError
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    usual = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port not in (None, usual) else "")


def setting(
    variables: str, purpose: str, *, default: Any, parse: Callable[[str], Any] = text, secret: bool = False
) -> Any:
    """A field read from the first of *variables* that is set."""
    return field(
        default=default,
        repr=not secret,
        metadata={"variables": variables.split(), "purpose": purpose, "parse": parse},
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. Fields without a variable are for tests and for the parts that start each other."""

    # the site
    data_dir: Path = setting(
        "CHATAPP_DATA_DIR", "where the database and the secret key live", default=ROOT / "instance", parse=path
    )
    database_url: str = setting(
        "CHATAPP_DATABASE_URL", "the database; by default SQLite in the data folder", default="", secret=True
    )
    redis_url: str = setting(
        "CHATAPP_REDIS_URL",
        "Redis, by which several machines hear of each other's answers; one machine needs none",
        default="",
        parse=redis_address,
        secret=True,
    )
    secret_key: str = setting(
        "CHATAPP_SECRET_KEY",
        "signs the tokens; by default made once and kept in the data folder",
        default="",
        secret=True,
    )
    bind: str = setting("CHATAPP_BIND", "where the site listens", default="127.0.0.1:8000", parse=address)
    workers: int = setting("CHATAPP_WORKERS", "worker processes", default=1, parse=whole(1, 64))
    site_name: str = setting("CHATAPP_SITE_NAME", "what the pages call the site", default="Chat")
    auth: str = setting(
        "CHATAPP_AUTH", "`off`: no sign-in, one person, loopback only", default="on", parse=choice("on", "off")
    )
    registration: str = setting(
        "CHATAPP_REGISTRATION",
        "who may make an account after the first one",
        default="invite",
        parse=choice("invite", "open", "closed"),
    )
    cookie_secure: str = setting(
        "CHATAPP_COOKIE_SECURE",
        "`on` behind HTTPS: cookies travel over HTTPS only",
        default="off",
        parse=choice("on", "off"),
    )
    proxies: int = setting(
        "CHATAPP_PROXIES",
        "reverse proxies in front of the site, whose `X-Forwarded-For`, `-Proto` and `-Host` are believed",
        default=0,
        parse=whole(0, 10),
    )
    cors_origins: tuple[str, ...] = setting(
        "CHATAPP_CORS_ORIGINS", "other sites whose pages may use this one's API", default=(), parse=origins
    )
    metrics_token: str = setting(
        "CHATAPP_METRICS_TOKEN",
        "who sends it as Bearer may read `/metrics`; without it, whoever asks from this machine, and admins",
        default="",
        secret=True,
    )
    # answers
    default_model: str = setting(
        "CHATAPP_DEFAULT_MODEL", "the model that is chosen at first, `provider/name`", default=""
    )
    system_prompt: str = setting("CHATAPP_SYSTEM_PROMPT", "what every model is told first", default=SYSTEM_PROMPT)
    session_seconds: int = setting(
        "CHATAPP_SESSION_SECONDS", "how long a started session can be opened", default=600, parse=whole(1, 86400)
    )
    max_message_chars: int = setting(
        "CHATAPP_MAX_MESSAGE_CHARS", "the longest message", default=32_000, parse=whole(1, 1_000_000)
    )
    max_answer_tokens: int = setting(
        "CHATAPP_MAX_ANSWER_TOKENS",
        "where a model that does not stop by itself is cut off",
        default=4096,
        parse=whole(1, 1_000_000),
    )
    cache_seconds: int = setting(
        "CHATAPP_CACHE_SECONDS",
        "how long the same question of the same person is answered from memory; 0: never",
        default=3600,
        parse=whole(0, 604_800),
    )
    # limits
    default_plan: str = setting("CHATAPP_DEFAULT_PLAN", "the plan of who was given none", default="ENTERPRISE")
    tokens_per_day: int = setting(
        "CHATAPP_TOKENS_PER_DAY",
        "tokens that one person may use in a day (UTC), where the plan says nothing else; 0: any number",
        default=0,
        parse=whole(0, 1_000_000_000),
    )
    streams_per_minute: int = setting(
        "CHATAPP_STREAMS_PER_MINUTE",
        "streams that one person may begin in a minute by `/ai/chat/stream`",
        default=10,
        parse=whole(1, 100_000),
    )
    # streams
    heartbeat_seconds: float = setting(
        "CHATAPP_HEARTBEAT_SECONDS",
        "silence after which a comment is sent (WHATWG HTML 9.2.7)",
        default=15.0,
        parse=number(0.1, 600),
    )
    stream_retention_seconds: int = setting(
        "CHATAPP_STREAM_RETENTION_SECONDS",
        "how long an ended stream can be resumed",
        default=3600,
        parse=whole(1, 604_800),
    )
    send_timeout_seconds: float = setting(
        "CHATAPP_SEND_TIMEOUT_SECONDS",
        "a reader that takes nothing for this long is let go; it can resume",
        default=20.0,
        parse=number(0.5, 600),
    )
    body_seconds: float = setting(
        "CHATAPP_BODY_SECONDS",
        "the body of a request has to arrive within this time, and a second more per 100 kB",
        default=15.0,
        parse=number(0.5, 600),
    )
    drain_seconds: float = setting(
        "CHATAPP_DRAIN_SECONDS",
        "how long running answers may go on when the site is stopped; the rest is gone on with at the next start",
        default=5.0,
        parse=number(0, 600),
    )
    streams_per_user: int = setting(
        "CHATAPP_STREAMS_PER_USER", "answers that one person may read at once", default=50, parse=whole(1, 100_000)
    )
    max_streams: int = setting(
        "CHATAPP_MAX_STREAMS", "answers that may be read at once in all", default=5000, parse=whole(1, 1_000_000)
    )
    # model APIs
    local_model: str = setting(
        "CHATAPP_LOCAL_MODEL", "a GGUF file for the built-in model, or `off`; by default the one on board", default=""
    )
    ollama_host: str = setting(
        "OLLAMA_HOST", "Ollama, used when it answers", default="http://127.0.0.1:11434", parse=http_url
    )
    openai_api_key: str = setting("OPENAI_API_KEY", "key for OpenAI or a compatible server", default="", secret=True)
    openai_base_url: str = setting(
        "OPENAI_BASE_URL", "an OpenAI-compatible server, with its `/v1`", default="", parse=http_url
    )
    anthropic_api_key: str = setting("ANTHROPIC_API_KEY", "key for Anthropic", default="", secret=True)
    anthropic_base_url: str = setting(
        "ANTHROPIC_BASE_URL", "another server that speaks Anthropic's API", default="", parse=http_url
    )
    xai_api_key: str = setting("XAI_API_KEY", "key for xAI", default="", secret=True)
    xai_base_url: str = setting(
        "XAI_BASE_URL", "another server that speaks xAI's API, with its `/v1`", default="", parse=http_url
    )
    vllm_base_url: str = setting(
        "VLLM_BASE_URL VLLM_QWEN_7B_URL", "a vLLM server, with its `/v1`", default="", parse=http_url
    )
    # model calls
    connect_seconds: float = setting(
        "CHATAPP_CONNECT_SECONDS", "longest wait for a connection to a model API", default=5.0, parse=number(0.1, 120)
    )
    first_event_seconds: float = setting(
        "CHATAPP_FIRST_EVENT_SECONDS", "longest wait for a model's first token", default=120.0, parse=number(0.1, 3600)
    )
    idle_seconds: float = setting(
        "CHATAPP_IDLE_SECONDS", "longest silence between two tokens", default=60.0, parse=number(0.1, 3600)
    )
    total_seconds: float = setting(
        "CHATAPP_TOTAL_SECONDS", "longest time for one answer", default=900.0, parse=number(1, 86400)
    )
    # not from the environment
    local_model_url: str = setting(
        "CHATAPP_LOCAL_MODEL_URL", "set by gunicorn for its workers: where the built-in model listens", default=""
    )
    local_model_key: str = setting(
        "CHATAPP_LOCAL_MODEL_KEY", "set by gunicorn for its workers: the built-in model's key", default="", secret=True
    )
    lease_seconds: float = 2.0  # a runner that was not heard of for this long is presumed dead
    max_answer_bytes: int = 8 * 1024 * 1024  # an endless stream ends here

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, dotenv: Path | None = ROOT / ".env") -> Settings:
        """Return the settings of *environ* (by default the process's own), which wins over the file *dotenv*.

        Makes the data folder and, once, the secret key in it. Raises SettingsError, which names the variable.
        """
        given = {key: value for key, value in (dotenv_values(dotenv) if dotenv else {}).items() if value}
        given.update({key: value for key, value in (os.environ if environ is None else environ).items() if value})
        settings = cls(**{f.name: parsed(f, given) for f in fields(cls) if variable(f, given)})
        return settings.completed()

    def completed(self) -> Settings:
        """Return the settings with what depends on the data folder filled in. Raises SettingsError."""
        if self.auth == "off" and not is_loopback(self.bind.rpartition(":")[0]):
            raise SettingsError(
                "CHATAPP_AUTH=off serves one person on their own machine: "
                f"CHATAPP_BIND must be a loopback address, not {self.bind}."
            )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if not self.secret_key:
                object.__setattr__(self, "secret_key", kept_secret(self.data_dir / "secret_key"))
        except OSError as error:
            raise SettingsError(f"CHATAPP_DATA_DIR: {self.data_dir} cannot be written ({error.strerror}).") from error
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.data_dir / 'chatapp.db'}")
        return self

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes that all machines of the site have for *purpose*; they do not tell the secret key."""
        return hmac.digest(self.secret_key.encode(), purpose.encode(), "sha256")

    @property
    def redis_prefix(self) -> str:
        """What all names in Redis begin with, so that several sites can share one."""
        return f"chatapp:{self.derived_key('names in Redis').hex()[:16]}:"


def variable(setting_field: Field[Any], given: Mapping[str, str]) -> str | None:
    """Return the name of the variable that sets *setting_field*, None where none does."""
    return next((name for name in setting_field.metadata.get("variables", ()) if name in given), None)


def parsed(setting_field: Field[Any], given: Mapping[str, str]) -> Any:
    name = variable(setting_field, given)
    assert name is not None
    parse = setting_field.metadata["parse"]
    try:
        return parse(given[name])
    except ValueError as error:
        value = f"={given[name]!r}" if setting_field.repr else ""  # an address may have a password in it
        raise SettingsError(f"{name}{value} is wrong: it takes {parse.__doc__}.") from error


def kept_secret(file: Path) -> str:
    """Return the secret in *file*; the first time it is made, with mode 600."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip()
    with os.fdopen(descriptor, "w") as out:
        secret = secrets.token_hex(32)
        out.write(secret)
    return secret


def is_loopback(host: str) -> bool:
    """Say whether *host* reaches this machine only."""
    host = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
