"""The kit that measures: a reader that finds nothing wrong proves something only if it finds what is wrong."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

from benchmarks import run
from benchmarks._goals import GOALS
from benchmarks._kit import Model, cpu_seconds, seconds_until
from benchmarks._page import Panel, Section, page, picture
from benchmarks._report import Figures, Goal, Row, cells, judged, markdown, number, text
from benchmarks._stopping import all_left, differences
from benchmarks._targets import NAMES
from benchmarks._workloads import added, middle, wrong
from chatapp.settings import ROOT
from tests.support.site import free_port, wait_until

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}\0"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("kit"))
    for name in ("model", "load"):
        source = ROOT / "benchmarks" / f"{name}.c"
        subprocess.run(
            ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / name, source], check=True
        )
    (folder / "requests").write_bytes(REQUEST)
    return folder


@pytest.fixture(scope="module")
def model_port(kit: Path) -> Iterator[int]:
    port = free_port()
    model = subprocess.Popen([kit / "model", "--port", str(port), "--tokens", "50", "--rate", "500"])
    wait_until(lambda: accepts(port))
    yield port
    model.kill()
    model.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def lines(kit: Path, port: int, tokens: int, *options: str) -> list[dict[str, Any]]:
    """Return what the load program says: marks, and at last the figures."""
    command = [str(kit / "load"), "--port", str(port), "--tokens", str(tokens), *options, str(kit / "requests")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def load(kit: Path, port: int, tokens: int, *options: str) -> dict[str, Any]:
    return lines(kit, port, tokens, *options)[-1]


def answering(body: str) -> int:
    """Return the port of a server that answers one request with *body*, a byte at a time, and goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(65_536)
            for byte in f"HTTP/1.1 200 OK\r\n\r\n{body}".encode():
                connection.sendall(bytes([byte]))

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def test_whole_streams_are_whole(kit: Path, model_port: int) -> None:
    said = load(kit, model_port, 50, "--streams", "20", "--ramp-ms", "100")
    assert (said["whole"], said["received"], said["lost"], said["doubled"], said["disordered"]) == (20, 1000, 0, 0, 0)
    assert 0 < said["delay_p50"] <= said["delay_p99"]


def test_a_stream_that_ends_early_has_lost_tokens(kit: Path, model_port: int) -> None:
    said = load(kit, model_port, 60, "--streams", "3")
    assert (said["whole"], said["broken"], said["lost"]) == (0, 3, 30)


@pytest.mark.parametrize(
    ("tokens", "wrong"),
    [
        ([0, 1, 2, 3], {"lost": 0, "doubled": 0, "disordered": 0}),
        ([0, 1, 3], {"lost": 1, "doubled": 0, "disordered": 1}),
        ([0, 1, 1, 2, 3], {"lost": 0, "doubled": 1, "disordered": 0}),
        ([1, 0, 2, 3], {"lost": 0, "doubled": 0, "disordered": 3}),
        ([0, 1, 2, 3, 4], {"lost": 0, "doubled": 0, "disordered": 1}),
    ],
    ids=["right", "lost", "doubled", "disordered", "invented"],
)
def test_what_is_wrong_is_counted(kit: Path, tokens: list[int], wrong: dict[str, int]) -> None:
    said = load(kit, answering("".join(f'data: {{"content": " [{token}@1]"}}\n\n' for token in tokens)), 4)
    assert {key: said[key] for key in wrong} == wrong


def test_what_comes_after_the_end_is_not_looked_at(kit: Path) -> None:
    body = "event: token\ndata: [0@1]\n\nevent: done\ndata: the whole answer again: [0@1]\n\n"
    assert load(kit, answering(body), 1, "--stop", "event: done")["doubled"] == 0
    assert load(kit, answering(body), 1)["doubled"] == 1


def test_a_refusal_is_told(kit: Path, model_port: int) -> None:
    (kit / "requests").write_bytes(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n\0")
    try:
        said = load(kit, model_port, 1)
    finally:
        (kit / "requests").write_bytes(REQUEST)
    assert (said["broken"], said["trouble"].startswith("HTTP/1.1 404")) == (1, True)


def test_each_token_of_an_event_counts(kit: Path) -> None:
    said = load(kit, answering('data: {"content": " [0@1] [1@2] [2@3]"}\n\ndata: {"content": " [3@4]"}\n\n'), 4)
    assert (said["whole"], said["received"], said["lost"], said["disordered"]) == (1, 4, 0, 0)
    said = load(kit, answering('data: {"content": " [0@1] [2@2] [2@3]"}\n\n'), 4)
    assert (said["received"], said["lost"], said["doubled"], said["disordered"]) == (3, 2, 1, 1)


def test_the_bytes_of_a_body_are_counted_to_the_last(kit: Path) -> None:
    tokens, tail = "event: token\ndata: [0@1]\n\nevent: done", "\ndata: the whole answer again: [0@1]\n\n"
    said = load(kit, answering(tokens + tail), 1, "--stop", "event: done")
    assert (said["body_bytes"], said["tail_bytes"]) == (len(tokens + tail), len(tail))


def test_marks_say_when_all_streams_run(kit: Path, model_port: int) -> None:
    streaming, ending, said = lines(kit, model_port, 50, "--streams", "5", "--ramp-ms", "20")
    assert (streaming["mark"], ending["mark"]) == ("streaming", "ending")
    assert 5 <= streaming["received"] < ending["received"] <= said["received"] == 250


def test_no_more_than_so_many_are_open_at_once(kit: Path, model_port: int) -> None:
    said = load(kit, model_port, 50, "--streams", "6", "--at-once", "2")
    assert said["whole"] == 6
    assert said["seconds"] > 0.29  # three times the 0.1 s of a stream


def test_held_streams_are_left_together(kit: Path, model_port: int) -> None:
    model = Model(model_port)
    model.set(tokens=1000, rate=5)
    try:
        before = model.stats()["begun"]
        options = f"--port {model_port} --tokens 1000 --streams 7 --hold 1".split()
        command = [str(kit / "load"), *options, str(kit / "requests")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holding:
            assert holding.stdout is not None
            assert holding.stdin is not None
            assert json.loads(holding.stdout.readline())["mark"] == "streaming"
            assert model.stats()["begun"] == before + 7
            assert model.left() == []
            holding.stdin.close()
        wait_until(lambda: len(model.left()) == 7)
    finally:
        model.set(tokens=50, rate=500)


@pytest.mark.parametrize("first_ms", [0, 5000], ids=["while it answers", "before the first token"])
def test_the_model_says_which_stream_was_left_and_when(model_port: int, first_ms: int) -> None:
    model = Model(model_port)
    model.set(tokens=1000, rate=5, first_ms=first_ms)
    model.left()
    try:
        begun = model.stats()["begun"]
        streams = {tag: asking(model_port, f"Hello #{tag}") for tag in (3, 17, 4)}
        wait_until(lambda: model.stats()["begun"] == begun + 3)
        pressed = {}
        for tag in (17, 3):
            pressed[tag] = time.monotonic_ns()
            streams[tag].close()
        left = all_left(model, 2, at_most=5)
        took = differences({**pressed, 4: time.monotonic_ns()}, left)
        streams[4].close()
    finally:
        model.set(tokens=50, rate=500)
    assert list(left) == [17, 3]
    assert 0 < took[0] < 5
    assert took[2] == float("inf"), "what was never left is no short time"


def asking(port: int, prompt: str) -> socket.socket:
    """Return the connection of a reader who asks the model, and reads nothing."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}]})
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def test_the_model_says_nothing_before_its_first_token(model_port: int) -> None:
    Model(model_port).set(tokens=2, rate=500, first_ms=300)
    try:
        begun = time.monotonic()
        with asking(model_port, "Hello") as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begun >= 0.3
    finally:
        Model(model_port).set(tokens=50, rate=500)


def test_waiting_for_what_never_comes_takes_for_ever() -> None:
    assert seconds_until(lambda: False, at_most=0.05) == float("inf")
    assert seconds_until(lambda: True, at_most=0.05) < 5


def test_processor_time_is_that_of_all_threads() -> None:
    def busy() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    own = psutil.Process()
    before = cpu_seconds(own)
    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2 <= cpu_seconds(own) - before < 2


# the report


ROUNDS = [
    {"model": {"delay_p50": 100.0, "lost": 0}, "site": {"delay_p50": 1100.0, "lost": 0}},
    {"model": {"delay_p50": 200.0, "lost": 0}, "site": {"delay_p50": 5200.0, "lost": 2}},
    {"model": {"delay_p50": 900.0, "lost": 0}, "site": {"delay_p50": 2900.0, "lost": 1}},
]
RELAYED = [
    Row("cpu", "CPU per token, µs", {"nginx": 40.0, "plain": 100.0, "site": 60.0}),
    Row("wrong", "lost", {"model": 0, "site": 0}),
]


def test_what_is_added_is_the_median_of_the_rounds_differences() -> None:
    assert added(ROUNDS, "delay_p50") == {"model": 0.2, "site": 2.0}  # not 2.9 - 0.2
    assert middle(ROUNDS, "delay_p50") == {"model": 200.0, "site": 2900.0}


def test_what_is_wrong_in_any_round_is_wrong() -> None:
    rounds = [{name: {"doubled": 0, "disordered": 0, **said} for name, said in each.items()} for each in ROUNDS]
    assert wrong(rounds) == {"model": 0, "site": 3}


def test_a_target_that_lacks_a_figure_in_one_round_has_none() -> None:
    assert middle([{"a": {"x": 1.0}, "b": {"x": 2.0}}, {"a": {}, "b": {"x": 4.0}}], "x") == {"b": 3.0}


def test_goals_are_judged_by_ratios_within_the_run() -> None:
    verdicts = {verdict.goal.label: verdict for verdict in judged(GOALS, Figures(relay100=RELAYED))}
    per_token = verdicts["100 × 50/s: CPU per token / plain Flask's"]
    assert per_token.cells[1:] == ("0.600", "≤ 0.75 ✓", "≤ 0.5 ✗")
    assert not per_token.missed
    beside_nginx = verdicts["100 × 50/s: CPU per token / nginx's"]
    assert (beside_nginx.cells[1:], beside_nginx.missed) == (("1.50", "", "≤ 1.5 ✓"), False)
    assert "memory per open stream, KB" not in verdicts, "what was not measured is not judged"


def test_a_goal_may_be_a_least() -> None:
    goal = Goal("tokens a second", lambda figures: figures.get_value("fullspeed", "rate"), 3, 6, at_least=True)
    for value, cells_, missed in ((2.0, ("≥ 3 ✗", "≥ 6 ✗"), True), (5.0, ("≥ 3 ✓", "≥ 6 ✗"), False)):
        (verdict,) = judged([goal], Figures(fullspeed=[Row("rate", "", {"site": value})]))
        assert (verdict.cells[2:], verdict.missed) == (cells_, missed)


def test_one_lost_token_misses_a_goal() -> None:
    figures = Figures(relay100=RELAYED, question=[Row("wrong", "lost", {"site": 1})])
    assert [verdict.goal.label for verdict in judged(GOALS, figures) if verdict.missed] == [
        "tokens lost, doubled or out of order"
    ]


def test_a_table_has_a_column_for_each_target() -> None:
    table = cells([*RELAYED, Row("other", "only of the site", {"site": 1234.5})], NAMES)
    assert text(table).splitlines() == [
        "                   the model itself  nginx  plain Flask  this site",
        "CPU per token, µs                       40          100         60",
        "lost                              0                              0",
        "only of the site                                             1,234",
    ]
    assert markdown(table).splitlines()[:3] == [
        "|  | the model itself | nginx | plain Flask | this site |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| CPU per token, µs |  | 40 | 100 | 60 |",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (2, "2"),
        (0.04321, "0.0432"),
        (0.4321, "0.432"),
        (4.321, "4.32"),
        (43.21, "43.2"),
        (4321.9, "4,322"),
        (-0.25, "-0.250"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_keep_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_page_shows_every_part_and_verdict() -> None:
    figures = Figures(relay100=RELAYED)
    sections = [Section(run.PARTS["relay100"].title, run.PARTS["relay100"].how, RELAYED)]
    made = page(sections, judged(GOALS, figures), NAMES, machine="two cores", versions="nginx 1", load=0.25, rounds=3)
    assert "| 100 × 50/s: CPU per token / plain Flask's | 0.600 | ≤ 0.75 ✓ | ≤ 0.5 ✗ |" in made
    assert "\n## 100 streams × 50 tokens a second\n" in made
    assert "| CPU per token, µs |  | 40 | 100 | 60 |" in made


def test_the_picture_is_an_svg_whose_bars_compare() -> None:
    values = {"nginx": 1.0, "plain": 10.0, "site": 100.0}
    linear, logarithmic = Panel("CPU", values), Panel("delay < 1 s", values, logarithmic=True)
    made = ElementTree.fromstring(picture([linear, logarithmic], NAMES))
    widths = [float(bar.attrib["width"]) for bar in made.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[2] == 10 * widths[1] == 100 * widths[0]
    assert widths[5] - widths[4] == pytest.approx(widths[4] - widths[3], abs=0.2)
    assert "plain Flask 10" in made.attrib["aria-label"]


def test_every_goal_names_a_part_that_is_measured() -> None:
    seen: set[str] = set()

    class Asked(Figures):
        def get_value(self, part: str, key: str, target: str = "site") -> float:
            seen.add(part)
            return 1.0

    judged(GOALS, Asked({part: [] for part in run.PARTS}))
    assert seen == set(run.PARTS)
