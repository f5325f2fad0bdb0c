"""What the site is made of: few packages, all of them known, each pinned to the digests of its files in `requirements.lock`."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.metadata import requires, version
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from chatapp.settings import ROOT

AT_MOST = 45
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def core() -> dict[str, SpecifierSet]:
    """Return all packages that the core needs here, directly or not, and what versions of them."""
    found: dict[str, SpecifierSet] = {}
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = (plain(wanted.name), extra)
            found[key[0]] = found.get(key[0], SpecifierSet()) & wanted.specifier
            if key in seen:
                continue
            seen.add(key)
            for text in requires(wanted.name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append(further)
    return found


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return version and digests by package, as the lock file has them."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    entries = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(.*)$", text, re.M)
    return {plain(name): (pinned, re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)) for name, pinned, rest in entries}


def test_the_core_is_small() -> None:
    assert 10 < len(core()) <= AT_MOST, sorted(core())
    assert not {"torch", "numpy", "transformers", "langchain"} & core().keys()


def test_every_package_of_the_core_is_locked_with_its_digests() -> None:
    pins = locked()
    assert core().keys() <= pins.keys(), core().keys() - pins.keys()
    assert all(digests for _, digests in pins.values())
    wrong = {
        name: pins[name][0] for name, wanted in core().items() if not wanted.contains(pins[name][0], prereleases=True)
    }
    assert not wrong
    assert len(pins) <= AT_MOST


def test_the_locked_versions_are_those_that_are_tested() -> None:
    """Or the lock is old: make it again, as its first lines say."""
    assert {name: pin for name, (pin, _) in locked().items() if name in core() and pin != version(name)} == {}
