"""The site with its fail-points alive, and with a guard taken away if a test says so.

A test writes an order into the file `order` in the data folder: `POINT N ACT [SECONDS]`. The first process that reaches the
point for the N-th time since then renames the file to `obeyed` and does it: `kill` (itself, -9), `pause` (itself, SIGSTOP),
`stall` (this greenlet), `busy` (keeps the event loop), `clock` (is off from now on), `raise`. `CHATAPP_TEST_WITHOUT` names
the guards that are not there, `CHATAPP_TEST_ACCESS_SECONDS` how long an access token lasts.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wsgi import app  # first: it patches

import gevent  # isort: skip
from greenlet import greenlet  # isort: skip

from chatapp import database, eventlog, failpoints  # isort: skip
from chatapp.errors import NotFound  # isort: skip
from chatapp.eventlog import _tail, sql  # isort: skip
from chatapp.readers import Readers  # isort: skip
from chatapp.routes import _outlet, _stream  # isort: skip
from chatapp.runner import Runner  # isort: skip
from chatapp.runners import Runners  # isort: skip

__all__ = ["app"]

ORDER = Path(os.environ["CHATAPP_DATA_DIR"]) / "order"
AHEAD_SECONDS = 0.3
counts: dict[str, int] = {}


def reach(name: str) -> None:
    try:
        order = ORDER.read_text()
    except FileNotFoundError:
        return
    point, number, act, *seconds = order.splitlines()[0].split()
    if point != name:
        return
    counts[order] = counts.get(order, 0) + 1
    if counts[order] != int(number):
        return
    try:
        ORDER.rename(ORDER.with_name("obeyed"))
    except FileNotFoundError:  # another process was quicker
        return
    ACTS[act](*map(float, seconds))


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def broken() -> None:
    raise RuntimeError("a fail-point")


def shift(seconds: float) -> None:
    """Set this process's clock."""
    now: Callable[[], float] = time.time
    time.time = lambda: now() + seconds

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    database.datetime = Shifted  # type: ignore[attr-defined]


ACTS: dict[str, Callable[..., None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "pause": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "stall": gevent.sleep,
    "busy": busy,
    "clock": shift,
    "raise": broken,
}
failpoints.reach = reach


# Guards that can be taken away


def no_fence() -> None:
    """Whoever was presumed dead goes on writing, and believes its own count."""
    sql.FENCE_SQLITE = "SELECT ?"
    sql.check_lease = lambda connection, owner: None  # type: ignore[assignment]
    hold = sql.Store.hold

    def hold_anyway(self: sql.Store, owner: str, *, lease_seconds: float) -> bool:
        if not hold(self, owner, lease_seconds=lease_seconds):
            self.enter(owner, lease_seconds=lease_seconds)
        return True

    sql.Store.hold = hold_anyway  # type: ignore[method-assign]
    sql.OWNED_SQLITE = "SELECT ?, ?"
    _tail.MERGE = _tail.MERGE.replace("OR IGNORE", "OR REPLACE")


def no_commit_first() -> None:
    """What is shown is stored a little later."""
    commit, committed = sql.Store._commit, sql.Store._committed

    def commit_late(self: sql.Store, group: list[sql.Append]) -> None:
        plain = [item for item in group if item.within is None]
        for item in plain:
            committed(self, item)
        gevent.sleep(AHEAD_SECONDS)
        commit(self, group)

    def committed_once(self: sql.Store, item: sql.Append) -> None:
        if item.within is not None:
            committed(self, item)

    sql.Store._commit = commit_late  # type: ignore[method-assign]
    sql.Store._committed = committed_once  # type: ignore[method-assign]


def no_exact_cursor() -> None:
    """Who comes back is sent the last event once more."""
    given: Any = _stream.given_cursor

    def one_before(*args: Any, **options: Any) -> Any:
        cursor = given(*args, **options)
        return replace(cursor, seq=max(0, cursor.seq - 1)) if cursor is not None else None

    _stream.given_cursor = one_before


def no_key() -> None:
    """Each start is a new one, whatever its key."""
    from chatapp.services import generations

    begin: Any = generations.begin
    generations.begin = lambda *args, **options: begin(*args, **{**options, "key": None})


def no_send_timeout() -> None:
    """Who takes nothing is waited for."""
    respond: Any = _stream.respond

    def patient(body: Any) -> Any:
        response = respond(body)
        client = _stream.request.environ["gunicorn.socket"]
        client.settimeout(None)
        client.setsockopt(6, 18, 0)  # TCP_USER_TIMEOUT
        return response

    _stream.respond = patient


def no_watch() -> None:
    """That a reader has left is noticed when something is written to them."""
    _outlet.Outlet._look = lambda self: None  # type: ignore[method-assign]


def no_lease_clock() -> None:
    """Leases are by each worker's own clock."""
    database.time = SimpleNamespace(sleep=time.sleep, monotonic=lambda: time.time())  # type: ignore[attr-defined]


def no_stop() -> None:
    """A stop is not heard."""
    Runner.stop = lambda self: None  # type: ignore[method-assign]


def no_drain() -> None:
    """What leaves hands nothing back."""
    Runners.drain = lambda self, seconds: None  # type: ignore[method-assign]


def no_outlive() -> None:
    """An answer ends with the first reader who leaves."""
    close = _stream.Stream.close

    def close_all(self: _stream.Stream) -> None:
        close(self)
        self.site.runners.stop(self.generation_id)

    _stream.Stream.close = close_all  # type: ignore[method-assign]


def no_replay() -> None:
    """An answer whose log is gone is not told from its message."""
    _stream.stored = lambda generation: (_ for _ in ()).throw(NotFound())  # type: ignore[assignment]


def no_refusal() -> None:
    """Who comes back and may not go on gets a status, as everybody else."""
    _stream.refusal = lambda error: None  # type: ignore[assignment]


def no_rights() -> None:
    """Whether a reader still may read is not asked again."""
    Readers._allowed = lambda self, readers: set(readers)  # type: ignore[method-assign,assignment]


def no_expiry() -> None:
    """A session can be opened for ever."""
    from chatapp.services import generations

    owned = generations.owned

    def fresh(user: Any, generation_id: str) -> Any:
        generation = owned(user, generation_id)
        generation.expires_at += timedelta(days=1)
        return generation

    generations.owned = fresh


def no_look() -> None:
    """A follower believes that the bell tells it everything."""
    eventlog.SILENCE_SECONDS = 1e6


GUARDS: dict[str, Callable[[], None]] = {
    "fence": no_fence,
    "commit-first": no_commit_first,
    "cursor": no_exact_cursor,
    "key": no_key,
    "send-timeout": no_send_timeout,
    "watch": no_watch,
    "lease-clock": no_lease_clock,
    "stop": no_stop,
    "drain": no_drain,
    "outlive": no_outlive,
    "replay": no_replay,
    "refusal": no_refusal,
    "rights": no_rights,
    "expiry": no_expiry,
    "look": no_look,
}


def take_away(names: Sequence[str]) -> None:
    for name in names:
        GUARDS[name]()


def count_greenlets() -> None:
    """Write how many greenlets there are into `greenlets-PID`, when a test asks by a file of that name."""
    file = ORDER.with_name(f"greenlets-{os.getpid()}")
    while True:
        gevent.sleep(0.2)
        if file.exists() and not file.stat().st_size:
            file.write_text(str(sum(isinstance(found, greenlet) and not found.dead for found in gc.get_objects())))


gevent.spawn(count_greenlets)
if "CHATAPP_TEST_ACCESS_SECONDS" in os.environ:
    app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(seconds=float(os.environ["CHATAPP_TEST_ACCESS_SECONDS"]))
take_away(os.environ.get("CHATAPP_TEST_WITHOUT", "").split())
