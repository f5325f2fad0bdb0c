"""The branch shown, to be read by people, on paper. Made by a process of its own (`_paper`): it takes seconds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import orjson
from gevent.lock import BoundedSemaphore

from chatapp.errors import AppError, Overloaded, PayloadTooLarge
from chatapp.exports import Talk

MEDIA_TYPE = "application/pdf"
SUFFIX = "pdf"
WHOLE_TREE = False

PAPER_SECONDS = 100.0  # a browser waits longer, and so do most proxies
WAIT_SECONDS = 30.0  # for one that others have ordered
MAX_BYTES = 2 * 1024 * 1024  # of what is to be printed: some 700 pages, in half a minute
BLOCK_BYTES = 64 * 1024
TOO_LONG = "This is too long for a PDF. Take it as Markdown or JSON."
ROOT = Path(__file__).resolve().parents[2]

_press = BoundedSemaphore()  # one at a time in each process: streams need the processor too


def dump(talks: Iterable[Talk], exported_at: str) -> Iterator[bytes]:
    """Raises PayloadTooLarge, and Overloaded where others wait for theirs already."""
    with tempfile.TemporaryDirectory(prefix="chatapp-pdf-") as folder:
        with at_the_press():
            with (Path(folder) / "manuscript").open("wb") as manuscript:
                write(manuscript, talks, exported_at)
            paper = printed(Path(folder))
        with paper.open("rb") as made:  # others need not wait for who takes theirs slowly
            while block := made.read(BLOCK_BYTES):
                yield block


@contextmanager
def at_the_press() -> Iterator[None]:
    """Have the press for oneself. Raises Overloaded where others have it for long."""
    if not _press.acquire(timeout=WAIT_SECONDS):
        raise Overloaded("Others wait for a PDF as well. Try again in a moment.", retry_after=10)
    try:
        yield
    finally:
        _press.release()


def write(manuscript: IO[bytes], talks: Iterable[Talk], exported_at: str) -> None:
    """Write JSON lines: [exported_at], then for each talk its head, and each message in a list."""
    size = manuscript.write(orjson.dumps([exported_at]) + b"\n")
    for talk in talks:
        size += manuscript.write(orjson.dumps(talk.head) + b"\n")
        for message in talk.messages:
            size += manuscript.write(orjson.dumps([message]) + b"\n")
            if size > MAX_BYTES:
                raise PayloadTooLarge(TOO_LONG)


def printed(folder: Path) -> Path:
    """Have the manuscript in *folder* printed; return the PDF's file."""
    paper = folder / "paper"
    command = [sys.executable, "-m", "chatapp.exports._paper", str(folder)]
    with (folder / "manuscript").open("rb") as given, paper.open("wb") as taken:
        child = subprocess.Popen(command, cwd=ROOT, stdin=given, stdout=taken, stderr=subprocess.PIPE)
    try:
        _, said = child.communicate(timeout=PAPER_SECONDS)
    except subprocess.TimeoutExpired:
        raise PayloadTooLarge(TOO_LONG) from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        raise AppError("The PDF could not be made. Take it as Markdown or JSON.") from RuntimeError(
            said.decode()[-2000:]
        )
    return paper
