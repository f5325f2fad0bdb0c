"""Processes that die, freeze or lose their clock while answers are being made and read."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from tests.chaos.load import Answer, Judgement, Load, answer_numbers, disarm, obeyed, order, workers
from tests.chaos.model import Known, Model
from tests.chaos.reader import Reader
from tests.support.site import Site, wait_until
from tests.system._processes import worker_pids

RECOVERY_SECONDS = 45  # generous: how long it took is measured
LEASE_SECONDS = 2.0
POINTS = (
    "question-committed",
    "before-asking",
    "first-token",
    "before-commit",
    "after-commit",
    "before-end",
    "after-end",
    "taken-over",
)


@dataclass
class Outcome:
    """What a series of kills came to."""

    kills: int = 0
    # seconds until each reader heard more, from the kill, and from when there was a worker that answered
    recoveries: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    left_after: float = 0.0  # s until workers without a master were gone

    def total(self, name: str) -> int:
        return sum(getattr(judgement, name) for judgement in self.judgements)

    @property
    def faults(self) -> int:
        return sum(judgement.faults for judgement in self.judgements)

    @property
    def notes(self) -> list[str]:
        return [note for judgement in self.judgements for note in judgement.notes]


def kill_at_random(
    site: Site,
    model: Model,
    dice: random.Random,
    *,
    kills: int,
    answers: int = 5,
    tokens: int = 300,
    seconds: float = float("inf"),
) -> Outcome:
    """Kill a worker, again and again, at random moments; the answers of earlier rounds go on meanwhile."""
    outcome, load, begun = Outcome(), Load(site, model), time.monotonic()
    while outcome.kills < kills and time.monotonic() - begun < seconds:
        new = load.start(answers - 1, tokens=tokens, delay=0.01, readers=2, seconds=120)
        new += load.start(1, tokens=tokens, delay=0.01, provider="openai", seconds=120)
        wait_for_words(new)
        time.sleep(dice.random())
        if outcome.kills:
            dice.choice(wait_until(lambda: workers(site), RECOVERY_SECONDS, "a worker")).kill()
        else:  # the first time it shall be one that has something to lose
            busiest(site, model).kill()
        outcome.kills += 1
        killed = time.monotonic()
        wait_until(site.answers, RECOVERY_SECONDS, "a worker that answers")
        alive = time.monotonic() - killed
        heard = recoveries([reader for answer in load.answers for reader in answer.readers], killed)
        outcome.recoveries += heard
        outcome.waits += [max(0.0, seconds - alive) for seconds in heard]
        if len(load.answers) > 60:
            outcome.judgements.append(load.judge())
            load = Load(site, model, load.client)
    outcome.judgements.append(load.judge())
    return outcome


def wait_for_words(answers: Sequence[Answer]) -> None:
    readers = [reader for answer in answers for reader in answer.readers]
    wait_until(lambda: all(reader.ended or len(reader.frames) > 3 for reader in readers), RECOVERY_SECONDS, "words")


def recoveries(readers: Sequence[Reader], moment: float) -> list[float]:
    """Wait until each of *readers* that is not at the end has heard more after *moment*; return after how many seconds."""
    waiting = [reader for reader in readers if not reader.ended]
    wait_until(
        lambda: all(reader.ended or reader.first_after(moment) is not None for reader in waiting),
        RECOVERY_SECONDS,
        "that all hear more",
    )
    return [seconds for reader in waiting if (seconds := reader.first_after(moment)) is not None]


def kill_at(site: Site, model: Model, point: str, act: str = "kill", *, nth: int = 1) -> Judgement:
    """Let the process that reaches *point* do *act*, under three answers, and judge them."""
    load = Load(site, model)
    order(site, f"{point} {nth} {act}")
    tokens = 30 if "end" in point else 80
    begun = [load.begin(Known(next(answer_numbers), tokens, delay=0.01)) for _ in range(3)]
    for answer in begun:
        load.attach(answer)
    if point == "taken-over":
        wait_for_words(begun)
        for worker in workers(site):
            if asks(worker, model):
                worker.kill()
    wait_until(lambda: obeyed(site), RECOVERY_SECONDS, f"{point} being reached")
    judgement = load.judge()
    disarm(site)
    return judgement


def asks(worker: psutil.Process, model: Model) -> int:
    """Return how many answers the worker is getting from the model."""
    port = int(model.url.rpartition(":")[2])
    try:
        return sum(bool(c.raddr) and c.raddr.port == port for c in worker.net_connections("tcp"))
    except psutil.Error:
        return 0


def busiest(site: Site, model: Model) -> psutil.Process:
    return max(workers(site), key=lambda worker: asks(worker, model))


def kill_master(site: Site, model: Model, *, workers_too: bool) -> Outcome:
    """Kill the master (and its workers), start the site again, and judge what ran."""
    load = Load(site, model)
    load.start(4, tokens=150, delay=0.01, readers=2)
    load.wait_for_words()
    killed = time.monotonic()
    if workers_too:
        site.kill()
    else:
        family, process = site.family(), site.process
        assert process is not None
        process.kill()
        process.wait(10)
        _, alive = psutil.wait_procs(family, timeout=RECOVERY_SECONDS)
        assert not alive, "the workers stay when their master is gone"
        site.process = None
    gone = time.monotonic()
    site.start()
    ready = time.monotonic()
    outcome = Outcome(1, left_after=gone - killed)
    outcome.recoveries = [max(0.0, seconds - (ready - gone)) for seconds in recoveries(load.readers(), gone)]
    outcome.judgements.append(load.judge())
    return outcome


def pause(site: Site, model: Model, dice: random.Random, *, answers: int = 6, seconds: float = 60) -> Judgement:
    """Stop the worker that makes the answers until another one has taken them over, and let it go on then."""
    load = Load(site, model)
    load.start(answers, tokens=350, delay=0.01, readers=2, seconds=seconds)
    load.wait_for_words()
    time.sleep(dice.random() / 2)
    worker = busiest(site, model)
    had = len(model.calls())
    worker.suspend()
    try:
        wait_until(lambda: len(model.calls()) > had, RECOVERY_SECONDS, "a take-over")
        time.sleep(dice.random())
    finally:
        worker.resume()
    return load.judge()


def block(site: Site, model: Model, *, seconds: float = LEASE_SECONDS + 1.5) -> Judgement:
    """Keep the event loop of one worker for longer than its lease, right after a commit that nobody heard of yet."""
    load = Load(site, model)
    load.start(6, tokens=350, delay=0.01, readers=2)
    load.wait_for_words()
    order(site, f"after-commit 5 busy {seconds}")
    wait_until(lambda: obeyed(site), RECOVERY_SECONDS, "the point being reached")
    judgement = load.judge()
    disarm(site)
    return judgement


def shift_clock(site: Site, model: Model, *jumps: float) -> Judgement:
    """Set the clock of a worker that makes answers by so many seconds, one jump after the other."""
    load = Load(site, model)
    load.start(6, tokens=250, delay=0.01, readers=2)
    load.wait_for_words()
    for seconds in jumps:
        order(site, f"after-commit 5 clock {seconds}")
        wait_until(lambda: obeyed(site), RECOVERY_SECONDS, "the point being reached")
    judgement = load.judge()
    disarm(site)
    return judgement


def end_with(site: Site, how: int) -> None:
    assert site.process is not None
    os.kill(site.process.pid, how)


def restart(site: Site) -> None:
    """SIGTERM, and a start as soon as all is gone."""
    site.stop(signal.SIGTERM)
    site.start()


def reload(site: Site) -> None:
    """SIGHUP, until all workers are new ones."""
    before = worker_pids(site)
    end_with(site, signal.SIGHUP)
    wait_until(lambda: (now := worker_pids(site)) and not now & before, 30, "new workers")


def deploy(
    site: Site, model: Model, act: Callable[[Site], None], *, answers: int = 10, tokens: int = 300
) -> tuple[Judgement, float, float]:
    """Restart or reload the site under live answers; return how it ended, the longest silence of a reader, and the time
    that the act took.
    """
    load = Load(site, model)
    load.start(answers, tokens=tokens, delay=0.01)
    load.wait_for_words()
    begun = time.monotonic()
    act(site)
    took = time.monotonic() - begun
    judgement = load.judge()
    return judgement, max(reader.longest_gap() for reader in load.readers()), took
