"""Readers who are cut off anywhere, and readers who come back with any id."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from tests.chaos.load import Answer, Load, answer_numbers
from tests.chaos.model import Known, Model
from tests.chaos.reader import STREAMS, Frame, Reader, Wire
from tests.support.site import Client, Site, wait_until

HANDS = 6  # that cut at once
DIALECTS = ("native", "native", "native", "session", "named")
FIRST_BYTES = 500  # a session may be opened ten times: who has no id yet is let as far as that


@dataclass
class Cuts:
    """What came of it; all but the first two should be 0."""

    cuts: int = 0
    tokens: int = 0
    wrong: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def cut_at_random(
    site: Site, model: Model, dice: random.Random, *, cuts: int, seconds: float, tokens: int = 400
) -> Cuts:
    """Cut readers of running and of ended answers, until there were that many *cuts*, or for so many *seconds*."""
    result, lock, begun = Cuts(), threading.Lock(), time.monotonic()

    def enough() -> bool:
        return result.cuts >= cuts or time.monotonic() - begun > seconds

    def cut(seed: int) -> None:
        own, load = random.Random(seed), Load(site, model)
        while not enough():
            answer = load.begin(Known(next(answer_numbers), tokens, delay=0.003))
            for number in range(4):  # the first while it runs
                if number and enough():
                    break
                done = read_in_pieces(load.client, answer, own.choice(DIALECTS), own)
                with lock:
                    result.cuts += done.cuts
                    result.tokens += tokens
                    result.wrong += done.wrong
                    result.notes += done.notes

    with ThreadPoolExecutor(HANDS) as pool:
        list(pool.map(cut, [dice.randrange(2**32) for _ in range(HANDS)]))
    result.seconds = time.monotonic() - begun
    return result


def read_in_pieces(client: Client, answer: Answer, dialect: str, dice: random.Random) -> Cuts:
    """Read one answer in pieces, and compare with what one sees who is not cut off."""
    path = STREAMS[dialect](answer.started)
    reader = Reader.of(client, path)
    while not reader.last_id and reader.connections < 20:
        reader.read(dice.randrange(FIRST_BYTES, 2 * FIRST_BYTES))
    cuts = reader.read_in_pieces(dice)
    whole = Reader.of(client, path)
    whole.read_to_end(30)
    faults = reader.faults() if dialect == "native" else []
    good = reader.frames == whole.frames and reader.text == answer.known.text() and not faults and not reader.notes
    note = f"{path}: {faults or [reader.frames[-3:], whole.frames[-3:], reader.notes[-1:]]}"
    return Cuts(cuts + 1, wrong=int(not good), notes=[] if good else [note])


def every_cursor(site: Site, model: Model, *, tokens: int, step: int = 1) -> tuple[int, int]:
    """Ask for an ended answer from each of its ids on; return how many were asked for and how many got another rest."""
    load = Load(site, model)
    answer = load.begin(Known(next(answer_numbers), tokens, delay=0.002))
    whole = Reader.of(load.client, STREAMS["native"](answer.started))
    whole.read_to_end(60)
    asked = wrong = 0
    for seen in range(0, len(whole.frames), step):
        reader = Reader.of(load.client, whole.path)
        reader.last_id = str(seen) if seen else ""
        reader.read()
        asked += 1
        wrong += reader.frames != whole.frames[seen:]
    last = Reader.of(load.client, whole.path)
    last.last_id = whole.last_id
    last.read()
    return asked + 1, wrong + (last.statuses != [204] or whole.text != answer.known.text())


def rubbish(dice: random.Random, others: str) -> bytes:
    """Return what is no id of this log, or looks a little like one."""
    kinds = [
        lambda: str(-dice.randrange(10**6)),
        lambda: str(10 ** dice.randrange(4, 400)),
        lambda: f"{dice.randrange(99)},{dice.randrange(99)}",
        lambda: f"{dice.randrange(99)}.{dice.randrange(-9, 99)}",
        lambda: f"{others}-{dice.randrange(99)}",
        lambda: f"{others.replace('-', '')}-{dice.randrange(99)}",
        lambda: dice.choice(
            ["", " ", "0", "00", "+1", "1e3", "0x10", "NaN", "null", "None", "٣", "¹", "1_0", "{}", "'--"]
        ),
        lambda: "".join(
            chr(dice.choice([9, *range(32, 127), 233, 8364, 128512])) for _ in range(dice.randrange(1, 40))
        ),
        lambda: "9" * dice.randrange(1000, 9000),
        lambda: dice.choice("\x00\x01\x7f\x0b") * dice.randrange(1, 3),
    ]
    if dice.random() < 0.1:
        return bytes(dice.choice([9, *range(32, 256)]) for _ in range(dice.randrange(1, 30)))
    return dice.choice(kinds)().encode()


def rubbish_ids(site: Site, model: Model, dice: random.Random, *, number: int) -> tuple[dict[int, int], list[str]]:
    """Come back with rubbish; return how often each status came, and what was answered that should not have been."""
    load, others = Load(site, model), Load(site, model)
    answer = load.begin(Known(next(answer_numbers), 20, delay=0))
    other = others.begin(Known(next(answer_numbers), 20, delay=0))
    wait_until(lambda: {load.stored(answer)["status"], others.stored(other)["status"]} == {"finished"})
    statuses: dict[int, int] = {}
    wrong: list[str] = []
    for _ in range(number):
        given = rubbish(dice, other.started["generationId"])
        reader = Reader.of(load.client, STREAMS[dice.choice(DIALECTS[1:])](answer.started))
        reader.path = reader.path.replace("/api/chat/stream?sessionId=", "/api/generations/") + (
            "/events" if "sessionId" in reader.path else ""  # a session may be opened ten times only
        )
        status, frames = exchange(reader, given)
        statuses[status] = statuses.get(status, 0) + 1
        if status >= 500 or not is_of(answer, frames):
            wrong.append(f"{given!r}: {status}, {frames[:2]}")
    return statuses, wrong


def exchange(reader: Reader, last_event_id: bytes) -> tuple[int, list[Frame]]:
    head = f"GET {reader.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {reader.bearer}\r\n"
    wire, frames = Wire(), []
    with closing(reader.open_quietly()) as raw:
        raw.sendall(head.encode() + b"Last-Event-ID: " + last_event_id + b"\r\n\r\n")
        while data := raw.recv(65536):
            if (wire.status or 200) == 200:
                frames += wire.feed(data)
    return wire.status, frames


def is_of(answer: Answer, frames: list[Frame]) -> bool:
    """Say whether the frames are a rest of that answer, or its `reset`, and of no other."""
    text = "".join(str(frame.json["text"]) if frame.event == "reset" else frame.text for frame in frames)
    return answer.known.text().endswith(text)
