"""A question from the shell: streamed, stored, stopped, with honest exit codes. The site need not run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatapp.settings import ROOT
from tests.cli.conftest import Run, command
from tests.cli.test_users import add, refused
from tests.support.site import PASSWORD, Client, Site, wait_until

SLOW = "openai/count-2000,delay=0.05"


def start(environ: dict[str, str], *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command("ask", *arguments), cwd=ROOT, env=environ, stdout=subprocess.PIPE, **options)


def messages(site: Site, email: str, reference: str) -> list[dict[str, Any]]:
    client = Client(site.url)
    client.sign(client.call("POST", "/api/auth/login", {"email": email, "password": PASSWORD}))
    found: list[dict[str, Any]] = client.call("GET", f"/api/chat/history?chatId={reference}")["messages"]
    return found


def test_an_answer_is_printed_as_it_is_and_stored(
    run: Run, ada: str, new_site: Callable[..., Site], environ: dict[str, str]
) -> None:
    first = run("ask", "one  two\nthree 🦊", "--model", "openai/echo", "--conversation", "notes")
    assert (first.returncode, first.stdout, first.stderr) == (0, "one  two\nthree 🦊\n", "")
    piped = run("ask", "-", "--model", "echo", "--conversation", "notes", "--user", ada, stdin="from a pipe")
    assert (piped.returncode, piped.stdout) == (2, "")  # several providers have it
    piped = run("ask", "-", "--conversation", "notes", "--user", ada, "--json", stdin="from a pipe\n")
    answer = json.loads(piped.stdout)
    assert (answer["content"], answer["status"], answer["model"]) == ("from a pipe\n", "finished", "openai/echo")
    site = new_site(CHATAPP_DATA_DIR=environ["CHATAPP_DATA_DIR"])
    said = [(one["role"], one["content"]) for one in messages(site, ada, "notes")]
    assert said == [
        ("user", "one  two\nthree 🦊"),
        ("assistant", "one  two\nthree 🦊"),
        ("user", "from a pipe\n"),
        ("assistant", "from a pipe\n"),
    ]


def test_an_answer_comes_word_by_word_and_ctrl_c_ends_it_and_keeps_what_came(
    ada: str, environ: dict[str, str], new_site: Callable[..., Site]
) -> None:
    site = new_site(CHATAPP_DATA_DIR=environ["CHATAPP_DATA_DIR"])  # it runs beside it, and knows at once
    asking = start(environ, "count", "--model", SLOW, "--conversation", "talk", stderr=subprocess.PIPE)
    assert asking.stdout is not None
    shown = asking.stdout.read(5)
    assert shown == b"1 2 3"
    assert asking.poll() is None
    [question, place] = messages(site, ada, "talk")
    assert (question["content"], place["status"]) == ("count", "running")
    asking.send_signal(signal.SIGINT)
    rest, wrong = asking.communicate(timeout=120)
    assert (asking.returncode, wrong) == (130, b"")
    kept = messages(site, ada, "talk")[1]
    assert (kept["status"], kept["finishReason"]) == ("stopped", "stopped")
    assert kept["content"] == (shown + rest).decode().rstrip("\n")


@pytest.mark.usefixtures("ada")
def test_a_reader_who_leaves_ends_it(environ: dict[str, str], run: Run) -> None:
    asking = start(environ, "count", "--model", SLOW, stderr=subprocess.PIPE)
    assert asking.stdout is not None
    assert asking.stderr is not None
    asking.stdout.read(1)
    asking.stdout.close()
    assert asking.wait(120) == 130
    assert asking.stderr.read() == b""
    asking.stderr.close()


def test_what_was_killed_goes_on_in_the_site(ada: str, environ: dict[str, str], new_site: Callable[..., Site]) -> None:
    asking = start(environ, "count", "--model", "anthropic/count-60,delay=0.05", "--conversation", "killed")
    assert asking.stdout is not None
    asking.stdout.read(1)
    asking.kill()
    asking.wait()
    asking.stdout.close()
    site = new_site(CHATAPP_DATA_DIR=environ["CHATAPP_DATA_DIR"])
    wait_until(lambda: messages(site, ada, "killed")[1]["status"] != "running")
    answer = messages(site, ada, "killed")[1]
    assert answer["status"] in ("finished", "interrupted")
    assert answer["content"].startswith("1 2")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["x", "--model", "openai/status-500"], 3, []),
        (["x", "--model", "openai/status-429"], 1, []),
        (["", "--model", "openai/echo"], 2, ["QUESTION", "empty"]),
        (["one", "--model", "nobody"], 2, ["--model: There is no model nobody"]),
        (["x", "--conversation", "not a name"], 2, ["--conversation: "]),
        (["x", "--user", "nobody@example.org"], 2, ["nobody@example.org"]),
    ],
)
@pytest.mark.usefixtures("ada")
def test_what_cannot_be_asked_or_answered_is_one_sentence_and_a_code(
    run: Run, arguments: list[str], code: int, words: list[str]
) -> None:
    done = run("ask", *arguments)
    assert done.returncode == code, done
    assert done.stdout.strip() == ""
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_what_a_terminal_would_obey_is_not_shown_to_one(ada: str, environ: dict[str, str], run: Run) -> None:
    evil = "red \x1b[31m and \x1b]0;title\x07 \u202eback"
    assert run("ask", evil, "--model", "openai/echo").stdout == evil + "\n"  # a file gets what was written
    master, terminal = pty.openpty()
    asking = subprocess.Popen(
        command("ask", evil, "--model", "openai/echo"), cwd=ROOT, env=environ, stdout=terminal, stdin=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while data := os.read(master, 1024):
            shown += data
    except OSError:  # the terminal is closed
        pass
    os.close(master)
    assert asking.wait(120) == 0
    assert shown.decode() == "red [31m and ]0;title back\r\n"


def test_the_models_are_listed_and_who_does_not_answer(run: Run) -> None:
    listed = run("models", OLLAMA_HOST="http://127.0.0.1:1")
    assert listed.returncode == 0
    head, *rows = listed.stdout.splitlines()
    assert head.split() == ["MODEL", "PROVIDER", "CONTEXT"]
    assert any(row.split()[:2] == ["openai/echo", "openai"] for row in rows)
    assert listed.stderr.startswith("ollama: Ollama does not answer at http://127.0.0.1:1")
    told = json.loads(run("models", "--json").stdout)
    assert "openai/echo" in {model["id"] for model in told["models"]}
    assert told["away"] == {}


def test_no_model_at_all_is_code_3(run: Run) -> None:
    nowhere = {"OLLAMA_HOST": "http://127.0.0.1:1", "OPENAI_BASE_URL": "", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}
    none = run("models", OPENAI_API_KEY="", ANTHROPIC_API_KEY="", **nowhere)
    assert none.returncode == 3
    assert "There is no model" in none.stderr


def test_the_sweep_tells_what_it_did(run: Run) -> None:
    swept = run("sweep")
    assert swept.returncode == 0, swept.stderr
    assert all(line.split()[0].isdigit() for line in swept.stdout.splitlines())
    assert all(isinstance(count, int) for count in json.loads(run("sweep", "--json").stdout).values())


@pytest.mark.usefixtures("ada")
def test_who_asks_is_said_or_clear(run: Run, tmp_path: Path) -> None:
    elsewhere = {"CHATAPP_DATA_DIR": str(tmp_path)}
    refused(run("ask", "x", "--model", "openai/echo", **elsewhere), 2, "chatapp users add")
    alone = run("ask", "hello", "--model", "openai/echo", CHATAPP_AUTH="off", **elsewhere)
    assert (alone.returncode, alone.stdout) == (0, "hello\n")
    add(run, "bob@example.org")
    refused(run("ask", "x", "--model", "openai/echo"), 2, "--user")
