"""The same as plain.py for asyncio: starlette hands on what httpx reads. A yardstick for run.py."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL_URL = os.environ["MODEL_URL"]
# by default httpx lets a hundred calls run at once and fails the rest
client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None, max_keepalive_connections=100))


async def home(request: Request) -> Response:
    return PlainTextResponse("Ask at POST /chat.")


async def chat(request: Request) -> Response:
    prompt = (await request.json())["prompt"]
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": prompt}]}

    async def relay() -> AsyncIterator[str]:
        async with client.stream("POST", f"{MODEL_URL}/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line:
                    yield f"{line}\n\n"

    return StreamingResponse(relay(), media_type="text/event-stream")


app = Starlette(routes=[Route("/", home), Route("/chat", chat, methods=["POST"])])
