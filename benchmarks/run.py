"""Measure the site beside what else could relay a model's stream, and against its goals.

    make bench                                  everything, some twelve minutes
    make bench ARGS='--only relay100 memory'    parts of it
    make bench ARGS=--quick                     what has to do with streams, less exactly, in two minutes

Targets take turns within one run, and figures are medians: what counts is how they compare, since machines differ. On Linux
the server under test has the first core to itself and the kit (model, load, this program) the last one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import _install, _workloads
from benchmarks._goals import GOALS
from benchmarks._report import Figures, Row, cells, judged, text
from benchmarks._targets import NAMES
from benchmarks._workloads import FULL, QUICK, Sizes

BUSY = 0.5  # load average


@dataclass(frozen=True)
class Part:
    """Something to measure. *streams*: whether it has to do with streams, and so belongs to a quick run."""

    title: str
    measure: Callable[[Sizes], list[Row]]
    how: str
    streams: bool = True


PARTS = {
    "relay100": Part("100 streams × 50 tokens a second", _workloads.relay100, "All begin within 2 s."),
    "relay500": Part("500 streams × 20 tokens a second", _workloads.relay500, "All begin within 5 s."),
    "fullspeed": Part(
        "50 streams at full speed", _workloads.fullspeed, "The model writes as fast as its reader reads."
    ),
    "question": Part("Questions whose answer is one token", _workloads.question, "Four at a time."),
    "fanout": Part("200 readers", _workloads.fanout, "25 tokens a second."),
    "memory": Part("Nearly silent streams", _workloads.memory, "One token at once, the next after five seconds."),
    "start": Part("From a clean clone to the first page", _install.start, "", streams=False),
    "install": Part("What is installed", _install.install, "", streams=False),
    "idle": Part("Idle", _install.idle, "", streams=False),
    "page": Part("The first page", _install.page, "", streams=False),
}


def main() -> int:
    """Print a table for each part, and the goals; return 1 if one was missed."""
    parser = argparse.ArgumentParser(description="Measure the site beside others, and against its goals.")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {' '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="less exactly, and only what has to do with streams")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the load average is {load:.1f}: other work will show in the figures", file=sys.stderr)
    chosen = given.only or [name for name, part in PARTS.items() if part.streams or not given.quick]
    figures = measured(chosen, QUICK if given.quick else FULL)
    verdicts = judged(GOALS, figures)
    print(text([["", "is", "goal", "moonshot"], *(verdict.cells for verdict in verdicts)]))
    return int(any(verdict.missed for verdict in verdicts))


def measured(chosen: list[str], sizes: Sizes) -> Figures:
    """Measure the parts *chosen*, and print each one's table when it is there."""
    figures = Figures()
    say = partial(print, file=sys.stderr, flush=True)
    for name in chosen:
        begun = time.monotonic()
        say(f"measuring: {name} …")
        try:
            figures[name] = PARTS[name].measure(sizes)
        except _install.LeftOut as why:
            say(f"{name} is left out: {why}")
            continue
        table = cells(figures[name], NAMES)
        table[0][0] = f"{PARTS[name].title} ({time.monotonic() - begun:.0f} s)"
        print(f"{text(table)}\n", flush=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
