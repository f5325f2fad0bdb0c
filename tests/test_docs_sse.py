"""What docs/sse.md shows does what it says."""

from __future__ import annotations

import re

import pytest

from chatapp import sse
from chatapp.settings import ROOT
from chatapp.sse import Parser

PAGE = (ROOT / "docs" / "sse.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_a_stream_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[0], {})
    assert capsys.readouterr().out.rstrip("\n") == blocks("text")[0].rstrip("\n")


def test_a_thread_can_send_what_a_response_brings() -> None:
    names: dict[str, object] = {"__name__": "example"}
    exec(blocks("python")[1], names)
    response = names["app"].test_client().get("/count")  # type: ignore[attr-defined]
    frames = Parser().feed(response.data)
    assert [frame.event for frame in frames] == ["chunk"] * 1000 + ["done"]


def test_a_broadcast_is_counted_and_arrives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse._connections, "_connections", sse.Connections())
    names: dict[str, object] = {}
    exec(blocks("python")[2], names)
    assert capsys.readouterr().out == "1 ['user:7']\n"
    stream = names["stream"]
    assert isinstance(stream, sse.SSEStream)
    stream.close()
    assert [frame.event for frame in Parser().feed(b"".join(stream))] == ["notification"]


def test_all_that_the_page_names_is_there() -> None:
    for name in re.findall(r"`(?:chatapp\.sse\.)?(\w+)\(", PAGE):
        assert hasattr(sse, name) or hasattr(sse.SSEStream, name) or name in {"close", "subscribe", "stop"}, name
