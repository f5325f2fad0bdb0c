"""docs/benchmarks.md and its picture, from figures. Never measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import fill

from benchmarks._report import Row, Values, Verdict, cells, markdown, number

PAGE = """\
# Benchmarks

{origin}

![Processor time per token and delay, by target](benchmarks.svg)

The server under test has the first core for itself; the model, the readers and this program have the last one.
Targets take turns within one run, and figures are medians of {rounds} rounds. Machines differ, so look at how the
columns compare.

- *the model itself* (`benchmarks/model.c`): the readers ask it directly. Its delays are the kit's own, and are
  subtracted from all others in the same round: *added* means beyond that.
- *nginx*: `proxy_buffering off`. What C can do.
- *plain Flask* (`benchmarks/plain.py`): what anyone would write first, on the same gunicorn and gevent. No sign-in,
  nothing stored.
- *starlette* (`benchmarks/starlette_proxy.py`): the same for asyncio, with httpx, on uvicorn with uvloop and
  httptools.
- *this site*: everything on. Each question is signed in for and stored, each token committed before it is shown.

A token's delay is from the moment when the model wrote it to its arrival at the reader (`benchmarks/load.c`).
Processor time is that of the target's whole tree of processes, its questions included. Every token is numbered, and
the readers look for lost and doubled ones.

## Goals

{goals}

Ratios are this site's figure by the other's, in the same run.
{sections}"""

ORIGIN = (
    "`make bench ARGS=--write` made this page and its picture, on {machine}, with {versions}. The load average was "
    "{load:.1f} when it began; above 0.5, other work took part of the cores."
)

INK = {"ink": ("#1f2328", "#e6edf3"), "bar": ("#8c959f", "#6e7681"), "own": ("#0969da", "#4493f8")}  # light, dark
ROW, BAR, LEFT, WIDTH = 30, 170, 112, 360  # px: a line, the longest bar, where bars begin, a panel


@dataclass(frozen=True)
class Section:
    """A part as the page shows it."""

    title: str
    how: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Panel:
    """One set of bars; *logarithmic* where targets differ by orders of magnitude."""

    title: str
    values: Values
    logarithmic: bool = False

    def length(self, value: float) -> float:
        """Return how long the bar of *value* is, in px."""
        most = max(self.values.values())
        if not self.logarithmic:
            return max(1.0, BAR * value / most)
        least = min(max(value, 0.01) for value in self.values.values()) / 2
        return max(1.0, BAR * math.log(max(value, 0.01) / least) / math.log(most / least))


def page(sections: Sequence[Section], verdicts: Sequence[Verdict], names: Mapping[str, str], **facts: object) -> str:
    """Return the page; *facts* are `machine`, `versions`, `load` and `rounds`."""
    goals = markdown([["", "is", "goal", "moonshot"], *(list(verdict.cells) for verdict in verdicts)])
    shown = "".join(f"\n## {part.title}\n\n{part.how}\n\n{markdown(cells(part.rows, names))}\n" for part in sections)
    origin = fill(ORIGIN.format(**facts), 118)
    return PAGE.format(origin=origin, goals=goals, sections=shown, **facts)


def picture(panels: Sequence[Panel], names: Mapping[str, str]) -> str:
    """Return an SVG of *panels* side by side, for light and dark pages."""
    height = 50 + ROW * max(len(panel.values) for panel in panels)
    light, dark = (
        " ".join(f".{name} {{ fill: {shades[mode]} }}" for name, shades in INK.items())
        for mode in range(len(INK["ink"]))
    )
    body = "\n".join(drawn(panel, names, WIDTH * number_) for number_, panel in enumerate(panels))
    label = escape("; ".join(f"{panel.title}: {told(panel, names)}" for panel in panels))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {height}" role="img" aria-label="{label}">
<style>
text {{ font: 13px system-ui, sans-serif }} .title {{ font-weight: 600 }}
{light}
@media (prefers-color-scheme: dark) {{ {dark} }}
</style>
{body}
</svg>
"""


def told(panel: Panel, names: Mapping[str, str]) -> str:
    return ", ".join(f"{names.get(name, name)} {number(value)}" for name, value in panel.values.items())


def drawn(panel: Panel, names: Mapping[str, str], left: int) -> str:
    lines = [f'<text class="ink title" x="{left + 8}" y="24">{escape(panel.title)}</text>']
    for line, (name, value) in enumerate(panel.values.items()):
        top, length = 42 + ROW * line, panel.length(value)
        begin = left + LEFT
        lines += [
            f'<text class="ink" x="{begin - 8}" y="{top + 15}" text-anchor="end">{escape(names.get(name, name))}</text>',
            f'<rect class="{"own" if name == "site" else "bar"}" x="{begin}" y="{top}" width="{length:.1f}" height="20"/>',
            f'<text class="ink" x="{begin + length + 6:.1f}" y="{top + 15}">{number(value)}</text>',
        ]
    return "\n".join(lines)
