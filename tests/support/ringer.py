"""A process with a bell, as tests see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatapp.settings import ROOT
from tests.support.site import wait_until


class Ringer:
    """Runs `tests.support.bell_process`; what it says is in `said`, a list of words a line."""

    def __init__(self, log: Path, *arguments: str, **environ: str) -> None:
        self.log_file = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.bell_process", *arguments],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.said: list[list[Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.calls = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def ready(self) -> Ringer:
        self.until(lambda: ["ready"] in self.said)
        return self

    def until(self, condition: Callable[[], Any]) -> Any:
        def check() -> Any:
            assert self.process.poll() is None, self.log()
            return condition()

        return wait_until(check)

    def call(self, name: str, *words: Any, seconds: float = 20) -> list[list[Any]]:
        """Make the process do something; return what it said meanwhile."""
        before = len(self.said)
        self.send(name, *words)
        self.calls += 1
        wait_until(lambda: sum(said[0] == "done" for said in list(self.said)) >= self.calls, seconds, name)
        return self.said[before:]

    def send(self, name: str, *words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *words]).encode() + b"\n")
        self.process.stdin.flush()

    def seqs(self, generation_id: str) -> list[int]:
        """Return the seqs heard of a log."""
        return [seq for said in list(self.said) if said[:2] == ["heard", generation_id] for seq in said[2]]

    def heard_at(self, generation_id: str) -> dict[int, float]:
        heard = [said for said in list(self.said) if said[:2] == ["heard", generation_id]]
        return {seq: at for _, _, seqs, _, at in heard for seq in seqs}

    def told(self) -> list[Any]:
        return [said[1] for said in list(self.said) if said[0] == "told"]

    def gap(self) -> float:
        """Return the longest time its event loop stood still since this was asked last."""
        return next(float(said[1]) for said in self.call("largest_gap") if said[0] == "gap")

    def log(self) -> str:
        return self.log_file.read_text()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
