"""What the error of a model API means: a status and a few words -> the error, with a sentence to act on.

An API's own text is searched for what it means and is never shown: it may quote the key or the prompt.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Container
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from chatapp.errors import ModelNotFound, PromptTooLong, ProviderError, ProviderRateLimited, ProviderTimeout

if TYPE_CHECKING:
    from chatapp.providers._http import Api

MAX_RETRY_AFTER_SECONDS = 24 * 3600

# What errors are called where no status says it: inside a stream that began well. docs.claude.com/en/api/errors,
# platform.openai.com/docs/guides/error-codes
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "exceed_context_size_error": 413,
    "context_length_exceeded": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
TOO_LONG = (
    r"context.{0,20}(length|size|window)|exceed_context|request_too_large|"
    r"(prompt|input|request).{0,20}too (long|large)|too many (input )?tokens"
)
NO_MODEL = r"model.{0,120}(not found|not exist)|(unknown|invalid|no such) model|model_not_found"


class Rule(NamedTuple):
    """The first rule whose statuses hold the status and whose pattern is found in the API's words applies."""

    statuses: Container[int]
    pattern: str
    error: type[ProviderError]
    sentence: str
    retryable: bool = True


# fmt: off
RULES = (
    Rule(range(300, 400), "", ProviderError,
         "{api.title} at {api.where} answered with a redirect, which is not followed. {api.check_address}", False),
    Rule({401}, "", ProviderError, "{api.key_refused}", False),
    Rule({400, 403, 422}, r"api.?key", ProviderError, "{api.key_refused}", False),  # xAI says 400
    Rule({400, 402, 403, 429}, r"insufficient_quota|billing|credit", ProviderRateLimited,
         "The account at {api.title} has no credit left. Check its billing.", False),
    Rule({403}, "", ProviderError, "{api.title} does not let this site use {model}.", False),
    Rule({400, 413, 422, 500}, TOO_LONG, PromptTooLong,
         "{api.title} says that the conversation is too long for {model}. Start a new one, or choose a model "
         "that takes more.", False),
    Rule({413}, "", PromptTooLong, "{api.title} says that the conversation is too long for {model}. Start a new one.", False),
    Rule({400}, r"prefill|continue_final_message", ProviderError,
         "{api.title} cannot go on from the begun answer with {model}. Ask again instead.", False),
    Rule({400, 422}, NO_MODEL, ModelNotFound, "{api.title} has no model {model}. {missing}", False),
    Rule({404}, r"model", ModelNotFound, "{api.title} has no model {model}. {missing}", False),
    Rule({404, 405}, "", ProviderError,
         "{api.title}'s API is not at {api.where} (HTTP {status}). {api.check_address}", False),
    Rule({408, 504}, "", ProviderTimeout, "{api.title} took too long and gave up (HTTP {status}). Try again."),
    Rule({429}, "", ProviderRateLimited, "{api.title} takes no more requests for now. {wait}"),
    Rule({503, 529}, "", ProviderError, "{api.title} is overloaded. {wait}"),
    Rule({500}, r"memory", ProviderError,
         "{api.title} has too little memory for {model}. Choose a smaller model.", False),
    Rule(range(500, 600), "", ProviderError, "{api.title} failed with an error of its own (HTTP {status}). {wait}"),
    Rule(range(1000), "", ProviderError,
         "{api.title} did not accept the request for {model} (HTTP {status}). Try another model.", False),
)
# fmt: on


def from_status(api: Api, status: int, *, detail: str, model: str, retry_after: int | None = None) -> ProviderError:
    """Return the error that *status* and the API's own words, *detail*, mean."""
    rule = next(rule for rule in RULES if status in rule.statuses and re.search(rule.pattern, detail))
    wait = f"Try again in {retry_after} seconds." if retry_after else "Try again in a moment."
    missing = api.model_missing.format(model=model)
    sentence = rule.sentence.format(api=api, model=model or "this model", status=status, wait=wait, missing=missing)
    return rule.error(sentence, retryable=rule.retryable, retry_after=retry_after)


def from_stream(api: Api, record: dict[str, Any], *, model: str) -> ProviderError:
    """Return what an error object inside a stream, whose status was 200, means."""
    error = record.get("error")
    names = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
    statuses = [name if type(name) is int else STATUS_OF_TYPE.get(str(name)) for name in names]
    status = next((status for status in statuses if status and 400 <= status < 600), 500)
    return from_status(api, status, detail=words(record), model=model)


def detail(body: bytes) -> str:
    """Return the words of an error's body in lower case, to be searched and never shown; "" if it is not JSON."""
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return words(record) if isinstance(record, dict) else ""


def words(record: dict[str, Any]) -> str:
    error = record.get("error")
    inner = error if isinstance(error, dict) else {}
    found = [error, *(holder.get(key) for holder in (inner, record) for key in ("code", "type", "param", "message"))]
    return " ".join(word for word in found if isinstance(word, str)).lower()


def seconds(retry_after: str | None) -> int | None:
    """Return a Retry-After header's seconds, up to a day; None if it is absent or odd (RFC 9110 10.2.3)."""
    if not retry_after:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return math.ceil(min(max(wait, 0), MAX_RETRY_AFTER_SECONDS)) if math.isfinite(wait) else None
