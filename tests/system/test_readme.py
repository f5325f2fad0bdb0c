"""What the README tells people to type works, and where it points there is something."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chatapp import sse
from chatapp.settings import ROOT
from tests.support.site import Site

README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def bash_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def events(output: str) -> list[sse.Frame]:
    return [frame for frame in sse.Parser().feed(output.encode()) if frame.data]


def test_the_calls_follow_and_resume_an_answer(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_DEFAULT_MODEL="openai/echo")
    (block,) = bash_blocks()
    script = block.replace("http://127.0.0.1:8000", site.url)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ids = [int(frame.id or 0) for frame in events(done.stdout)]
    last = max(ids)
    assert last > 8
    assert ids == [*range(1, last + 1), *range(8, last + 1)]
    assert [frame.event for frame in events(done.stdout)].count("done") == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []
