"""Many known answers at once, each with its readers, and a judgement of what reached them."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import requests

from tests.chaos.model import Known, Model
from tests.chaos.reader import STREAMS, Frame, Reader
from tests.support.site import Client, Site, wait_until
from tests.system._processes import children

PATIENCE_SECONDS = 45  # with a site that is being killed
answer_numbers = itertools.count(1)


@dataclass
class Answer:
    """One answer that is being made, and who reads it."""

    known: Known
    started: dict[str, Any]
    readers: list[Reader] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)


@dataclass
class Judgement:
    """What became of a load; what `faults` sums up should be 0."""

    answers: int = 0
    finished: int = 0
    interrupted: int = 0  # marked as such, with all that was shown
    went_on: int = 0  # the model was asked to go on from what was there
    unfinished: int = 0  # neither finished nor marked
    lost: int = 0  # tokens that were shown and are not in the stored answer, or were never shown to a reader
    repeated: int = 0
    wrong: int = 0  # shown or stored, and not what the model said
    asked_twice: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return self.unfinished + self.lost + self.repeated + self.wrong + self.asked_twice


class Load:
    """Answers that run at once."""

    def __init__(self, site: Site, model: Model, client: Client | None = None) -> None:
        self.site = site
        self.model = model
        self.client = client or site.new_user()
        self.client.http.headers["Connection"] = "close"  # a kept one may lead to a worker that is frozen
        self.answers: list[Answer] = []

    def start(
        self, number: int = 1, *, provider: str = "ollama", readers: int = 1, seconds: float = 60, **known: Any
    ) -> list[Answer]:
        """Start that many answers, each with its readers, and return them when the first words are there."""
        begun = [self.begin(Known(next(answer_numbers), **known), provider) for _ in range(number)]
        for answer in begun:
            for _ in range(readers):
                self.attach(answer, seconds)
        return begun

    def begin(self, known: Known, provider: str = "ollama") -> Answer:
        """Start an answer; who gets no reply, or is told to come again, does so with the same key."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                body = {"requestId": f"key-{known.answer}"}
                answer = Answer(known, self.client.start(known.prompt(), f"{provider}/numbers", **body))
                break
            except (requests.RequestException, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.answers.append(answer)
        return answer

    def attach(self, answer: Answer, seconds: float = 60) -> Reader:
        """Let one more read the answer, to its end, in a thread."""
        reader = Reader.of(self.client, STREAMS["native"](answer.started))
        thread = threading.Thread(target=reader.read_to_end, args=(seconds,), daemon=True)
        answer.readers.append(reader)
        answer.threads.append(thread)
        thread.start()
        return reader

    def readers(self) -> list[Reader]:
        return [reader for answer in self.answers for reader in answer.readers]

    def words_shown(self, most: int = 1) -> bool:
        return all(len(reader.frames) > 2 + most for reader in self.readers())

    def wait_for_words(self, most: int = 1) -> None:
        wait_until(lambda: self.words_shown(most), 30, "that all readers see words")

    def judge(self, seconds: float = 60) -> Judgement:
        """Wait until all readers are at the end, and compare what they saw with what is stored and what was said."""
        deadline = time.monotonic() + seconds
        for answer in self.answers:
            for thread in answer.threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        result = Judgement()
        calls: dict[int, list[dict[str, Any]]] = {}
        for call in self.model.calls():
            calls.setdefault(call["answer"], []).append(call)
        for answer in self.answers:
            self.judge_one(answer, calls.get(answer.known.answer, []), result)
        return result

    def judge_one(self, answer: Answer, calls: list[dict[str, Any]], result: Judgement) -> None:
        result.answers += 1
        stored = self.stored(answer)
        whole, content, status = answer.known.text(), stored["content"], stored["status"]
        result.finished += status == "finished"
        result.interrupted += status == "interrupted"
        if status not in ("finished", "interrupted"):
            result.unfinished += 1
            result.notes.append(f"answer {answer.known.answer} is {status}: {stored['error']}")
        right = content == whole if status == "finished" else whole.startswith(content)
        if not right and not answer.known.stamped:
            result.wrong += 1
            result.notes.append(f"answer {answer.known.answer}: stored …{content[-60:]!r}")
        for reader in answer.readers:
            self.judge_reader(answer, reader, content, result)
        result.went_on += any(call["after"] for call in calls)
        again = sum(not call["after"] for call in calls) - 1
        if again > 0 or not all(call["fits"] for call in calls):
            result.asked_twice += 1
            result.notes.append(f"answer {answer.known.answer} was asked for: {calls}")

    def judge_reader(self, answer: Answer, reader: Reader, content: str, result: Judgement) -> None:
        number = answer.known.answer
        ids = [frame.id for frame in reader.frames]
        if repeated := len(ids) - len(set(ids)):
            result.repeated += repeated
            result.notes.append(f"answer {number}: {repeated} events came twice")
        if faults := reader.faults():
            result.wrong += 1
            result.notes.append(f"answer {number}: ids {faults}")
        if not reader.ended:
            result.unfinished += 1
            result.notes.append(f"answer {number}: a reader got no end; {reader.notes[-1:]}, {reader.statuses[-5:]}")
        elif reader.text != content:
            result.lost += max(1, shown_in_vain(reader.frames, content))
            result.notes.append(f"answer {number}: shown …{reader.text[-40:]!r}, stored …{content[-40:]!r}")

    def stored(self, answer: Answer) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.client.answer(answer.started)
            except (requests.RequestException, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def workers(site: Site) -> list[psutil.Process]:
    return children(site, "gunicorn")


def shown_in_vain(frames: list[Frame], content: str) -> int:
    """Return how many of the shown tokens are not where they were shown."""
    at = lost = 0
    for text in (frame.text for frame in frames):
        lost += bool(text) and not content.startswith(text, at)
        at += len(text)
    return lost


def order(site: Site, text: str) -> None:
    """Arm a fail-point: see tests/support/failing_wsgi.py."""
    data = site.folder / "data"
    (data / "obeyed").unlink(missing_ok=True)
    (data / "order.new").write_text(f"{text}\n{time.monotonic_ns()}\n")  # one like it may have been obeyed before
    (data / "order.new").rename(data / "order")


def obeyed(site: Site) -> bool:
    return (site.folder / "data" / "obeyed").exists()


def disarm(site: Site) -> None:
    for name in ("order", "obeyed"):
        (site.folder / "data" / name).unlink(missing_ok=True)


def percentile(values: list[float], part: float) -> float:
    """Return the value that *part* of the values do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
