"""Slash commands by themselves: what is one, and what each comes to. Without a site."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chatapp.commands
from chatapp import registry
from chatapp.commands import Ask, Changes, Say, View, parse, unescaped
from chatapp.errors import ValidationFailed

COMMANDS = registry.load(chatapp.commands)
PROMISED = {"help", "model", "clear", "title", "system", "docs", "summarize", "export"}
MODELS = ["openai/big", "ollama/small"]


def find_model(name: str) -> str:
    if f"openai/{name}" not in MODELS and name not in MODELS:
        raise ValidationFailed(fields={"model": [f"There is no model {name}."]})
    return name if "/" in name else f"openai/{name}"


def run(name: str, arguments: str = "", **known: Any) -> Any:
    view = {
        "arguments": arguments,
        "site_url": "http://site",
        "conversation_id": "c1",
        "title": "",
        "model": None,
        "system_prompt": None,
        "usual_system_prompt": "Be brief.",
        "has_history": True,
        "help": tuple(member.HELP for member in COMMANDS.values()),
        "models": lambda: MODELS,
        "find_model": find_model,
        **known,
    }
    return COMMANDS[name].run(View(**view))


def test_there_are_the_promised_ones() -> None:
    assert set(COMMANDS) >= PROMISED


@pytest.mark.parametrize("name", COMMANDS)
def test_its_help_is_one_line_that_begins_with_its_name(name: str) -> None:
    usage, colon, what = COMMANDS[name].HELP.partition(":")
    assert usage.split()[0] == f"/{name}"
    assert colon
    assert what.strip()
    assert "\n" not in COMMANDS[name].HELP


@pytest.mark.parametrize("name", COMMANDS)
def test_it_takes_any_argument_and_says_something(name: str) -> None:
    for arguments in ("", " ", "x", "off", "a\nb", "🦊" * 20_000, "`]()<script>", "%s {0}"):
        outcome = run(name, arguments)
        assert isinstance(outcome, Say | Ask)
        assert outcome.text.strip() if isinstance(outcome, Say) else outcome.prompt.strip()
        if isinstance(outcome, Say):
            assert set(outcome.changes.columns) <= {"title", "model", "system_prompt"}


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("/help", ("help", "")),
        ("/HELP", ("help", "")),
        ("/help \n", ("help", "")),
        ("/title  Two words ", ("title", "Two words")),
        ("/system a\n\nb", ("system", "a\n\nb")),
        ("/no-such_1 x", ("no-such_1", "x")),
        ("/etc/hosts is what?", None),
        ("//help", None),
        ("/", None),
        ("/ help", None),
        (" /help", None),
        ("say /help", None),
        ("x\n/help", None),
        ("/hélp", None),
        ("/help\0", None),
        ("/1", None),
    ],
)
def test_what_is_a_command_and_what_is_not(prompt: str, found: tuple[str, str] | None) -> None:
    assert parse(prompt) == found


def test_two_slashes_are_one_that_is_no_command() -> None:
    assert [unescaped(text) for text in ("//help", "///x", "/x", "x", "//")] == ["/help", "//x", "/x", "x", "/"]


def test_help_names_all() -> None:
    for name in COMMANDS:
        assert f"`/{name}" in run("help").text


def test_a_title_is_shown_set_and_refused() -> None:
    assert "Talk" in run("title", title="Talk").text
    assert "no title" in run("title").text
    assert run("title", "  New \n one ").changes == Changes({"title": "New one"})
    long = run("title", "x" * 201)
    assert "200" in long.text
    assert long.changes == Changes()


def test_a_model_is_shown_set_and_refused() -> None:
    assert all(f"`{name}`" in run("model").text for name in MODELS)
    assert "`openai/big`" in run("model", model="openai/big").text
    assert run("model", "big").changes == Changes({"model": "openai/big"})
    unknown = run("model", "other")
    assert "There is no model other. Nothing was changed." in unknown.text
    assert unknown.changes == Changes()
    assert "no model" in run("model", models=list).text


def test_a_system_prompt_is_shown_set_taken_back_and_refused() -> None:
    assert "> Be brief." in run("system").text
    assert "> Rhyme." in run("system", system_prompt="Rhyme.").text
    assert run("system", "Rhyme.\nAlways.").changes == Changes({"system_prompt": "Rhyme.\nAlways."})
    assert run("system", "OFF").changes == Changes({"system_prompt": None})
    assert run("system", "x" * 8001).changes == Changes()


def test_clear_begins_a_new_root_and_changes_nothing_else() -> None:
    assert run("clear").changes == Changes(new_root=True)


def test_a_summary_is_asked_of_the_model_unless_there_is_nothing_to_sum_up() -> None:
    assert isinstance(run("summarize"), Ask)
    assert run("summarize", "in verse").prompt.endswith("in verse")
    assert isinstance(run("summarize", has_history=False), Say)


def test_export_leads_to_each_format() -> None:
    import chatapp.exports

    for name in registry.load(chatapp.exports):
        assert f"(http://site/api/chat/conversations/c1/export?format={name})" in run("export").text


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[str]:
    """A file more in the folder, as somebody who adds a command would put it there."""
    source = "from chatapp.commands import Say\nHELP = '/shout TEXT: says it louder'\n"
    (tmp_path / "shout.py").write_text(source + "def run(view):\n    return Say(view.arguments.upper())\n")
    chatapp.commands.__path__.append(str(tmp_path))
    yield "shout"
    chatapp.commands.__path__.remove(str(tmp_path))
    sys.modules.pop("chatapp.commands.shout", None)


def test_a_file_more_is_a_command_more(planted: str) -> None:
    found = registry.load(chatapp.commands)
    assert set(found) == {*COMMANDS, planted}
    help_lines = tuple(member.HELP for member in found.values())
    assert "`/shout TEXT`: says it louder" in run("help", help=help_lines).text
    assert found[planted].run(View(**{**vars_of("hello")})).text == "HELLO"


def vars_of(arguments: str) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(View.__dataclass_fields__, "")
    return {**empty, "arguments": arguments}
