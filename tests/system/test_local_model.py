"""The built-in model: there while the site is there, for the site alone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from chatapp import local_model
from chatapp.errors import SettingsError
from chatapp.settings import Settings
from tests.support.site import Site, wait_until
from tests.system._processes import children, command_line

MODEL = "local/smollm2-135m"

needs_model = pytest.mark.skipif(
    "CI" not in os.environ and (not local_model.is_installed() or not local_model.find_weights(Settings())),
    reason="the built-in model is not installed",
)


@pytest.fixture(scope="module")
def local_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(Path(tmp_path_factory.mktemp("local")), CHATAPP_LOCAL_MODEL="", CHATAPP_REGISTRATION="open")
    with site:
        ready(site)
        yield site


def ready(site: Site) -> str:
    """Return the one line that says so."""
    return str(wait_until(lambda: next((line for line in site.log().splitlines() if "is ready" in line), None), 30))


def model_process(site: Site) -> psutil.Process | None:
    return next(iter(children(site, "chatapp.local_model")), None)


def address_and_key(site: Site) -> tuple[str, str]:
    process = model_process(site)
    assert process is not None
    arguments = process.cmdline()
    port = arguments[arguments.index("--port") + 1]
    return f"http://127.0.0.1:{port}/v1", process.environ()[local_model.KEY_VARIABLE]


def test_the_weights_are_found_without_importing_their_package() -> None:
    weights = local_model.find_weights(Settings())
    assert weights is None or weights.suffix == ".gguf"
    assert local_model.WEIGHTS_PACKAGE not in sys.modules


def test_off_is_no_model() -> None:
    assert local_model.find_weights(Settings(local_model="off")) is None
    assert local_model.start(Settings(local_model="off")) is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^CHATAPP_LOCAL_MODEL='.*/no\.gguf' is wrong: there is no such GGUF file"):
        local_model.find_weights(Settings(local_model=str(tmp_path / "no.gguf")))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("Qwen2.5-0.5B.gguf", "qwen2.5-0.5b"),
        ("My model (new).gguf", "my-model-new-"),
    ],
)
def test_a_model_is_called_after_its_file(file: str, name: str) -> None:
    assert local_model.model_name(Path("/models") / file) == name


@needs_model
def test_the_start_says_which_models_there_are(local_site: Site) -> None:
    assert ready(local_site) == f"chatapp is ready at {local_site.url} with 1 model: {MODEL}"
    assert local_site.log().count("\n") == 1


@needs_model
def test_it_answers(local_site: Site) -> None:
    ada = local_site.new_user()
    started, frames = ada.ask("Say hello.", MODEL)
    assert frames[-1].event == "done"
    assert ada.answer(started)["content"]


@needs_model
def test_nobody_else_may_ask_it(local_site: Site) -> None:
    url, key = address_and_key(local_site)
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    assert requests.post(f"{url}/chat/completions", json=body, timeout=20).status_code == 401
    headers = {"Authorization": f"Bearer {key}"}
    assert requests.post(f"{url}/chat/completions", json=body, headers=headers, timeout=20).status_code == 200
    assert all(key not in " ".join(command_line(process)) for process in local_site.family())


@needs_model
def test_signals_to_the_whole_group_leave_it_to_its_master(local_site: Site) -> None:
    process = model_process(local_site)
    assert process is not None
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(end)
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(0.5)


@needs_model
def test_it_comes_back_at_the_same_address_after_a_crash(local_site: Site) -> None:
    before, (url, key) = model_process(local_site), address_and_key(local_site)
    assert before is not None
    before.kill()
    wait_until(lambda: (now := model_process(local_site)) and now.pid != before.pid and local_model.answers(url))
    assert address_and_key(local_site) == (url, key)
    _, frames = local_site.new_user().ask("Say hello.", MODEL)
    assert frames[-1].event == "done"


@needs_model
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_never_outlives_the_site(tmp_path: Path, how: signal.Signals) -> None:
    site = Site(tmp_path, CHATAPP_LOCAL_MODEL="")
    site.start()
    ready(site)
    family = site.family()
    assert site.process is not None
    if how == signal.SIGINT:
        os.killpg(site.process.pid, how)  # as Ctrl-C does
    else:
        os.kill(site.process.pid, how)
    site.process.wait(15)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert "Traceback" not in site.log()


@needs_model
def test_a_file_that_is_no_model_leaves_the_site_usable(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_text("This is no model.")
    with Site(tmp_path, CHATAPP_LOCAL_MODEL=str(tmp_path / "no.gguf"), CHATAPP_REGISTRATION="open") as site:
        wait_until(lambda: "no readable GGUF file" in site.log())
        assert "Traceback" not in site.log()
        assert site.new_user().call("GET", "/api/models") is not None
