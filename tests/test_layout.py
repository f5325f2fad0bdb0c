"""Imports point down, never sideways, and a few parts keep to what they are: see docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from chatapp.settings import ROOT

LAYERS = [  # from the bottom to the top; a part may import what stands on a line above its own
    "errors registry events sse failpoints pace __version__",
    "settings schemas metrics",
    "database answer bells",
    "models eventlog caches providers dialects formats search commands exports",
    "runner",
    "runners readers connections responses",
    "passing",
    "services",
    "auth local_model",
    "routes cli migrations",
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts.split()}

NOUNS = {"models", "schemas", "services"}  # a generation has a conversation; but nouns refer in one direction only
NO_REQUEST = (
    "errors services runner runners passing readers connections models eventlog bells caches providers dialects formats "
    "search commands answer events"
)
PURE = "answer dialects events sse._frames"  # of sse the bytes; its streams wait, and its responses know a socket
INPUT_AND_OUTPUT = (
    "asyncio gevent http io logging multiprocessing os pathlib requests select shutil socket sqlalchemy sqlite3 ssl "
    "subprocess sys tempfile threading time urllib urllib3"
)
READ_ENVIRON = {"settings", "local_model"}  # the second hands on an address and a key to the processes it starts

FILES = sorted((ROOT / "chatapp").rglob("*.py"))


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__version__"


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str) -> Iterator[str]:
    """Yield the full name of each module that *source* imports; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def may_import(importer: str, imported: str) -> bool:
    part, other = part_of(importer), part_of(imported)
    if part != other:
        return RANK[other] < RANK[part]
    member = [*imported.split("."), ""][2]
    is_shared = (
        not member.islower() or member.startswith("_") or not (ROOT / "chatapp" / part / f"{member}.py").exists()
    )
    return is_shared or importer.count(".") == 1 or part in NOUNS


def wrong_imports(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of *module*, a sentence each."""
    part, wrong = part_of(module), []
    for name in imports(source):
        if name.split(".")[0] == "chatapp":
            if not may_import(module, name):
                wrong.append(f"{module} imports {name}, which is beside or above it")
        elif part in NO_REQUEST.split() and name in {"flask.request", "flask.g", "flask.session"}:
            wrong.append(f"{module} imports {name}: only routes and auth know of requests")
        elif is_pure(module) and name.split(".")[0] in INPUT_AND_OUTPUT.split():
            wrong.append(f"{module} imports {name}: it must do no input or output")
        elif part not in READ_ENVIRON and name in {"os.environ", "os.getenv"}:
            wrong.append(f"{module} imports {name}: only settings read the environment")
    return wrong


def is_pure(module: str) -> bool:
    name = module.removeprefix("chatapp.")
    return any(name == pure or name.startswith(f"{pure}.") for pure in PURE.split())


def environment_reads(module: str, source: str) -> list[str]:
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    reads = [node.attr for node in nodes if node.attr in {"environ", "getenv"} and ast.unparse(node.value) == "os"]
    return [] if part_of(module) in READ_ENVIRON else [f"{module} reads os.{name}" for name in reads]


def test_nouns_refer_to_each_other_in_one_direction() -> None:
    nouns = {module_of(file): file for file in FILES if part_of(module_of(file)) in NOUNS and file.stem != "__init__"}
    graph = {}
    for module, file in nouns.items():
        names = {".".join(name.split(".")[:3]) for name in imports(file.read_text())}
        graph[module] = {name for name in names & nouns.keys() if part_of(name) == part_of(module)}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_part_has_its_layer() -> None:
    assert {part_of(module_of(file)) for file in FILES} <= RANK.keys()


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_down(file: Path) -> None:
    assert wrong_imports(module_of(file), file.read_text()) == []


@pytest.mark.parametrize("file", [*FILES, ROOT / "app.py", ROOT / "wsgi.py"], ids=module_of)
def test_only_settings_read_the_environment(file: Path) -> None:
    assert environment_reads(module_of(file), file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("chatapp.dialects.native", "from chatapp.services import generations"),  # up
        ("chatapp.providers.openai", "from chatapp.eventlog import EventLog"),  # sideways
        ("chatapp.providers.openai", "import chatapp.providers.ollama"),  # a closed part knows no other
        ("chatapp.routes.pages", "from chatapp.routes import models"),
        ("chatapp.services.accounts", "from flask import request"),
        ("chatapp.dialects.native", "import time"),
        ("chatapp.events", "def dump():\n    import socket"),
        ("chatapp.sse._frames", "import threading"),
        ("chatapp.sse._stream", "from chatapp.bells import Bell"),  # the library knows nothing of the site
        ("chatapp.runner", "from os import environ"),
        ("chatapp.settings", "import chatapp.database"),
        ("chatapp.errors", "from chatapp.settings import Settings"),
    ],
)
def test_a_planted_import_is_caught(module: str, line: str) -> None:
    assert wrong_imports(module, line)


def test_a_planted_look_at_the_environment_is_caught() -> None:
    assert environment_reads("chatapp.runner", "import os\nif os.environ.get('X'): pass")


def test_what_is_allowed_stays_allowed() -> None:
    source = "from chatapp.providers import _http, Model\nfrom chatapp.providers._http import Api\nimport time"
    assert wrong_imports("chatapp.providers.openai", source) == []
