"""The commands for the shell. Those that work on the site's data are a file each; here are those that start it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import click

from chatapp import __version__, registry
from chatapp.cli._shell import FAILED, WRONG, bring_up_to_date, load, refuse
from chatapp.errors import SettingsError
from chatapp.settings import ROOT, Settings

WRONG_SETTING = WRONG


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatapp", message="%(prog)s %(version)s")
def main() -> None:
    """A self-hosted AI chat site.

    Exit codes: 0 done, 1 failed, 2 used or set wrongly, 3 the model does not answer, 130 ended with Ctrl-C.
    """


@main.command()
def run() -> None:
    """Start the site, after bringing its database up to date."""
    from chatapp import bells, local_model

    settings = load()
    try:
        local_model.find_weights(settings)
        bells.load(settings)  # for Redis a library is needed that may not be there
    except SettingsError as error:
        refuse(str(error))
    check_bind(settings.bind)
    bring_up_to_date(settings)
    check_default_plan(settings)
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py")])


@main.command()
def migrate() -> None:
    """Bring the database up to date."""
    bring_up_to_date(load())
    click.echo("The database is up to date.")


@main.command("settings")
def show_settings() -> None:
    """Print the table of all settings, in Markdown."""
    click.echo(settings_table(), nl=False)


def check_bind(bind: str) -> None:
    """Leave with one sentence, instead of gunicorn's many, if nothing can listen at *bind*."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            refuse(f"it cannot listen at CHATAPP_BIND={bind}: {reason}. Choose another address.", code=FAILED)


def check_default_plan(settings: Settings) -> None:
    """Leave with a sentence if there is no such plan; an admin may have made others than the shipped ones."""
    from chatapp.database import connected, engine_for
    from chatapp.models import plans

    engine = engine_for(settings)
    with connected(engine) as connection:
        names = [plan.name for plan in plans.all_plans(connection)]
    engine.dispose()
    if settings.default_plan not in names:
        refuse(f"CHATAPP_DEFAULT_PLAN={settings.default_plan} is wrong: the plans are {', '.join(names)}.")


def ready_line(settings: Settings, port: int, models: Sequence[str]) -> str:
    """Return what is said when the site can be used; *port* is the real one, where the settings leave it open."""
    host = settings.bind.rpartition(":")[0]
    address = f"http://{'localhost' if host in ('0.0.0.0', '[::]') else host}:{port}"
    if not models:
        return f"chatapp is ready at {address} without a model: see docs/running.md for how to give it one"
    count = "1 model" if len(models) == 1 else f"{len(models)} models"
    return f"chatapp is ready at {address} with {count}: {', '.join(models)}"


TABLE_HEAD = """\
# Settings

From the environment or a file `.env` beside `Makefile`; the environment wins. All are optional. A wrong value stops the start
with a sentence that names it. (`.venv/bin/chatapp settings` prints this page.)

| variable | default | takes | what it is for |
| --- | --- | --- | --- |
"""


def settings_table() -> str:
    """Return docs/settings.md."""
    rows = []
    for field in fields(Settings):
        if "variables" in field.metadata:
            variables = " or ".join(f"`{name}`" for name in field.metadata["variables"])
            cells = variables, shown(field.default), field.metadata["parse"].__doc__, field.metadata["purpose"]
            rows.append(f"| {' | '.join(cells)} |\n")
    return TABLE_HEAD + "".join(rows)


def shown(default: object) -> str:
    """Return a default as it would be written in the environment."""
    if default in ("", ()):
        return ""
    if isinstance(default, Path):
        return f"`{default.relative_to(ROOT)}/`" if default.is_relative_to(ROOT) else f"`{default}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


for member in registry.load(sys.modules[__name__]).values():
    main.add_command(member.command)
