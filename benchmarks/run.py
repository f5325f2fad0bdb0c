"""Measure the site beside what else could relay a model's stream, and against its goals.

    make bench                                  everything, some twelve minutes
    make bench ARGS='--only relay100 memory'    parts of it
    make bench ARGS=--write                     and make docs/benchmarks.md of it
    make bench ARGS=--quick                     what has to do with streams, less exactly, in two minutes

Targets take turns within one run, and figures are medians: what counts is how they compare, since machines differ. On Linux
the server under test has the first core to itself and the kit (model, load, this program) the last one.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from benchmarks import _install, _workloads
from benchmarks._goals import GOALS
from benchmarks._page import Panel, Section, page, picture
from benchmarks._report import Figures, Row, Verdict, cells, judged, text
from benchmarks._targets import NAMES, bench, machine, versions
from benchmarks._workloads import FULL, QUICK, Sizes
from chatapp.settings import ROOT

BUSY = 0.5  # load average
DOCS = ROOT / "docs"


class Needs(Enum):
    """What a part is measured on."""

    BENCH = "targets that other parts have used before"
    NEW_BENCH = "targets that have done nothing yet"
    NOTHING = "no targets; such parts do not belong to a quick run"


@dataclass(frozen=True)
class Part:
    """Something to measure, and *how* in words."""

    title: str
    measure: Callable[..., list[Row]]  # of the sizes and, where it needs one, a bench
    how: str
    needs: Needs = Needs.BENCH


PARTS = {
    "one": Part(
        "One stream",
        _workloads.one,
        f"{FULL.one_streams} answers a round, one after the other, 20 tokens each, 200 a second.",
    ),
    "relay100": Part(
        "100 streams × 50 tokens a second",
        _workloads.relay100,
        f"{FULL.relay100_tokens} tokens each; all begin within 2 s.",
    ),
    "relay500": Part(
        "500 streams × 20 tokens a second",
        _workloads.relay500,
        f"{FULL.relay500_tokens} tokens each; all begin within 5 s, so a hundred questions a second come at "
        "first. Where a target was so late that its first stream ended before its last one began, there is no "
        "moment when all of them run.",
    ),
    "fullspeed": Part(
        "50 streams at full speed",
        _workloads.fullspeed,
        f"{FULL.fullspeed_tokens:,} tokens each; the model writes as fast as its reader reads. A relay may "
        "write several tokens that arrived at once as one event; nginx and the model itself are bounded by "
        "the kit.",
    ),
    "question": Part(
        "Questions whose answer is one token",
        _workloads.question,
        f"{FULL.questions} a round, four at a time, each on a connection of its own. The site checks the "
        "sign-in, stores question and answer, and is asked twice: for the start, then for the stream.",
    ),
    "fanout": Part(
        f"{FULL.readers} readers",
        _workloads.fanout,
        f"{FULL.fanout_tokens} tokens, 25 a second. A stream each: every reader has asked a question. One "
        "answer for all: one was asked, and all are there before its answer begins.",
    ),
    "memory": Part(
        "Nearly silent streams",
        _workloads.memory,
        f"{FULL.held_streams:,} streams, one token at once and then one every five seconds. Growth of the "
        "tree's memory (PSS), after a warm-up of fifty streams, divided by the streams; the kernel's buffers "
        "are not in it.",
        Needs.NEW_BENCH,
    ),
    "resume": Part(
        "Coming back at the end of a long answer",
        _workloads.resume,
        f"{FULL.resumed_tokens:,} tokens, ended; `Last-Event-ID` is that of the tenth event from the end, on a "
        f"connection of its own, {FULL.resumes} times.",
    ),
    "wire": Part(
        "Bytes on the wire",
        _workloads.wire,
        f"One stream of {FULL.wire_tokens} tokens, each of which comes alone, without compression. The site's "
        "end event holds the whole answer again.",
    ),
    "stop": Part(
        "Stop pressed",
        _workloads.stop,
        f"{FULL.stops} answers are open, 10 tokens a second each, and are stopped one by one: of the site by "
        "its own request, of the others by leaving, which is all they know. Until the model server sees its "
        f"connection closed. Before the first token the model says nothing at all, for {FULL.prompt_seconds} s; "
        "who notices only when writing keeps it busy until then.",
    ),
    "start": Part("From a clean clone to the first page", _install.start, "`make run`.", Needs.NOTHING),
    "install": Part("What is installed", _install.install, "The core, without extras.", Needs.NOTHING),
    "idle": Part("Idle", _install.idle, "Before anybody asks.", Needs.NOTHING),
    "page": Part("The first page", _install.page, "In Chromium, nothing cached.", Needs.NOTHING),
}


def main() -> int:
    """Print a table for each part, and the goals; return 1 if one was missed."""
    parser = argparse.ArgumentParser(description="Measure the site beside others, and against its goals.")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {' '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="less exactly, and only what has to do with streams")
    parser.add_argument("--write", action="store_true", help="make docs/benchmarks.md of a whole run")
    given = parser.parse_args()
    if given.write and (given.only or given.quick):
        parser.error("--write is for a whole run")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, which ends what was started
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the load average is {load:.1f}: other work will show in the figures", file=sys.stderr)
    chosen = given.only or [name for name, part in PARTS.items() if not given.quick or part.needs is not Needs.NOTHING]
    figures = measured(chosen, QUICK if given.quick else FULL)
    verdicts = judged(GOALS, figures)
    print(text([["", "is", "goal", "moonshot"], *(verdict.cells for verdict in verdicts)]))
    if given.write:
        write(figures, verdicts, load)
    return int(any(verdict.missed for verdict in verdicts))


def write(figures: Figures, verdicts: list[Verdict], load: float) -> None:
    sections = [Section(PARTS[name].title, PARTS[name].how, rows) for name, rows in figures.items()]
    facts = {"machine": machine(), "versions": versions(), "load": load, "rounds": FULL.rounds}
    (DOCS / "benchmarks.md").write_text(page(sections, verdicts, NAMES, **facts))
    panels = [
        Panel("CPU per token, µs: 100 × 50/s", figures.peers("relay100", "cpu")),
        Panel("Added delay, p99, ms: 500 × 20/s, log.", figures.peers("relay500", "token_p99"), logarithmic=True),
    ]
    (DOCS / "benchmarks.svg").write_text(picture(panels, NAMES))


def measured(chosen: Sequence[str], sizes: Sizes) -> Figures:
    """Measure the parts *chosen*; those that share their targets come last, when nothing else is to be started."""
    figures = Figures()
    for name in chosen:
        if PARTS[name].needs is Needs.NEW_BENCH:
            with bench() as here:
                figures |= shown(name, sizes, here.with_new_users())
        elif PARTS[name].needs is Needs.NOTHING:
            figures |= shown(name, sizes)
    together = [name for name in chosen if PARTS[name].needs is Needs.BENCH]
    if together:
        with bench() as here:
            for name in together:
                figures |= shown(name, sizes, here.with_new_users())
    return Figures((name, figures[name]) for name in PARTS if name in figures)


def shown(name: str, *given: Any) -> dict[str, list[Row]]:
    """Measure one part, and print its table. Returns nothing for a part that is left out."""
    begun = time.monotonic()
    print(f"measuring: {name} …", file=sys.stderr, flush=True)
    try:
        rows = PARTS[name].measure(*given)
    except _install.LeftOut as why:
        print(f"{name} is left out: {why}", file=sys.stderr)
        return {}
    table = cells(rows, NAMES)
    table[0][0] = f"{PARTS[name].title} ({time.monotonic() - begun:.0f} s)"
    print(f"{text(table)}\n", flush=True)
    return {name: rows}


if __name__ == "__main__":
    sys.exit(main())
