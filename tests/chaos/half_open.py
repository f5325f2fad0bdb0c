"""The cable of a reader is pulled: run in a network of its own, whose loopback then drops all.

    unshare --net python -m tests.chaos.half_open FOLDER SEND_TIMEOUT_SECONDS [GUARD]

prints how many seconds the worker held the reader's connection.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.latency import serves
from tests.chaos.load import Load, workers
from tests.chaos.model import Model
from tests.chaos.reader import STREAMS, Reader
from tests.support.site import Site, wait_until

PATIENCE_SECONDS = 40


def held(folder: Path, send_timeout_seconds: str, without: str) -> float:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    guards = {"CHATAPP_SEND_TIMEOUT_SECONDS": send_timeout_seconds, "CHATAPP_TEST_WITHOUT": without}
    guards["CHATAPP_HEARTBEAT_SECONDS"] = "0.5"  # what was sent last must have been sent after the cut
    with Model() as model:
        site = Site(folder, application="tests.support.failing_wsgi", **{**model.environ(), **guards})
        with site:
            load = Load(site, model)
            [answer] = load.start(1, readers=0, tokens=100_000, delay=0.02)
            reader = Reader.of(load.client, STREAMS["native"](answer.started))
            raw = reader.open()
            raw.recv(4096)
            [worker] = workers(site)
            wait_until(lambda: serves(worker, reader.port))
            subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "blackhole"], check=True)
            begun = time.monotonic()
            while serves(worker, reader.port) and time.monotonic() < begun + PATIENCE_SECONDS:
                time.sleep(0.1)
            taken = time.monotonic() - begun
            subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)
            reader.last_id = "2"
            reader.read(5000)  # on return, all is there
            assert reader.frames[0].id == "3"
            site.kill()
    return taken


if __name__ == "__main__":
    print(f"held for {held(Path(sys.argv[1]), sys.argv[2], ''.join(sys.argv[3:4])):.1f} s")
