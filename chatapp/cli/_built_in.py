"""The built-in model for one command: the running site's own is behind a key that only the site knows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatapp.cli._shell import load, patch, refuse
from chatapp.errors import SettingsError

if TYPE_CHECKING:
    from chatapp.local_model import Supervisor

LOADING_SECONDS = 15.0


@contextlib.contextmanager
def built_in_model(wanted: bool = True) -> Iterator[None]:
    """Start the built-in model, if it is *wanted* and there is one, and end it with the block."""
    patch()
    from chatapp import local_model

    model = None
    if wanted:
        try:
            model = local_model.start(load())
        except SettingsError as error:
            refuse(str(error))
    try:
        if model is not None:
            wait_for(model)
        yield
    finally:
        if model is not None:
            model.stop()


def wait_for(model: Supervisor) -> None:
    from chatapp import local_model

    deadline = time.monotonic() + LOADING_SECONDS
    while time.monotonic() < deadline and not local_model.answers(model.url):
        time.sleep(0.05)


def may_be(model: str | None) -> bool:
    """Say whether *model*, as somebody wrote it, may mean the built-in one."""
    wanted = model or load().default_model
    return not wanted or "/" not in wanted or wanted.startswith("local/")
