"""A real nginx in front of a site, with its default settings but for the lines that are given."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.support.site import free_port, wait_until

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CONFIGURATION = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{upstream}; {lines} }}
  }}
}}
"""


class Nginx:
    def __init__(self, folder: Path, upstream: int, lines: str = "") -> None:
        if NGINX is None:
            pytest.skip("nginx is not installed")
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        text = CONFIGURATION.format(folder=folder, port=self.port, upstream=upstream, lines=lines)
        (folder / "nginx.conf").write_text(text)

    def __enter__(self) -> Self:
        arguments = [str(NGINX), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        self.process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        wait_until((self.folder / "pid").exists, what="nginx")
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait(10)
