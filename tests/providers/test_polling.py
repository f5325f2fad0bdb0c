"""What a model says is the same whether it is waited for or polled, in each framing and whatever ends it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapp.errors import ProviderError
from chatapp.events import Token
from chatapp.providers import Provider, _body
from tests.providers.conftest import NAMES, asked
from tests.support.fake_models import FakeModels

SCENARIOS = (
    "count-40,delay=0.001",
    "count-40",
    "count-20,delay=0.001,close-delimited",
    "count-20,delay=0.001,block=1",
    "count-20,delay=0.001,block=3",
    "count-20,delay=0.001,gzip",
    "split-utf8-at-2",
    "reasoning",
    "cut-fin-after-2",
    "cut-fin-after-2,close-delimited",
    "cut-rst-after-2",
    "cut-chunk-after-2",
    "no-end-after-2",
    "bad-json-after-2",
    "error-in-stream-after-2",
)


@pytest.fixture(scope="module")
def polled(fake: FakeModels) -> dict[str, Any]:
    script = Path(__file__).with_name("polled.py")
    done = subprocess.run([sys.executable, script, fake.url, *SCENARIOS], capture_output=True, check=True, timeout=60)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def waited(provider: Provider, scenario: str) -> tuple[str, str]:
    text = ""
    try:
        for pieces in provider.stream(asked(scenario)):
            text += "".join(piece.content for piece in pieces if isinstance(piece, Token))
    except ProviderError as error:
        return text, type(error).__name__
    return text, "End"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_polling_brings_what_waiting_brings(
    all_providers: dict[str, Provider], polled: dict[str, Any], scenario: str
) -> None:
    for name in NAMES:
        seen = polled[f"{name} {scenario}"]
        text, ended = waited(all_providers[name], scenario)
        if scenario.startswith("cut-rst"):  # what a reset overtakes is lost
            assert text.startswith(seen["text"]) or seen["text"].startswith(text)
            assert seen["ended"] == ended
        else:
            assert (seen["text"], seen["ended"]) == (text, ended)


def test_all_but_compressed_answers_are_polled(polled: dict[str, Any]) -> None:
    ways = {(key.endswith("gzip"), entry["polled"]) for key, entry in polled.items() if "count" in key}
    assert ways == {(False, True), (True, False)}
    assert max(entry["reads"] for entry in polled.values()) > 10


CHUNKED = b"5\r\nhello\r\n1;name=value\r\n \r\n00c\r\nfive\r\nchunks\r\n0\r\nTrailer: x\r\n\r\n"


@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=20))
def test_chunks_cut_anywhere_are_the_same_body(cuts: list[int]) -> None:
    edges = sorted({0, *cuts, len(CHUNKED)})
    framing = _body.Chunked()
    parts = [framing.feed(CHUNKED[a:b]) for a, b in itertools.pairwise(edges) if not framing.ended]
    assert b"".join(parts) == b"hello five\r\nchunks"
    assert framing.ended


@pytest.mark.parametrize(
    "wire", [b"", b"x\r\n", b"-5\r\n", b"1_0\r\n", b"5\r\nhelloo\r\n", b"\r\n", b"1" * 5000, b"0x5\r\nhello"]
)
def test_what_is_no_chunk_is_broken(wire: bytes) -> None:
    framing = _body.Chunked()
    with pytest.raises(_body.Broken):
        framing.feed(wire)


def test_a_sized_body_ends_where_it_says_and_not_before() -> None:
    framing = _body.Sized(5)
    assert framing.feed(b"abc") == b"abc"
    with pytest.raises(_body.Broken):
        framing.feed(b"")
    assert framing.feed(b"defg") == b"de"
    assert framing.ended
