"""Slash commands: one a file, and the file's name is the command's.

A member has `HELP`, which begins with how it is written and says after a colon what it does, and `run(View) -> Say | Ask`.
A command knows what a `View` tells it and does nothing itself: what it wants done is in its outcome.

Commands are found in what a person typed as a prompt, and nowhere else: not in a history that a client sends, not in what
models or documents say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

COMMAND = re.compile(r"/([A-Za-z][\w-]*)(?:\s+(.*))?", re.ASCII | re.DOTALL)  # "/etc/hosts" is a path, and no command
ESCAPE = "//"


@dataclass(frozen=True)
class View:
    """What a command may know: its arguments and the conversation that it was typed in."""

    arguments: str
    site_url: str  # what addresses of this site begin with
    conversation_id: str
    title: str
    model: str | None  # what is asked in the conversation
    system_prompt: str | None  # the conversation's own
    usual_system_prompt: str  # the site's
    has_history: bool  # whether a model would be told anything
    help: tuple[str, ...]  # a line for each command
    models: Callable[[], list[str]]  # the ids of those that the person may ask
    find_model: Callable[[str], str]  # the id that a name means; raises AppError


@dataclass(frozen=True)
class Changes:
    """What becomes of the conversation. `columns` are `title`, `model`, `system_prompt`; a new root forgets what was said."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    new_root: bool = False


@dataclass(frozen=True)
class Say:
    """The command's answer. No model is asked, and models are never told of it."""

    text: str
    changes: Changes = Changes()


@dataclass(frozen=True)
class Ask:
    """What a model is asked in place of the command; its answer is one like any other."""

    prompt: str


class Command(Protocol):
    HELP: str

    def run(self, view: View) -> Say | Ask: ...


def parse(prompt: str) -> tuple[str, str] | None:
    """Return the command in *prompt*, in lower case, and its arguments; None where there is none."""
    found = COMMAND.fullmatch(prompt.rstrip())
    return (found[1].lower(), (found[2] or "").strip()) if found else None


def unescaped(prompt: str) -> str:
    """Return *prompt* as it is meant: of two slashes at its head one says that this is no command."""
    return prompt[1:] if prompt.startswith(ESCAPE) else prompt


def listed(lines: tuple[str, ...]) -> str:
    """Return the commands' help as a Markdown list."""
    return "\n".join(f"- `{usage}`: {what.strip()}" for usage, _, what in (line.partition(":") for line in lines))
