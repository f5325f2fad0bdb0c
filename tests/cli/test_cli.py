"""The commands for the shell: tidy words and honest exit codes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chatapp import __version__, cli
from chatapp.settings import Settings


def chatapp(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "CHATAPP_DATA_DIR": str(folder / "data"), **environ}
    command = [sys.executable, "-m", "chatapp.cli", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)


def test_the_version(tmp_path: Path) -> None:
    done = chatapp("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"chatapp {__version__}\n")


@pytest.mark.parametrize("command", ["run", "migrate"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [("CHATAPP_WORKERS", "many"), ("CHATAPP_AUTH", "maybe")],
)
def test_a_wrong_setting_stops_the_start_with_one_sentence(
    tmp_path: Path, command: str, variable: str, value: str
) -> None:
    done = chatapp(command, folder=tmp_path, **{variable: value})
    assert (done.returncode, done.stdout) == (cli.WRONG_SETTING, "")
    assert done.stderr.startswith(f"chatapp: {variable}={value!r} is wrong: ")
    assert done.stderr.count("\n") == 1


def test_weights_that_are_not_there_stop_the_start(tmp_path: Path) -> None:
    done = chatapp("run", folder=tmp_path, CHATAPP_LOCAL_MODEL=str(tmp_path / "no.gguf"))
    assert done.returncode == cli.WRONG_SETTING
    assert done.stderr.startswith("chatapp: CHATAPP_LOCAL_MODEL=")


def test_a_taken_address_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = chatapp("run", folder=tmp_path, CHATAPP_BIND=bind)
    assert done.returncode == 1
    assert done.stderr == (
        f"chatapp: it cannot listen at CHATAPP_BIND={bind}: Address already in use. Choose another address.\n"
    )


def test_migrating_twice_is_migrating_once(tmp_path: Path) -> None:
    for _ in range(2):
        done = chatapp("migrate", folder=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "The database is up to date.\n", "")
    assert (tmp_path / "data" / "chatapp.db").is_file()


def test_the_settings_are_printed(tmp_path: Path) -> None:
    assert chatapp("settings", folder=tmp_path).stdout == cli.settings_table()


@pytest.mark.parametrize(
    ("bind", "models", "line"),
    [
        ("127.0.0.1:0", ["a/b"], "chatapp is ready at http://127.0.0.1:8001 with 1 model: a/b"),
        ("0.0.0.0:8001", ["a/b", "c"], "chatapp is ready at http://localhost:8001 with 2 models: a/b, c"),
        ("[::1]:8001", [], "chatapp is ready at http://[::1]:8001 without a model: see docs/running.md"),
    ],
)
def test_the_ready_line(bind: str, models: list[str], line: str) -> None:
    assert cli.ready_line(Settings(bind=bind), 8001, models).startswith(line)
