"""xAI. https://docs.x.ai/docs/api-reference"""

from __future__ import annotations

from chatapp.providers._openai_api import NOT_FOR_CHAT, OpenAIApi, remote
from chatapp.settings import Settings

DEFAULT_URL = "https://api.x.ai/v1"


def provider(settings: Settings) -> OpenAIApi | None:
    api = remote(settings, "xAI", "XAI", url=settings.xai_base_url, default_url=DEFAULT_URL, key=settings.xai_api_key)
    if api is None:
        return None
    return OpenAIApi(name="xai", api=api, max_answer_bytes=settings.max_answer_bytes, hidden=NOT_FOR_CHAT)
