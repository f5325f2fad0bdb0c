"""What it takes to have the site: to the first page, packages, memory when idle, what a browser fetches."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from benchmarks._kit import BUILD, answers
from benchmarks._report import Row
from benchmarks._workloads import Sizes
from chatapp.settings import ROOT
from tests.support.site import Site, free_port, wait_until

MB, KB = 1e6, 1e3


class LeftOut(Exception):
    """A part cannot be measured here; says why."""


def of_site(key: str, label: str, value: float) -> Row:
    return Row(key, label, {"site": value})


def start(sizes: Sizes) -> list[Row]:
    """From a clean clone to the first page."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {"HOME": folder, "PIP_CACHE_DIR": str(BUILD / "pip-cache"), "PATH": os.environ["PATH"]}
        environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | environ
        for name in ("first", "second"):  # the first one fills pip's cache
            subprocess.run(["git", "clone", "--quiet", ROOT, f"{folder}/{name}"], check=True)
            cold = seconds_to_first_page(Path(folder) / name, environ)
        warm = [seconds_to_first_page(Path(folder) / "second", environ) for _ in range(sizes.rounds)]
    return [
        of_site("cold", "clean clone to the first page, packages in pip's cache, s", cold),
        of_site("warm", "second start to the first page, s", statistics.median(warm)),
    ]


def seconds_to_first_page(clone: Path, environ: dict[str, str]) -> float:
    port = free_port()
    environ = {**environ, "CHATAPP_BIND": f"127.0.0.1:{port}", "OLLAMA_HOST": "http://127.0.0.1:1"}
    begun = time.monotonic()
    make = subprocess.Popen(["make", "run"], cwd=clone, env=environ, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 300, "the first page")
        return time.monotonic() - begun
    finally:
        os.killpg(make.pid, signal.SIGINT)
        make.wait(20)
        wait_until(lambda: not answers(f"http://127.0.0.1:{port}/"))


def install(sizes: Sizes) -> list[Row]:
    """What the core brings with it."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "PIP_CACHE_DIR": str(BUILD / "pip-cache")}
        clone, wheels, venv = (Path(folder) / name for name in ("clone", "wheels", "venv"))
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        before = bytes_in(venv)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        for step in (
            ["wheel", "--wheel-dir", wheels, clone],
            ["install", "--no-index", "--find-links", wheels, "chatapp"],
        ):
            subprocess.run([*pip, *map(str, step)], env=environ, check=True, stderr=subprocess.DEVNULL)
        listed = subprocess.run([*pip[:3], "list", "--format", "json"], check=True, capture_output=True)
        names = {package["name"].lower() for package in json.loads(listed.stdout)} - {"pip", "setuptools", "chatapp"}
        return [
            of_site("packages", "packages in the core", len(names)),
            of_site("download", "to download, MB", bytes_in(wheels) / MB),
            of_site("disk", "on disk, MB", (bytes_in(venv) - before) / MB),
        ]


def bytes_in(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def idle(sizes: Sizes) -> list[Row]:
    """Memory of master and worker when nobody asks anything."""
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder)) as site:
        wait_until(lambda: "is ready" in site.log())
        requests.get(site.url, timeout=5)
        family = [process.memory_full_info() for process in site.family()]
    return [
        of_site("pss", "memory of master and worker, idle (PSS), MB", sum(each.pss for each in family) / MB),
        of_site("rss", "the same, shared pages counted twice (RSS), MB", sum(each.rss for each in family) / MB),
    ]


def page(sizes: Sizes) -> list[Row]:
    """What a browser has to fetch."""
    from playwright.sync_api import sync_playwright

    fetched: list[int] = []
    program = chromium()
    with (
        tempfile.TemporaryDirectory() as folder,
        Site(Path(folder), CHATAPP_AUTH="off") as site,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page()
        devtools = tab.context.new_cdp_session(tab)
        devtools.send("Network.enable")
        devtools.on("Network.loadingFinished", lambda event: fetched.append(int(event["encodedDataLength"])))
        tab.goto(site.url, wait_until="load")
        tab.wait_for_timeout(1000)
        browser.close()
    return [
        of_site("requests", "requests for the first page", len(fetched)),
        of_site("bytes", "bytes for it, kB", sum(fetched) / KB),
    ]


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise LeftOut("Chromium is not installed")
    return found
