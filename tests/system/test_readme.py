"""What the README tells people to type works, and where it points there is something."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chatapp import sse
from chatapp.settings import ROOT
from tests.chaos.model import Known, Model
from tests.support.site import Site

README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def bash_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def events(output: str) -> list[sse.Frame]:
    return [frame for frame in sse.Parser().feed(output.encode()) if frame.data]


def test_the_calls_follow_and_resume_an_answer(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_DEFAULT_MODEL="openai/count-30,delay=0.02")
    done = run(bash_blocks()[0], site)
    ids = [int(frame.id or 0) for frame in events(done.stdout)]
    last = max(ids)
    assert last > 8
    assert ids == [*range(1, last + 1), *range(8, last + 1)]
    assert [frame.event for frame in events(done.stdout)].count("done") == 2


@pytest.mark.skipif(not shutil.which("pkill"), reason="there is no pkill")
def test_an_answer_goes_on_when_its_worker_is_killed(new_site: Callable[..., Site]) -> None:
    with Model() as model:
        site = new_site(**model.environ(), CHATAPP_DEFAULT_MODEL="ollama/numbers")
        assert site.process is not None
        calls, kill = bash_blocks()
        oldest = "$(pgrep -of gunicorn.conf.py)"
        assert oldest in kill
        mine = kill.replace(oldest, str(site.process.pid))  # there may be other sites on this machine
        done = run(f"{{ {calls} }} >/dev/null\n{mine}", site)
    cut_off, whole = done.stdout.split("(cut off)\n")
    heard = [events(part) for part in (cut_off, whole)]
    assert [frame.id for frame in heard[1]] == [str(n) for n in range(1, len(heard[1]) + 1)]
    assert heard[0] == heard[1][: len(heard[0])]
    assert "".join(json.loads(f.data)["content"] for f in heard[1] if f.event == "token") == Known(0).text()
    assert "Going on" in whole


def run(script: str, site: Site) -> subprocess.CompletedProcess[str]:
    script = script.replace("http://127.0.0.1:8000", site.url)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []
