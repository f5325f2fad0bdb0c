"""Recorded streams: each file in tests/data/providers holds bytes, the file beside it what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatapp import errors, events
from chatapp.providers import ChatRequest, End, Piece, _openai_api, _stream, anthropic, ollama
from chatapp.providers._http import Api

DATA = Path(__file__).parent.parent / "data" / "providers"
CASES = sorted(file.stem for file in DATA.glob("*.txt"))
API = Api(
    title="Fake",
    base_url="http://127.0.0.1",
    connect_seconds=1,
    silence_seconds=1,
    not_there="",
    check_address="",
    key_refused="",
)
READERS: dict[str, Any] = {
    "ollama": lambda: (_stream.Lines(), ollama.Decoder(API, "m")),
    "openai": lambda: (_stream.Events(), _openai_api.Decoder(API, "m")),
    "anthropic": lambda: (_stream.Events(), anthropic.Decoder(API, ChatRequest("m", ()))),
}


def told(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, End):
        return {"name": "end", "finish_reason": piece.finish_reason}
    return {"name": piece.name, **events.dump(piece)}


def replayed(api: str, whole: bytes, size: int, max_bytes: int = 1 << 20) -> tuple[list[Piece], str | None]:
    """Read *whole* in blocks of *size* bytes, as `_stream.ask` does; the pieces and the code of the error."""
    reader = _stream.Reader(API, *READERS[api](), max_bytes)
    pieces: list[Piece] = []
    for start in range(0, len(whole), size):
        pieces += reader.read(whole[start : start + size])
        if reader.failure or reader.ended:
            break
    else:
        pieces += reader.last()
    if reader.ended:
        return pieces, None
    return pieces, reader.failure.code if reader.failure else "interrupted"


@pytest.mark.parametrize("name", CASES)
def test_a_stream_cut_anywhere_gives_the_same_pieces(name: str) -> None:
    whole = (DATA / f"{name}.txt").read_bytes()
    case = json.loads((DATA / f"{name}.json").read_text())
    for size in (*range(1, 17), 64, len(whole)):
        pieces, error = replayed(case["api"], whole, size)
        assert ([told(piece) for piece in pieces], error) == (case["pieces"], case["error"]), f"in blocks of {size}"


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-plain")])
def test_a_stream_that_ends_at_any_byte_is_interrupted_and_its_text_is_a_beginning(name: str) -> None:
    whole = (DATA / f"{name}.txt").read_bytes()
    case = json.loads((DATA / f"{name}.json").read_text())
    text = "".join(piece["content"] for piece in case["pieces"] if piece["name"] == "token")
    ended = [cut for cut in range(len(whole)) if replayed(case["api"], whole[:cut], 1 << 20)[1] != "interrupted"]
    assert all(whole[cut:].strip() in (b"", b"\n") for cut in ended)  # only the last newline may be missing
    for cut in range(len(whole)):
        pieces, _ = replayed(case["api"], whole[:cut], 1 << 20)
        assert text.startswith("".join(piece.content for piece in pieces if isinstance(piece, events.Token)))


def test_all_apis_have_recordings() -> None:
    assert {name.partition("-")[0] for name in CASES} == set(READERS)


@pytest.mark.parametrize("api", READERS)
def test_a_line_past_the_cap_ends_the_stream(api: str) -> None:
    reader = _stream.Reader(API, *READERS[api](), 1 << 30)
    fed = 0
    while not reader.failure:
        reader.read(b"x" * 65536)
        fed += 65536
    assert isinstance(reader.failure, errors.AnswerTooLarge)
    assert fed <= (1 << 20) + 65536


@pytest.mark.parametrize("line", [b"data: x\n", b": x\n\n", b"id: 1\n"])
def test_an_event_without_an_end_is_not_gathered_for_ever(line: bytes) -> None:
    reader = _stream.Reader(API, *READERS["openai"](), 1 << 30)
    for _ in range(_stream.MAX_UNFINISHED_BYTES // len(line) // 1000 + 1):
        reader.read(line * 1000)
    assert isinstance(reader.failure, errors.AnswerTooLarge)


@pytest.mark.parametrize(("max_bytes", "error"), [(10, None), (9, "payload_too_large")])
def test_the_cap_counts_bytes_of_the_answer(max_bytes: int, error: str | None) -> None:
    whole = "".join(f"data: {json.dumps({'choices': [{'delta': {'content': '😀'}}]})}\n\n" for _ in range(2))
    more = json.dumps({"choices": [{"delta": {"reasoning": "xx"}}]})
    stream = f"{whole}data: {more}\n\ndata: [DONE]\n\n".encode()
    assert replayed("openai", stream, 1 << 20, max_bytes)[1] == error


@pytest.mark.parametrize(
    ("prefix", "came", "expected"),
    [
        ("One, ", [" two"], "two"),
        ("One,\n\n", ["\n", "\n", "two"], "two"),
        ("One,\n\n", ["\n- two"], "- two"),
        ("One, ", ["two ", " three"], "two  three"),
        ("One,", [" two"], " two"),
    ],
)
def test_spaces_that_were_cut_off_a_begun_answer_do_not_come_twice(prefix: str, came: list[str], expected: str) -> None:
    request = ChatRequest("m", (), prefix=prefix)
    assert anthropic.body(request)["messages"][-1] == {"role": "assistant", "content": "One,"}
    decode = anthropic.Decoder(API, request)
    pieces: list[Piece] = []
    for text in came:
        delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}
        pieces += decode(json.dumps(delta))
    assert "".join(piece.content for piece in pieces if isinstance(piece, events.Token)) == expected
