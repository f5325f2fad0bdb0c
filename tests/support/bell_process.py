"""A worker with nothing but a bell, to be rung and heard over pipes: `python -m tests.support.bell_process`.

It takes calls as lines of JSON, `["ring", "some-id", 1, ["a", "b"]]`, and says what it heard, and when, in the same way.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from chatapp import bells  # noqa: E402
from chatapp.bells.local import Bell as Local  # noqa: E402
from chatapp.events import Entry, Token  # noqa: E402
from chatapp.settings import Settings  # noqa: E402


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


def entries(first: int, texts: Sequence[str]) -> list[Entry]:
    return [Entry(seq, Token(text)) for seq, text in enumerate(texts, first)]


class Calls:
    """What can be asked of the process."""

    def __init__(self, bell: bells.Bell) -> None:
        self.bell = bell
        self.gap = 0.0
        bell.listen(self.hear)
        bell.on("news", lambda message: say("told", message))
        gevent.spawn(self.watch)

    def hear(self, generation_id: str, heard: Sequence[Entry]) -> None:
        texts = [entry.event.content for entry in heard]  # type: ignore[attr-defined]
        if generation_id == "poison":
            raise ValueError("a planted failure")
        say("heard", generation_id, [entry.seq for entry in heard], [text[:20] for text in texts], time.monotonic())

    def watch(self) -> None:
        """Keep the longest time in which the event loop served nobody."""
        while True:
            begun = time.monotonic()
            gevent.sleep(0.01)
            self.gap = max(self.gap, time.monotonic() - begun - 0.01)

    def ring(self, generation_id: str, first: int, texts: list[str]) -> None:
        begun = time.monotonic()
        self.bell.ring(generation_id, entries(first, texts))
        say("rung", begun, time.monotonic() - begun)

    def ring_many(self, generation_id: str, count: int, pause: float, size: int = 1) -> None:
        """Ring *count* times and say when, and how long the longest call took."""
        times, longest = [], 0.0
        for seq in range(1, count + 1):
            batch = entries(seq, ["x" * size])
            times.append(time.monotonic())
            self.bell.ring(generation_id, batch)
            longest = max(longest, time.monotonic() - times[-1])
            if pause >= 0:
                gevent.sleep(pause)
        say("rung many", times, longest)

    def tell(self, message: dict[str, Any]) -> None:
        self.bell.tell("news", message)

    def largest_gap(self) -> None:
        say("gap", self.gap)
        self.gap = 0.0

    def want(self, generation_id: str) -> None:
        self.bell.want(generation_id)

    def unwant(self, generation_id: str) -> None:
        self.bell.unwant(generation_id)

    def open(self) -> None:
        self.bell.open()

    def close(self) -> None:
        self.bell.close()


def main() -> None:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    calls = Calls(Local() if sys.argv[1:] == ["local"] else bells.load(Settings.load(dotenv=None)))
    say("ready")
    for line in FileObject(sys.stdin.fileno(), "rb", close=False):
        name, *words = json.loads(line)
        getattr(calls, name)(*words)
        say("done", name)


if __name__ == "__main__":
    main()
