"""Stop silent answers as the runner does, under gevent: `python stopped.py URL` prints what became of each.

    {"PROVIDER SCENARIO WAY": {"raised": what the reader got, "stopped": seconds since 1970}, ...}

It is a script, since gevent must be there before anything else is imported.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from chatapp import providers  # noqa: E402
from tests.providers.conftest import asked, settings_for  # noqa: E402

SCENARIOS = ("silent-headers", "silent-body", "silent-after-3", "heartbeats-only", "heartbeats-only,delay=0", "drip")


class Stop(BaseException):
    """As gevent.Timeout: no Exception, so that nothing takes it for a failure of its own."""


WAYS = {"kill": lambda reader: reader.kill(block=False), "throw": lambda reader: reader.kill(Stop, block=False)}


def read(provider: providers.Provider, model: str, seen: dict[str, Any]) -> None:
    try:
        for _ in provider.stream(asked(model)):
            pass
    except BaseException as error:
        seen["raised"] = type(error).__name__
        raise


def main(url: str) -> None:
    gevent.get_hub().NOT_ERROR += (Stop,)
    seen: dict[str, dict[str, Any]] = {}
    readers = []
    for name, provider in providers.load(settings_for(url)).items():
        for scenario in SCENARIOS:
            for way in WAYS:
                key = f"{scenario},by={name}-{way}"
                seen[key] = {}
                readers.append((way, seen[key], gevent.spawn(read, provider, key, seen[key])))
    gevent.sleep(0.4)  # all are silent now; it does not matter if some are not yet
    for way, entry, reader in readers:
        entry["running"] = not reader.dead
        entry["stopped"] = time.time()
        WAYS[way](reader)
    gevent.joinall([reader for _, _, reader in readers], timeout=10)
    print(json.dumps(seen), flush=True)
    sys.stdin.read()  # not the end of the program closes the connections


main(sys.argv[1])
