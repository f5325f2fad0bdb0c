from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatapp import providers
from chatapp.providers import ChatRequest, Turn
from chatapp.settings import Settings
from tests.support.fake_models import FakeModels

KEY = "sk-CANARY-KEY"
NAMES = ("anthropic", "local", "ollama", "openai", "vllm", "xai")


def settings_for(url: str, **more: Any) -> Settings:
    """Settings with all model APIs at *url*."""
    return Settings(
        ollama_host=url,
        openai_api_key=KEY,
        openai_base_url=url,
        anthropic_api_key=KEY,
        anthropic_base_url=url,
        xai_api_key=KEY,
        xai_base_url=f"{url}/v1",
        vllm_base_url=f"{url}/v1/",
        local_model_url=url,
        local_model_key=KEY,
        **more,
    )


def asked(model: str, text: str = "Hello there", **more: Any) -> ChatRequest:
    return ChatRequest(model, (Turn("system", "Be brief."), Turn("user", text)), **more)


@pytest.fixture(scope="session")
def fake() -> Iterator[FakeModels]:
    with FakeModels() as server:
        yield server


@pytest.fixture(scope="session")
def all_providers(fake: FakeModels) -> dict[str, providers.Provider]:
    return providers.load(settings_for(fake.url))


@pytest.fixture(params=NAMES)
def provider(request: pytest.FixtureRequest, all_providers: dict[str, providers.Provider]) -> providers.Provider:
    return all_providers[request.param]
