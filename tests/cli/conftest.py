"""The script in a process of its own, with a data folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatapp.settings import ROOT
from tests.support.site import PASSWORD

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "chatapp.cli", *arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a module: to make a database takes a second."""
    return Path(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def environ(folder: Path, model_environ: dict[str, str]) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CHATAPP_DATA_DIR": str(folder / "data"),
        "CHATAPP_LOCAL_MODEL": "off",
        "CHATAPP_BIND": "127.0.0.1:0",
        **model_environ,
    }


@pytest.fixture(scope="module")
def run(environ: dict[str, str]) -> Run:
    """Run the script to its end; `stdin` is what it reads, other names are settings."""

    def run(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env={**environ, **settings},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def ada(run: Run) -> str:
    """Somebody who has an account."""
    made = run("users", "add", "ada@example.org", "--name", "Ada", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert made.returncode == 0, made.stderr
    return "ada@example.org"
