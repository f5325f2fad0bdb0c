"""People, added and changed from the shell, sign in on the site. Each test goes on where the one before it ended."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from chatapp.settings import ROOT
from tests.cli.conftest import Run, command
from tests.support.site import PASSWORD, Client, Site

NEW = "another password"


def add(run: Run, email: str, *options: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    return run("users", "add", email, *options, "--password-stdin", stdin=f"{password}\n")


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert that a command ended with *code* and one sentence on standard error, in which *words* are."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("chatapp: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_the_first_account_is_an_admin_and_the_next_is_none(run: Run) -> None:
    assert add(run, "Ada@Example.org", "--name", "Ada").stdout == "ada@example.org can sign in now, as an admin.\n"
    assert add(run, "bob@example.org", "--plan", "PRO").stdout == "bob@example.org can sign in now, as a user.\n"
    listed = run("users", "list")
    head, ada, bob = listed.stdout.splitlines()
    assert head.split() == ["EMAIL", "NAME", "ROLE", "PLAN", "SINCE"]
    assert ada.split()[:4] == ["ada@example.org", "Ada", "admin", "–"]
    assert bob.split()[:4] == ["bob@example.org", "bob", "user", "PRO"]
    assert ada.index("admin") == bob.index("user")
    users = json.loads(run("users", "list", "--json").stdout)["users"]
    assert [(user["email"], user["role"], user["plan"]) for user in users] == [
        ("ada@example.org", "admin", None),
        ("bob@example.org", "user", "PRO"),
    ]


def test_what_cannot_be_an_account_is_refused(run: Run) -> None:
    refused(add(run, "ADA@example.org"), 1, "ada@example.org", "already")
    refused(add(run, "no address"), 2, "email")
    refused(add(run, "new@example.org", password="short"), 2, "8 to 200")
    refused(add(run, "new@example.org", "--name", "two\nlines"), 2, "name")
    refused(add(run, "new@example.org", "--plan", "GOLD"), 2, "GOLD")
    assert len(run("users", "list").stdout.splitlines()) == 3


def test_a_password_is_no_argument_and_is_not_asked_of_a_pipe(run: Run) -> None:
    assert run("users", "add", "new@example.org", "--password", "x" * 9).returncode == 2
    refused(run("users", "add", "new@example.org"), 2, "--password-stdin")


def test_a_password_is_asked_for_twice_and_not_shown(environ: dict[str, str], run: Run) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        command("users", "add", "eve@example.org"),
        cwd=ROOT,
        env=environ,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    for prompt in (b"Password:", b"Again:"):
        while prompt not in shown:
            shown += os.read(master, 1024)
        time.sleep(0.1)  # until it has turned the echo off, which comes with the prompt
        os.write(master, PASSWORD.encode() + b"\n")
    while b"sign in now" not in shown:
        shown += os.read(master, 1024)
    os.close(master)
    assert process.wait(120) == 0
    assert PASSWORD.encode() not in shown
    assert "eve@example.org" in run("users", "list").stdout


def test_the_site_knows_what_the_shell_did_and_old_sign_ins_end(
    new_site: Callable[..., Site], run: Run, environ: dict[str, str]
) -> None:
    site = new_site(CHATAPP_DATA_DIR=environ["CHATAPP_DATA_DIR"])
    ada = Client(site.url)
    ada.sign(ada.call("POST", "/api/auth/login", {"email": "ada@example.org", "password": PASSWORD}))
    done = run("users", "passwd", "ada@example.org", "--password-stdin", stdin=NEW)
    assert "has a new password" in done.stdout
    ada.call("GET", "/api/auth/me", status=401)
    again = Client(site.url)
    again.call("POST", "/api/auth/login", {"email": "ada@example.org", "password": PASSWORD}, 401)
    again.sign(again.call("POST", "/api/auth/login", {"email": "ada@example.org", "password": NEW}))

    refused(run("users", "role", "ada@example.org", "user"), 1, "only admin")
    assert run("users", "role", "bob@example.org", "admin").stdout == "bob@example.org is an admin now.\n"
    assert run("users", "role", "ada@example.org", "user").stdout == "ada@example.org is a user now.\n"
    assert again.call("GET", "/api/auth/me")["role"] == "user"
    refused(run("users", "role", "nobody@example.org", "user"), 2, "nobody@example.org")


def test_a_database_of_no_use_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "chatapp.db").write_bytes(b"no database" * 100)
    refused(run("users", "list", CHATAPP_DATA_DIR=str(tmp_path)), 1, "chatapp.db")
