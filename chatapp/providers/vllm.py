"""A vLLM server. It goes on from a begun answer if asked by two fields of its own.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html (Chat API, extra parameters)
"""

from __future__ import annotations

from typing import Any

from chatapp.providers import ChatRequest
from chatapp.providers._http import Api
from chatapp.providers._openai_api import OpenAIApi, base_url, silence_seconds
from chatapp.settings import Settings


class VLLM(OpenAIApi):
    def body(self, request: ChatRequest) -> dict[str, Any]:
        go_on = {"continue_final_message": True, "add_generation_prompt": False} if request.prefix else {}
        return super().body(request) | go_on


def provider(settings: Settings) -> VLLM | None:
    if not settings.vllm_base_url:
        return None
    api = Api(
        title="vLLM",
        base_url=base_url(settings.vllm_base_url),
        connect_seconds=settings.connect_seconds,
        silence_seconds=silence_seconds(settings),
        not_there="Is it running? Check VLLM_BASE_URL.",
        check_address="Check VLLM_BASE_URL.",
        key_refused="vLLM wants an API key, and this site has none for it. Start vLLM without one.",
    )
    return VLLM(name="vllm", api=api, max_answer_bytes=settings.max_answer_bytes, can_continue=True)
