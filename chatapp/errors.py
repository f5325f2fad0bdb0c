"""The tree of errors: each has a status, a code of the contract, and a sentence for people.

Services raise these; one handler in `app.py` makes the contract's error body of them. After the first byte of a
stream an error is no longer an exception but a `Failed` event (`chatapp.events`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class AppError(Exception):
    """What a request can end in besides success: `code` and `status` are the contract's, `message` is for people."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    default_message: ClassVar[str] = "Something went wrong on the server. Try again in a moment."

    def __init__(self, message: str | None = None, *, retry_after: int | None = None, **extra: Any) -> None:
        self.message = message or self.default_message
        self.retry_after = retry_after  # seconds, for the header of the same name
        self.extra = extra
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """Return the contract's error body, ready for JSON."""
        return {"error": {"code": self.code, "message": self.message, **self.extra}}


class ValidationFailed(AppError):
    code, status = "validation_error", 400
    default_message = "The request is not valid."

    def __init__(self, message: str | None = None, *, fields: Mapping[str, Any] | None = None) -> None:
        self.fields = dict(fields or {})
        super().__init__(message or first_message(self.fields) or self.default_message)
        if self.fields:
            self.extra["fields"] = self.fields


class Unauthorized(AppError):
    code, status = "unauthorized", 401
    default_message = "Sign in to go on."


class Forbidden(AppError):
    code, status = "forbidden", 403
    default_message = "You may not do this."


class NotFound(AppError):
    """Also for what exists but is not the asker's: existence is never told."""

    code, status = "not_found", 404
    default_message = "There is nothing here."


class Conflict(AppError):
    code, status = "conflict", 409
    default_message = "This cannot be done in the present state."


class SessionExpired(AppError):
    code, status = "session_expired", 410
    default_message = "This session has expired. Ask again to get a new one."


class PayloadTooLarge(AppError):
    code, status = "payload_too_large", 413
    default_message = "The request is too large: its body may have at most 1 MiB."


class UriTooLong(AppError):
    code, status = "uri_too_long", 414
    default_message = "The address is too long."


class UnsupportedMediaType(AppError):
    code, status = "unsupported_media_type", 415
    default_message = "Send JSON, with Content-Type: application/json."


class RateLimited(AppError):
    code, status = "rate_limited", 429
    default_message = "Too many requests. Wait a moment."


class QuotaExceeded(AppError):
    code, status = "quota_exceeded", 429
    default_message = "You have used up what you may use in a day."


class Overloaded(AppError):
    code, status = "overloaded", 503
    default_message = "The site is busy. Try again in a moment."

    def __init__(self, message: str | None = None, *, retry_after: int | None = 1, **extra: Any) -> None:
        super().__init__(message, retry_after=retry_after, **extra)


class ProviderError(AppError):
    """A model API failed. `retryable` says whether asking again may help."""

    code, status = "provider_unavailable", 502
    default_message = "The model does not answer."

    def __init__(self, message: str | None = None, *, retryable: bool = True, retry_after: int | None = None) -> None:
        self.retryable = retryable
        super().__init__(message, retry_after=retry_after)


class ProviderTimeout(ProviderError):
    code, status = "provider_timeout", 504
    default_message = "The model took too long."


class ProviderRateLimited(ProviderError):
    code, status = "rate_limited", 429
    default_message = "The model's API allows no more requests for now."


class ModelNotFound(ProviderError):
    code, status = "not_found", 404
    default_message = "This model is not there."

    def __init__(self, message: str | None = None, *, retryable: bool = False, retry_after: int | None = None) -> None:
        super().__init__(message, retryable=retryable, retry_after=retry_after)


class PromptTooLong(ProviderError):
    """The history is longer than the model's context."""

    code, status = "payload_too_large", 413
    default_message = "The conversation is too long for this model. Start a new one."

    def __init__(self, message: str | None = None, *, retryable: bool = False, retry_after: int | None = None) -> None:
        super().__init__(message, retryable=retryable, retry_after=retry_after)


class AnswerTooLarge(ProviderError):
    code, status = "payload_too_large", 502
    default_message = "The answer is larger than this site takes."


class Interrupted(ProviderError):
    """The stream ended without its protocol's end mark: what came is kept, but it is not the whole answer."""

    code, status = "interrupted", 502
    default_message = "The model stopped before the end. What it wrote is kept."


ENDINGS: dict[str, type[AppError]] = {
    "storage": Overloaded,
    **{kind.code: kind for kind in (AppError, ProviderError, ProviderTimeout, ModelNotFound, PromptTooLong)},
}
RATE_LIMITED_SECONDS = 10  # where the model API's own time is not known any longer


def of_answer(code: str, message: str) -> AppError:
    """Return the error that an answer ended with, before its first word, as one that a request can end with."""
    if code == ProviderRateLimited.code:
        return ProviderRateLimited(message, retry_after=RATE_LIMITED_SECONDS)
    return ENDINGS.get(code, ProviderError)(message)


class SettingsError(Exception):
    """A setting has a wrong value; the text names the variable and says what it takes."""


def first_message(fields: Mapping[str, Any]) -> str | None:
    """Return one sentence for the first wrong field (`"model: Missing data for required field."`), or None."""
    for name, problem in fields.items():
        while isinstance(problem, Mapping) and problem:
            problem = next(iter(problem.values()))
        if isinstance(problem, (list, tuple)) and problem:
            problem = problem[0]
        return f"{name}: {problem}"
    return None
