"""The built-in model: a llama.cpp server that the site starts itself. It goes on from a trailing assistant message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chatapp.providers import Model
from chatapp.providers._http import Api
from chatapp.providers._openai_api import OpenAIApi, base_url, silence_seconds
from chatapp.settings import Settings

# "/models/SmolLM2-135M-Instruct.Q4_1.gguf": the folder, the training and the quantisation say little to a reader
FILE = re.compile(r"(?:.*[/\\])?(?P<name>.+?)(?:-(?:instruct|chat))?(?:[.-](?:i?q\d\w*|b?f\d\d))?\.gguf", re.IGNORECASE)


class Local(OpenAIApi):
    def model(self, name: str, entry: Mapping[str, Any]) -> Model:
        file = FILE.fullmatch(name)
        return super().model(file["name"].lower() if file else name, entry)


def provider(settings: Settings) -> Local | None:
    if not settings.local_model_url:
        return None
    api = Api(
        title="The built-in model",
        base_url=base_url(settings.local_model_url),
        headers={"Authorization": f"Bearer {settings.local_model_key}"} if settings.local_model_key else {},
        connect_seconds=settings.connect_seconds,
        silence_seconds=silence_seconds(settings),
        not_there="It may still be starting: try again in a moment.",
        check_address="Try again in a moment.",
        key_refused="The built-in model refused the site's key. Restart the site.",
    )
    return Local(name="local", api=api, max_answer_bytes=settings.max_answer_bytes, can_continue=True)
