"""Schemathesis reads the OpenAPI document and tries thousands of requests, right and wrong, on a site as people run it.

No error of the server, no status, type or shape of an answer that the document does not tell, and in the end the same processes
still serve. CHATAPP_LONG=1 tries four times as many, on PostgreSQL and two workers too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SETUPS
from tests.faults import LONG
from tests.support.api import LEAKS
from tests.support.site import Client, Site

LEAST_CASES = 10_000 if LONG else 2500  # on each set-up
# Left out: names that are not there are told by 400, which the document cannot say; streams that are come back to tell of
# errors in-band, with a status of 200; who may do what is tried by `test_rights.py`.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
    "missing_required_header",
]
# these would end the tester's own sign-in, or never end
EXCLUDED = ["/api/auth/logout", "/api/events"]
ALIAS = re.compile(r"(/api)?/(ai|chat|metrics)\b")  # of the addresses of one view one is enough
AWAY = {502, 504}  # from a model, which the document tells of


def examined(site: Site) -> dict[str, Any]:
    """Return the site's document without what would let anything pass, and without operations that are left out."""
    document: dict[str, Any] = Client(site.url).call("GET", "/api/openapi.json")
    seen = set()
    for path in sorted(document["paths"], key=lambda path: -len(path)):
        item = document["paths"][path]
        for method in [method for method in item if method != "parameters"]:
            operation = item[method]
            operation["responses"].pop("default", None)
            operation["responses"].get("200", {}).get("content", {}).get("text/event-stream", {}).pop("schema", None)
            view = (method, operation["summary"])
            if view in seen or path in EXCLUDED:
                del item[method]
            seen.add(view)
        if not item.keys() - {"parameters"}:
            del document["paths"][path]
    return document


@pytest.mark.timeout(1800 if LONG else 400)  # where the machine is busy; a quiet one takes some 30 s for each
@pytest.mark.parametrize("setup", ["sqlite, 1 worker", *(["postgresql, redis, 2 workers"] if LONG else [])])
def test_whatever_is_sent_the_answer_is_one_that_the_document_tells(
    new_site: Callable[..., Site], request: pytest.FixtureRequest, tmp_path: Path, setup: str
) -> None:
    site = new_site(
        **SETUPS[setup](request),
        CHATAPP_DEFAULT_MODEL="openai/echo",
        CHATAPP_STREAMS_PER_MINUTE="100000",
    )
    workers = [worker.pid for worker in site.workers()]
    tester = site.new_user("Root")  # the admin: whose requests get furthest
    tester.ask("hello")
    document = examined(site)
    operations = sum(len(item.keys() - {"parameters"}) for item in document["paths"].values())
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", site.url),
            *("-H", f"Authorization: {tester.http.headers['Authorization']!s}"),
            *("--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--seed", "7", "--workers", "2"),
            *("--max-examples", str(160 if LONG else 12), "--no-shrink", "--continue-on-failure"),
            *("--suppress-health-check", "all", "--request-timeout", "30", "--warnings", "off"),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    print(done.stdout[-1500:])
    [tried] = re.findall(r"(\d+) generated", done.stdout)
    assert int(tried) >= LEAST_CASES, f"{tried} cases of {operations} operations"
    assert [worker.pid for worker in site.workers()] == workers
    assert not LEAKS.search(site.log()), site.log()[-4000:]
