"""A reader that is stopped while the model is silent closes the connection, and the stop is not taken for a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.conftest import asked
from tests.support.fake_models import FakeModels

SECONDS = 3.0  # milliseconds in truth, and a limit of 1 s in the contract; a busy machine is slow to look


@pytest.fixture(scope="module")
def stopped(fake: FakeModels) -> Iterator[dict[str, Any]]:
    script = Path(__file__).with_name("stopped.py")
    child = subprocess.Popen(
        [sys.executable, "-W", "error", script, fake.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    seen = json.loads(child.stdout.readline())
    yield seen
    child.communicate(b"", timeout=10)


def test_every_reader_got_what_stopped_it(stopped: dict[str, Any]) -> None:
    raised = {(key.rpartition("-")[2], entry.get("raised")) for key, entry in stopped.items() if entry["running"]}
    assert raised == {("kill", "GreenletExit"), ("throw", "Stop")}
    assert all(entry["running"] for entry in stopped.values())


def test_every_upstream_saw_the_connection_close(fake: FakeModels, stopped: dict[str, Any]) -> None:
    for key, entry in stopped.items():
        call = fake.wait_for(lambda call: call["disconnected"], model=key)
        assert call["started"] + call["closed_after"] - entry["stopped"] < SECONDS, key


def test_a_reader_that_is_not_stopped_stays_connected(fake: FakeModels, all_providers: Any) -> None:
    stream = all_providers["openai"].stream(asked("silent-after-1,stays=1"))
    next(stream)
    assert not any(call["disconnected"] for call in fake.log("silent-after-1,stays=1"))
    stream.close()
