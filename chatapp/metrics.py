"""Counts for Prometheus, right across the workers of a machine.

Each worker keeps its own in files that all can read (prometheus_client's multiprocess mode; `gunicorn.conf.py` gives the
folder), so that what a killed worker counted stays counted. Without such a folder the process counts for itself.

Nothing here is called for a token. Labels are bounded, and hold nothing that a person wrote: a model that no provider has
listed is called `other`, since its name is whatever somebody sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"
MAX_MODELS = 500  # with names of their own
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
Call = TypeVar("Call", bound=Callable[..., Any])

REGISTRY = CollectorRegistry()
BY_MODEL = ("provider", "model")
STREAMS_OPEN = Gauge(
    "chatapp_streams_open", "Streams that are open now", registry=REGISTRY, multiprocess_mode="livesum"
)
STREAMS_STARTED = Counter("chatapp_streams_started", "Streams that were opened", registry=REGISTRY)
STREAMS_ENDED = Counter("chatapp_streams_ended", "Streams that ended, by why", ("reason",), registry=REGISTRY)
ANSWERS_STARTED = Counter("chatapp_answers_started", "Answers that were begun", BY_MODEL, registry=REGISTRY)
ANSWERS_ENDED = Counter(
    "chatapp_answers_ended",
    "Answers that ended: status, and its finish reason or error code",
    (*BY_MODEL, "status", "reason"),
    registry=REGISTRY,
)
TOKENS = Counter("chatapp_tokens", "Tokens used; kind is prompt or completion", (*BY_MODEL, "kind"), registry=REGISTRY)
FIRST_TOKEN = Histogram(
    "chatapp_time_to_first_token_seconds",
    "From asking the model to its first token",
    BY_MODEL,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120),
    registry=REGISTRY,
)
SPEED = Histogram(
    "chatapp_tokens_per_second",
    "How fast answers were written",
    BY_MODEL,
    buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320, 640),
    registry=REGISTRY,
)
CACHE_HITS = Counter("chatapp_cache_hits", "Answers that were given from the cache", registry=REGISTRY)
CACHE_MISSES = Counter("chatapp_cache_misses", "Answers that were not in the cache", registry=REGISTRY)
PROVIDER_ERRORS = Counter(
    "chatapp_provider_errors", "Answers that a model API failed, by error code", ("provider", "code"), registry=REGISTRY
)
REQUESTS = Counter(
    "chatapp_http_requests", "HTTP requests that were answered", ("method", "route", "status"), registry=REGISTRY
)
DURATION = Histogram(
    "chatapp_http_request_duration_seconds",
    "Time until a response began",
    ("method", "route"),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)

_models: set[str] = set()
_children: dict[Any, Any] = {}


def harmless(call: Call) -> Call:
    """Let nothing that goes wrong in counting reach who is counted: the files may be away, or their disk full."""

    @wraps(call)
    def counted(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception:
            logger.exception("%s could not be counted", call.__name__)

    return cast(Call, counted)


def name_models(model_ids: Iterable[str]) -> None:
    """Let models that a provider has be called by their names."""
    for model_id in model_ids:
        if len(_models) >= MAX_MODELS:
            return
        _models.add(model_id)


@harmless
def stream_opened() -> None:
    STREAMS_STARTED.inc()
    STREAMS_OPEN.inc()


@harmless
def stream_closed(reason: str) -> None:
    """Count one that ended: `answered`, `left` by its reader, `restart` of the site, or the code of an error."""
    STREAMS_OPEN.dec()
    child(STREAMS_ENDED, reason).inc()


@harmless
def answer_started(model_id: str) -> None:
    child(ANSWERS_STARTED, *names(model_id)).inc()


@harmless
def answer_ended(
    model_id: str, *, status: str, reason: str, tokens: tuple[int, int], metadata: Mapping[str, Any], failed: bool
) -> None:
    """Count an answer that was stored to its end; *reason* is its finish reason, or its error's code where it *failed*."""
    provider, model = names(model_id)
    child(ANSWERS_ENDED, provider, model, status, reason).inc()
    if failed:
        child(PROVIDER_ERRORS, provider, reason).inc()
    for kind, count in zip(("prompt", "completion"), tokens, strict=True):
        if count:
            child(TOKENS, provider, model, kind).inc(count)
    if tokens[1] and not metadata.get("cached"):
        if metadata.get("time_to_first_token_ms") is not None:
            child(FIRST_TOKEN, provider, model).observe(metadata["time_to_first_token_ms"] / 1000)
        if metadata.get("tokens_per_second"):
            child(SPEED, provider, model).observe(metadata["tokens_per_second"])


@harmless
def cache_hit() -> None:
    CACHE_HITS.inc()


@harmless
def cache_miss() -> None:
    CACHE_MISSES.inc()


@harmless
def request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request by the template of its route, never by its address."""
    method = method if method in METHODS else OTHER
    child(REQUESTS, method, route, str(status)).inc()
    child(DURATION, method, route).observe(seconds)


def text() -> bytes:
    """Return all that the workers of this machine have counted, in Prometheus' text format."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)
    except ValueError:  # there is no folder: this is the only process
        registry = REGISTRY
    return generate_latest(registry)


def names(model_id: str) -> tuple[str, str]:
    """Return provider and model as they are labelled."""
    provider = model_id.partition("/")[0]
    return provider, model_id.partition("/")[2] if model_id in _models else OTHER


def child(metric: Any, *labels: str) -> Any:
    """Return the one counter of *metric* with these labels; the library takes its time to find it."""
    key = (metric._name, *labels)
    found = _children.get(key)
    if found is None:
        found = _children[key] = metric.labels(*labels)
    return found
