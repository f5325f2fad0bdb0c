"""Two hundred and more ways in which a model API can answer, cut anywhere: the text is exact, and the end is told."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatapp.events import Reasoning, Token
from chatapp.providers import Piece, _stream
from tests.faults import LONG
from tests.faults._corpus import CUT, WELL, Script, scripts, told
from tests.providers.test_streams import API, READERS, replayed
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site

pytestmark = pytest.mark.timeout(7200 if LONG else 240)
CORPUS = list(scripts())
SIZES = range(1, 65 if LONG else 17)
LIVE = CORPUS if LONG else CORPUS[::5]
ENDS = {"": ("", ",end=fin", ",end=rst", ",end=chunk"), ",close-delimited": ("", ",end=rst")}
FRAMINGS = [f"{kind}{block}{end}" for kind, block in product(ENDS, ("", ",block=1", ",block=7")) for end in ENDS[kind]]


def outcome(pieces: list[Piece], code: str | None) -> tuple[str, str, str | None]:
    text = "".join(piece.content for piece in pieces if isinstance(piece, Token))
    return text, "".join(piece.content for piece in pieces if isinstance(piece, Reasoning)), code


def expected(script: Script) -> tuple[str, str, str | None]:
    return script.text, script.reasoning, script.code


def wrong(size: int) -> list[str]:
    """Return the scripts that are not read as they should be in blocks of *size* bytes."""
    return [told(one) for one in CORPUS if outcome(*replayed(one.api, one.body, size)) != expected(one)]


def test_there_are_enough_scripts() -> None:
    assert len(CORPUS) == len({script.name for script in CORPUS}) >= 200
    assert {script.api for script in CORPUS} == set(READERS)


@pytest.mark.parametrize("size", SIZES)
def test_every_script_in_blocks_of_any_size_is_read_as_it_was_written(size: int) -> None:
    assert wrong(size) == []


def test_the_control_a_reader_that_forgets_between_blocks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Any, data: bytes) -> list[str]:
        from chatapp import sse

        return [frame.data for frame in sse.Parser().feed(data)]

    monkeypatch.setattr(_stream.Events, "feed", forgetful)
    assert wrong(16) != []


def test_the_control_a_reader_that_needs_no_end_mark_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    end = _stream.Reader.last

    def trusting(self: Any) -> list[Piece]:
        pieces = end(self)
        self.ended = self.failure is None
        return pieces

    monkeypatch.setattr(_stream.Reader, "last", trusting)
    assert {json.loads(one)["name"].split("-after-")[0] for one in wrong(64)} >= {
        "openai-cut",
        "ollama-cut",
        "anthropic-cut",
    }


@settings(max_examples=100_000 if LONG else 300, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=st.sampled_from(CORPUS), data=st.data())
def test_every_script_cut_anywhere_is_read_as_it_was_written(script: Script, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(script.body) - 1)), max_size=30)))
    reader = _stream.Reader(API, *READERS[script.api](), 1 << 20)
    pieces: list[Piece] = []
    for begin, end in zip([0, *cuts], [*cuts, len(script.body)], strict=True):
        if not reader.ended and not reader.failure:
            pieces += reader.read(script.body[begin:end])
    if not reader.ended and not reader.failure:
        pieces += reader.last()
    code = None if reader.ended else reader.failure.code if reader.failure else CUT
    assert outcome(pieces, code) == expected(script)


@settings(max_examples=20_000 if LONG else 300, deadline=None)
@given(api=st.sampled_from(sorted(READERS)), rubbish=st.binary(max_size=400), size=st.integers(1, 40))
def test_rubbish_is_read_without_any_other_error_and_the_same_however_it_is_cut(
    api: str, rubbish: bytes, size: int
) -> None:
    assert replayed(api, rubbish, size) == replayed(api, rubbish, len(rubbish) or 1)
    assert replayed(api, rubbish, size)[1] is not None


# The same through the site: gunicorn, a socket to the model, the log, a stream, and what is stored in the end


def answered(client: Client, script: Script, model: str) -> str | None:
    """Ask *model*, which sends *script*; return what is wrong with the answer, None if nothing is."""
    started, frames = client.ask("x", f"{script.api}/{model}")
    stored = client.answer(started)
    last = json.loads(frames[-1].data)
    text = "".join(json.loads(frame.data)["content"] for frame in frames if frame.event == "token")
    code = None if frames[-1].event == "done" else last["code"]
    seen = {
        "text": text == script.text,
        "code": code == script.code,
        "ids": [frame.id for frame in frames] == [str(n) for n in range(1, len(frames) + 1)],
        "ends": [frame.event in ("done", "fail") for frame in frames].count(True) == 1,
        "stored": (stored["content"], (stored["error"] or {}).get("code")) == (text, code),
        "status": stored["status"] == {WELL: "finished", CUT: "interrupted"}.get(code, "failed"),
    }
    return None if all(seen.values()) else f"{told(script)} {model} {seen} {text!r} {code}"


def test_scripts_through_the_whole_site_end_as_they_should(site: Site, fake_models: FakeModels) -> None:
    ada = site.new_user()
    logged = len(site.log())

    def one(number: int) -> str | None:
        client = Client(site.url)
        client.http.headers.update(ada.http.headers)
        fake_models.keep(number, LIVE[number].body)
        return answered(client, LIVE[number], f"script-{number}{FRAMINGS[number % len(FRAMINGS)]}")

    with ThreadPoolExecutor(6) as pool:
        problems = [problem for problem in pool.map(one, range(len(LIVE))) if problem]
    assert problems == []
    assert "Traceback" not in site.log()[logged:]
