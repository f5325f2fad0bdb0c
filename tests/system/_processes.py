"""The processes of a site, told apart by their command lines."""

from __future__ import annotations

import psutil

from tests.support.site import Site


def children(site: Site, word: str) -> list[psutil.Process]:
    """Return the living processes under the master whose command line has *word*."""
    return [process for process in site.family()[1:] if word in command_line(process)]


def command_line(process: psutil.Process) -> list[str]:
    """Return it, empty for a process that is gone or waits for being reaped."""
    try:
        return process.cmdline()
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return []


def worker_pids(site: Site) -> set[int]:
    return {process.pid for process in children(site, "gunicorn")}
