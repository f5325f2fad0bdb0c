"""Ask as the runner does, under gevent, by polling: `python polled.py URL MODEL...` prints what came of each.

    {"PROVIDER MODEL": {"polled": bool, "text": str, "ended": "End" or an error's name, "reads": int}, ...}

It is a script, since gevent must be there before anything else is imported.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from gevent.select import select  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from chatapp import providers  # noqa: E402
from chatapp.events import Token  # noqa: E402
from chatapp.providers import End, Piece  # noqa: E402
from tests.providers.conftest import asked, settings_for  # noqa: E402

SECONDS = 5


def read(stream: Any) -> dict[str, Any]:
    pieces: list[Piece] = []
    seen: dict[str, Any] = {"polled": False, "reads": 1, "ended": None}
    try:
        pieces += next(stream)
        descriptor = stream.poll_descriptor()
        seen["polled"] = descriptor is not None
        while not pieces or not isinstance(pieces[-1], End):
            if descriptor is None:
                pieces += next(stream)
                continue
            if not stream.more and not select([descriptor], [], [], SECONDS)[0]:
                raise TimeoutError
            pieces += stream.poll()
            seen["reads"] += 1
        seen["ended"] = "End"
    except Exception as error:
        seen["ended"] = type(error).__name__
    finally:
        stream.close()
    seen["text"] = "".join(piece.content for piece in pieces if isinstance(piece, Token))
    return seen


def main(url: str, models: list[str]) -> None:
    made = providers.load(settings_for(url))
    print(json.dumps({f"{name} {model}": read(made[name].stream(asked(model))) for name in made for model in models}))


main(sys.argv[1], sys.argv[2:])
