"""`chatapp ask`: a question from the shell, stored as any other."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from chatapp.cli._built_in import built_in_model, may_be
from chatapp.cli._people import whose
from chatapp.cli._shell import AWAY, FAILED, INTERRUPTED, MODEL_AWAY, echo_json, opened, refuse, visible

if TYPE_CHECKING:
    from chatapp.events import Event
    from chatapp.models.generations import Generation
    from chatapp.services import Site

OPTIONS = {"prompt": "QUESTION", "modelId": "--model", "chatId": "--conversation"}  # the API's names, and those here


@click.command("ask")
@click.argument("question")
@click.option("--model", help="A model's id, as `chatapp models` lists them; by default the site's own.")
@click.option(
    "--conversation", metavar="REFERENCE", help="The conversation's id or a name of your own, made on first use."
)
@click.option("--user", "email", metavar="EMAIL", help="Who asks; not needed where there is one account only.")
@click.option("--json", "as_json", is_flag=True, help="Print the stored answer as JSON when it has ended.")
def command(question: str, model: str | None, conversation: str | None, email: str | None, as_json: bool) -> None:
    """Ask a model, and print the answer as it comes.

    QUESTION may be - for what comes from standard input. Question and answer are stored; the site need not run. Ctrl-C ends the
    answer and keeps what came.
    """
    with built_in_model(may_be(model)), opened(answers=True) as site, told_in_options():
        asked = checked(prompt=from_input() if question == "-" else question, modelId=model, chatId=conversation)
        generation = begin(whose(email), asked)
        last = print_answer(site, generation, quiet=as_json)
        if as_json:
            echo_json(stored(generation))
        leave(last)


@contextlib.contextmanager
def told_in_options() -> Iterator[None]:
    """Let what is refused be named as it was given here, not as the API calls it."""
    from chatapp.errors import ValidationFailed

    try:
        yield
    except ValidationFailed as error:
        field, colon, said = error.message.partition(": ")
        refuse(OPTIONS.get(field, field) + colon + said)


def from_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        refuse("the question is not valid UTF-8.")


def checked(**values: str | None) -> dict[str, Any]:
    """Return what is asked, as the shape of the API's own start checks it. Raises ValidationFailed."""
    from marshmallow import ValidationError

    from chatapp.errors import ValidationFailed
    from chatapp.schemas.generations import Start

    try:
        found: dict[str, Any] = Start().load(values)
    except ValidationError as error:
        raise ValidationFailed(fields=error.normalized_messages()) from error
    return found


def begin(user: Any, asked: dict[str, Any]) -> Generation:
    from chatapp.services import generations

    generation, _ = generations.start(
        user, asked["prompt"], reference=asked["chatId"], model=asked["modelId"], key=None, field="prompt"
    )
    return generation


def print_answer(site: Site, generation: Generation, *, quiet: bool) -> Event:
    """Print the answer as it comes and return its terminal event; Ctrl-C, and a reader who leaves, end it."""
    import gevent

    from chatapp.events import Token

    generation_id = generation.id
    signals = [gevent.signal_handler(one, site.runners.stop, generation_id) for one in (signal.SIGINT, signal.SIGTERM)]
    shown: Callable[[str], str] = visible if sys.stdout.isatty() else str
    last: Event | None = None
    try:
        for event in followed(site, generation_id):
            if isinstance(event, Token) and not quiet:
                sys.stdout.write(shown(event.content))  # click.echo would take colours out of what goes to a file
                sys.stdout.flush()
            last = event
    except OSError:  # nobody reads what is printed
        site.runners.stop(generation_id)
        *_, last = followed(site, generation_id)
        sys.stdout = None  # what is left in it cannot be said either
    finally:
        for one in signals:
            one.cancel()
    if not quiet and sys.stdout is not None:
        click.echo()
    assert last is not None
    return last


def followed(site: Site, generation_id: str) -> Iterator[Event]:
    from chatapp.eventlog import LogGone, LogTroubled

    try:
        for batch in site.log.follow(generation_id):
            for entry in batch:
                yield entry.event
    except LogTroubled as error:  # it cannot be stored now
        yield error.event
    except LogGone:
        refuse("the conversation was deleted meanwhile.", FAILED)


def stored(generation: Generation) -> dict[str, Any]:
    from chatapp.schemas.conversations import Message
    from chatapp.services import generations

    dumped: dict[str, Any] = Message().dump(generations.stored(generation.message_id))
    return dumped


def leave(last: Event) -> None:
    """End with the code that the answer's end has, and say on standard error what was wrong."""
    from chatapp.events import Failed, Finished

    if isinstance(last, Failed):
        refuse(last.message, MODEL_AWAY if last.code in AWAY else FAILED)
    if isinstance(last, Finished) and last.finish_reason == "stopped":
        sys.exit(INTERRUPTED)
    if isinstance(last, Finished) and last.finish_reason == "length":
        click.echo("chatapp: the answer was cut off at the limit of tokens.", err=True)
