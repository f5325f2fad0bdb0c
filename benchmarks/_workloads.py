"""What is measured: each part lets the targets of a bench take turns, and returns the medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks._kit import Said, Target, exchange, quantile, seconds_until
from benchmarks._report import Row
from benchmarks._stopping import seconds_to_leave
from benchmarks._targets import Bench, bearer, raw_request, write

KB = 1e3


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 3
    one_streams: int = 15
    relay100_tokens: int = 400
    relay500_tokens: int = 140
    fullspeed_tokens: int = 3000
    held_streams: int = 1000
    held_ramp_ms: int = 8000
    questions: int = 200
    readers: int = 200
    fanout_tokens: int = 200
    resumed_tokens: int = 5000
    resumes: int = 50
    wire_tokens: int = 300
    stops: int = 100
    prompt_seconds: int = 8


FULL = Sizes()
QUICK = Sizes(
    rounds=1,
    one_streams=10,
    relay100_tokens=200,
    relay500_tokens=80,
    fullspeed_tokens=500,
    held_streams=300,
    held_ramp_ms=2000,
    questions=100,
    fanout_tokens=100,
    resumes=20,
    stops=20,
    prompt_seconds=3,
)

Rounds = list[dict[str, Said]]


def take_turns(targets: Iterable[Target], rounds: int, measure: Callable[[Target], Said]) -> Rounds:
    return [{target.name: measure(target) for target in targets} for _ in range(rounds)]


def middle(rounds: Rounds, key: str, *, scale: float = 1) -> dict[str, float]:
    """Return the median of *key* for each target that has it in each round."""
    names = [name for name in rounds[0] if all(key in each[name] for each in rounds)]
    return {name: statistics.median(each[name][key] for each in rounds) * scale for name in names}


def added(rounds: Rounds, key: str) -> dict[str, float]:
    """Return what each target adds to the delay *key* (µs) of the model itself, in ms; for the model itself its delay."""
    for each in rounds:
        base = each["model"][key]
        for name, said in each.items():
            said[f"added_{key}"] = said[key] - (base if name != "model" else 0)
    return middle(rounds, f"added_{key}", scale=1e-3)


def wrong(rounds: Rounds) -> dict[str, float]:
    keys = ("lost", "doubled", "disordered")
    return {name: sum(each[name][key] for each in rounds for key in keys) for name in rounds[0]}


def delays(rounds: Rounds) -> list[Row]:
    named = {
        "first_p50": "added delay of the first token, p50, ms",
        "first_p99": "the same, p99, ms",
        "token_p50": "added delay of a token, p50, ms",
        "token_p99": "the same, p99, ms",
    }
    return [Row(key, label, added(rounds, key.replace("token", "delay"))) for key, label in named.items()]


def costs(rounds: Rounds) -> list[Row]:
    per_token = middle(rounds, "cpu_us")
    return [
        Row("cpu", "CPU per token, µs", per_token),
        Row("streaming", "the same while all streams run, µs", middle(rounds, "streaming_us")),
        Row("per_second", "tokens per CPU-second", {name: 1e6 / us for name, us in per_token.items() if us}),
    ]


def relay(here: Bench, streams: int, rate: int, tokens: int, ramp_ms: int, rounds: int) -> list[Row]:
    here.model.set(tokens=tokens, rate=rate)
    said = take_turns(
        here.targets.values(), rounds, lambda target: target.load(streams=streams, tokens=tokens, ramp_ms=ramp_ms)
    )
    return [*costs(said), *delays(said), Row("wrong", "tokens lost, doubled or out of order", wrong(said))]


def one(sizes: Sizes, here: Bench) -> list[Row]:
    tokens = 20
    here.model.set(tokens=tokens, rate=200)
    said = take_turns(
        here.targets.values(),
        sizes.rounds,
        lambda target: target.load(streams=sizes.one_streams, tokens=tokens, at_once=1),
    )
    return [*delays(said), Row("wrong", "tokens lost, doubled or out of order", wrong(said))]


def relay100(sizes: Sizes, here: Bench) -> list[Row]:
    return relay(here, 100, 50, sizes.relay100_tokens, 2000, sizes.rounds)


def relay500(sizes: Sizes, here: Bench) -> list[Row]:
    return relay(here, 500, 20, sizes.relay500_tokens, 5000, sizes.rounds)


def fullspeed(sizes: Sizes, here: Bench) -> list[Row]:
    tokens = sizes.fullspeed_tokens

    def measure(target: Target) -> Said:
        said = target.load(streams=50, tokens=tokens, timeout_s=120)
        return {**said, "rate": said["received"] / said["seconds"]}

    here.model.set(tokens=tokens, rate=0)
    said = take_turns(here.targets.values(), sizes.rounds, measure)
    return [
        Row("rate", "tokens a second", middle(said, "rate")),
        Row("cpu", "CPU per token, µs", middle(said, "cpu_us")),
        Row("wrong", "tokens lost, doubled or out of order", wrong(said)),
    ]


def question(sizes: Sizes, here: Bench) -> list[Row]:
    def measure(target: Target) -> Said:
        said = target.load(streams=sizes.questions, tokens=1, at_once=4)
        return {**said, "rate": sizes.questions / said["seconds"]}

    here.model.set(tokens=1, rate=0)
    for target in here.targets.values():
        target.load(streams=20, tokens=1, at_once=4)
    said = take_turns(here.targets.values(), sizes.rounds, measure)
    return [
        Row("cpu", "CPU per question, ms", middle(said, "cpu_us", scale=1e-3)),
        Row("first_p50", "until the token is there, p50, ms", middle(said, "first_p50", scale=1e-3)),
        Row("rate", "questions a second", middle(said, "rate")),
        Row("wrong", "tokens lost, doubled or out of order", wrong(said)),
    ]


def fanout(sizes: Sizes, here: Bench) -> list[Row]:
    tokens, readers, rate = sizes.fanout_tokens, sizes.readers, 25

    def own() -> Said:
        here.model.set(tokens=tokens, rate=rate)
        return here.own.load(streams=readers, tokens=tokens, ramp_ms=2000)

    def shared() -> Said:
        here.model.set(tokens=tokens, rate=rate, first_ms=2500)  # all readers are there before it begins
        reader = here.users[0]
        id = reader.start("Hello", model="openai/bench")["generationId"]
        file = write(here.folder / "readers", [raw_request("GET", f"/api/generations/{id}/events", **bearer(reader))])
        target = replace(here.own, questions=file, options=("--stop", "event: done"))
        return target.load(streams=readers, tokens=tokens, ramp_ms=2000)

    said = [{"own": own(), "shared": shared()} for _ in range(sizes.rounds)]
    return [
        Row("cpu", "CPU per reader and token, µs", middle(said, "cpu_us")),
        Row("streaming", "the same while all streams run, µs", middle(said, "streaming_us")),
        Row("token_p50", "delay of a token, p50, ms", middle(said, "delay_p50", scale=1e-3)),
        Row("token_p99", "the same, p99, ms", middle(said, "delay_p99", scale=1e-3)),
        Row("wrong", "tokens lost, doubled or out of order", wrong(said)),
    ]


def memory(sizes: Sizes, here: Bench) -> list[Row]:
    """Nearly silent streams: one token at once, and then one in five seconds."""
    streams, grown, freed = sizes.held_streams, {}, {}
    for name, target in here.targets.items():
        if name == "model":
            continue
        here.model.set(tokens=20, rate=200)
        target.load(streams=50, tokens=20)
        here.model.set(tokens=1000, rate=0.2)
        before = target.memory_bytes()
        with target.held(streams=streams, ramp_ms=sizes.held_ramp_ms):
            grown[name] = (target.memory_bytes() - before) / streams / KB
        freed[name] = seconds_until(lambda target=target: not target.open_connections(), at_most=20)  # type: ignore[misc]
    return [
        Row("memory", "memory per open stream, KB", grown),
        Row("freed", "connections closed after their readers left, s", freed),
    ]


def resume(sizes: Sizes, here: Bench) -> list[Row]:
    """A reader comes back near the end of a long answer that is over."""
    tokens, rate = sizes.resumed_tokens, 500
    here.model.set(tokens=tokens, rate=rate)
    reader = here.users[0]
    id = reader.start("Hello", model="openai/bench")["generationId"]
    seen = [frame.id for frame in reader.follow(id) if frame.event == "token"]
    headers = {**bearer(reader), "Last-Event-ID": str(seen[-10])}
    request = raw_request("GET", f"/api/generations/{id}/events", **headers)
    first, event, _ = zip(
        *(exchange(here.site.port, request, b"event: token") for _ in range(sizes.resumes)), strict=True
    )
    return [
        Row("events", "events in its log before", {"site": len(seen)}),
        Row("first_byte", "until the first byte, p50, ms", {"site": statistics.median(first)}),
        Row("event_p50", "until the first event, p50, ms", {"site": statistics.median(event)}),
        Row("event_p99", "the same, p99, ms", {"site": quantile(event, 0.99)}),
    ]


def wire(sizes: Sizes, here: Bench) -> list[Row]:
    """One stream, slow enough that each token comes alone."""
    tokens = sizes.wire_tokens
    here.model.set(tokens=tokens, rate=200)
    said = {name: target.load(streams=1, tokens=tokens) for name, target in here.targets.items()}
    text = sum(len(f" [{seq}@{time.monotonic_ns()}]") for seq in range(tokens)) / tokens
    before = (said["site"]["body_bytes"] - said["site"]["tail_bytes"]) / tokens
    return [
        Row(
            "bytes",
            "bytes per token, body and chunk frames",
            {n: one["body_bytes"] / tokens for n, one in said.items()},
        ),
        Row("before", "the same before the end event", {"site": before}),
        Row("text", "of which text of the token", dict.fromkeys(said, text)),
    ]


def stop(sizes: Sizes, here: Bench) -> list[Row]:
    """The site's stop is asked for; of the others the reader leaves, which is all they know."""
    rows = []
    phases = {"running": ("while it answers", 0), "prompt": ("before the first token", 1000 * sizes.prompt_seconds)}
    at_most = 2.0 + sizes.prompt_seconds
    for key, (phase, first_ms) in phases.items():
        here.model.set(tokens=1_000_000, rate=10, first_ms=first_ms)
        took = {name: seconds_to_leave(here, name, stops=sizes.stops, at_most=at_most) for name in here.targets}
        for q in (50, 99):
            values = {name: 1000 * quantile(seconds, q / 100) for name, seconds in took.items()}
            rows.append(Row(f"{key}_p{q}", f"{phase}: model left after, p{q}, ms", values))
    return rows
