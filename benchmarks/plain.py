"""What anyone would write first: Flask hands on a model's stream. No sign-in, nothing stored; the yardstick for run.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import requests
from flask import Flask, Response, request

app = Flask(__name__)
MODEL_URL = os.environ["MODEL_URL"]


@app.get("/")
def home() -> str:
    return "Ask at POST /chat."


@app.post("/chat")
def chat() -> Response:
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": request.get_json()["prompt"]}]}

    def relay() -> Iterator[bytes]:
        with requests.post(f"{MODEL_URL}/chat/completions", json=body, stream=True, timeout=60) as answer:
            for line in answer.iter_lines():
                if line:
                    yield line + b"\n\n"

    return Response(relay(), mimetype="text/event-stream")
