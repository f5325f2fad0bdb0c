"""What the pages in docs/api show is run as it stands, and says what the page says that it does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatapp.settings import ROOT
from tests.support.site import PASSWORD, Client, Site

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
COMMANDS = {
    "bash": ["bash", "-euc"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
BLOCK = re.compile(r"^```(bash|python|js)\n(.*?)^```$\s*^```text\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Shown:
    """A piece of a page that can be run, and what it prints: lines in this order, `…` for anything."""

    page: Path
    number: int
    language: str
    code: str
    lines: list[str]

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.number}-{self.language}"


def shown(page: Path) -> list[Shown]:
    found = BLOCK.findall(page.read_text())
    return [Shown(page, number, *block[:2], block[2].splitlines()) for number, block in enumerate(found, 1)]


EVERYTHING = [one for page in PAGES for one in shown(page)]


@pytest.fixture(scope="module")
def environ(new_site: Callable[..., Site]) -> dict[str, str]:
    site = new_site(CHATAPP_DEFAULT_MODEL="openai/echo")
    ada: Client = site.new_user()
    token = str(ada.http.headers["Authorization"]).removeprefix("Bearer ")
    told = {"URL": site.url, "TOKEN": token, "EMAIL": ada.email, "PASSWORD": PASSWORD}
    return {"PATH": os.environ["PATH"], "HOME": str(site.folder), **told}


@pytest.mark.parametrize("one", EVERYTHING, ids=str)
def test_what_a_page_shows_works(one: Shown, environ: dict[str, str]) -> None:
    if one.language == "js" and not shutil.which("node"):
        pytest.skip("there is no node")
    done = subprocess.run(
        [*COMMANDS[one.language], one.code],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = iter(done.stdout.splitlines())
    for line in one.lines:
        wanted = re.compile(".*".join(map(re.escape, line.split("…"))))
        assert any(wanted.fullmatch(said) for said in printed), f"{line!r} is not in order in:\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_a_call_and_some_lines_of_a_program(page: Path) -> None:
    blocks = re.findall(r"^```(\w+)$", page.read_text(), re.M)
    assert blocks.count("text") * 2 == len(blocks), "each block is followed by what it prints"
    assert "bash" in blocks
    assert page.stem == "README" or {"python", "js"} & set(blocks)
    assert max(map(len, page.read_text().splitlines())) < 200


def test_every_contract_has_its_page() -> None:
    assert [page.stem for page in PAGES] == ["README", "a", "b", "c", "d", "e", "n"]
    readme = (ROOT / "docs" / "api" / "README.md").read_text()
    assert all(f"({page.name})" in readme for page in PAGES if page.stem != "README")
    assert "docs/api/README.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []
