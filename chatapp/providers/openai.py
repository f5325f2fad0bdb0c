"""OpenAI, or another server that speaks its API, at OPENAI_BASE_URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from chatapp.providers._openai_api import NOT_FOR_CHAT, OpenAIApi, remote
from chatapp.settings import Settings

DEFAULT_URL = "https://api.openai.com/v1"


def provider(settings: Settings) -> OpenAIApi | None:
    api = remote(
        settings,
        "OpenAI",
        "OPENAI",
        url=settings.openai_base_url,
        default_url=DEFAULT_URL,
        key=settings.openai_api_key,
    )
    if api is None:
        return None
    # OpenAI's newer models refuse `max_tokens`; servers that only speak its API may know nothing else.
    own = urlsplit(api.base_url).hostname == urlsplit(DEFAULT_URL).hostname
    return OpenAIApi(
        name="openai",
        api=api,
        max_answer_bytes=settings.max_answer_bytes,
        limit_name="max_completion_tokens" if own else "max_tokens",
        hidden=NOT_FOR_CHAT,
    )
