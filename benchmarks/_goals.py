"""What the site is to reach: ratios within one run where a peer is the measure, figures where a person is."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks._report import Figures, Goal

STREAMED = ("one", "relay100", "relay500", "fullspeed", "question")


def of(part: str, key: str) -> Callable[[Figures], float]:
    return lambda figures: figures.get_value(part, key)


def beside(other: str, part: str, key: str) -> Callable[[Figures], float]:
    return lambda figures: figures.ratio(part, key, "site", other)


def wrong(figures: Figures) -> float:
    """Return how many of the site's tokens were lost, doubled or out of order, in all parts that were measured."""
    seen = [figures.get_value(part, "wrong") for part in STREAMED if part in figures]
    if "fanout" in figures:
        seen += [figures.get_value("fanout", "wrong", column) for column in ("own", "shared")]
    if not seen:
        raise KeyError("wrong")
    return sum(seen)


GOALS = [
    Goal("tokens lost, doubled or out of order", wrong, 0),
    Goal("100 × 50/s: CPU per token / plain Flask's", beside("plain", "relay100", "cpu"), 0.75, 0.5),
    Goal("100 × 50/s: the same while all streams run", beside("plain", "relay100", "streaming"), None),
    Goal("100 × 50/s: CPU per token / nginx's", beside("nginx", "relay100", "cpu"), None, 1.5),
    Goal("100 × 50/s: added delay of a token, p50, ms", of("relay100", "token_p50"), 1.5, 0.5),
    Goal("100 × 50/s: the same, p99, ms", of("relay100", "token_p99"), 8, 3),
    Goal("500 × 20/s: added delay of the first token, p99, ms", of("relay500", "first_p99"), 60, 20),
    Goal(
        "500 × 20/s: added delay of a token, p99 / plain Flask's",
        beside("plain", "relay500", "token_p99"),
        1 / 5,
        1 / 30,
    ),
    Goal("full speed: tokens a second / plain Flask's", beside("plain", "fullspeed", "rate"), 3, 6, at_least=True),
    Goal("CPU per one-token question, ms", of("question", "cpu"), 5, 3),
    Goal("memory per open stream, KB", of("memory", "memory"), 60, 45),
    Goal(
        "200 readers of one answer: CPU per reader and token / a stream's of its own",
        lambda figures: figures.ratio("fanout", "cpu", "shared", "own"),
        1 / 2,
        1 / 5,
    ),
    Goal("back at the end of a 5,000-token answer: first event, p50, ms", of("resume", "event_p50"), 10, 3),
    Goal("bytes per token, native dialect", of("wire", "bytes"), 80, 50),
    Goal("stop pressed: model left after, p99, ms", of("stop", "running_p99"), 100, 20),
    Goal("the same before the first token", of("stop", "prompt_p99"), 100, 20),
    Goal("clean clone to the first page, s", of("start", "cold"), 90),
    Goal("second start to the first page, s", of("start", "warm"), 3),
    Goal("packages in the core", of("install", "packages"), 45),
    Goal("to download, MB", of("install", "download"), 60),
    Goal("on disk, MB", of("install", "disk"), 150),
    Goal("memory of master and worker, idle, MB", of("idle", "pss"), 150),
    Goal("requests for the first page", of("page", "requests"), 15),
    Goal("bytes for it, kB", of("page", "bytes"), 200),
]
