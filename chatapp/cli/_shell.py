"""What the commands share: exit codes, errors in one sentence, tables, and the site, opened in this process.

A command is one more process of the site, as a worker is, whether others run or not: it writes under a lease of its own, its
answers can be followed by everybody, and if it is killed, whoever runs next goes on with them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from chatapp.errors import AppError, ProviderError, SettingsError, ValidationFailed
from chatapp.settings import Settings

if TYPE_CHECKING:
    from chatapp.services import Site

FAILED, WRONG, MODEL_AWAY, INTERRUPTED = 1, 2, 3, 130  # exit codes, as `chatapp --help` tells them
AWAY = {"provider_unavailable", "provider_timeout"}
LEAVING_SECONDS = 2.0  # for what is still to be stored


def refuse(sentence: str, code: int = WRONG) -> NoReturn:
    click.echo(f"chatapp: {sentence}", err=True)
    sys.exit(code)


def load() -> Settings:
    try:
        return Settings.load()
    except SettingsError as error:
        refuse(str(error))


def bring_up_to_date(settings: Settings) -> None:
    from chatapp import database

    try:
        database.migrate(settings)
    except database.Unusable as error:
        refuse(str(error), code=FAILED)


def patch() -> None:
    """Let gevent patch what waits, before anything of the site is imported, as `wsgi.py` does."""
    from gevent import monkey

    monkey.patch_all()
    gc.disable()  # as there: what is imported stays
    logging.disable(logging.WARNING)  # what the site writes into its log is for a log


@contextlib.contextmanager
def opened(*, answers: bool = False) -> Iterator[Site]:
    """The site in this process, its database up to date; whatever goes wrong inside ends in one sentence.

    Only where it *answers* is it opened as in a worker, with a lease and all that goes on in the background.
    """
    patch()
    settings = load()
    bring_up_to_date(settings)
    from sqlalchemy.exc import DBAPIError

    from app import create_app

    try:
        app = create_app(settings)
        gc.enable()
        with app.app_context():
            site: Site = app.extensions["chatapp"]
            site.runners.adopts = False  # answers that others left are the running site's
            if not answers:
                yield site
                return
            site.open()
            try:
                yield site
            finally:
                site.close(LEAVING_SECONDS)
    except SettingsError as error:
        refuse(str(error))
    except AppError as error:
        refuse(error.message, code_of(error))
    except DBAPIError:
        refuse("the database does not answer. Try again in a moment.", FAILED)


def code_of(error: AppError) -> int:
    if isinstance(error, ValidationFailed):
        return WRONG
    return MODEL_AWAY if isinstance(error, ProviderError) and error.code in AWAY else FAILED


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* in columns as wide as what stands in them."""
    widths = [max(width(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def width(text: str) -> int:
    """Return how many places *text* takes in a terminal."""
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def visible(text: str) -> str:
    """Return *text* without what a terminal would obey: a model, or a person's name, must not move its cursor."""
    return "".join(
        one for one in text if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cf") or one == "\u200d"
    )


def echo_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
