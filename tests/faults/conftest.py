from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.site import Site


@pytest.fixture
def build(new_site: Callable[..., Site]) -> Iterator[Callable[..., Site]]:
    """Make sites as `new_site` does, by the name of their build if they have one, and end them with the test."""
    made: list[Site] = []

    def make(name: str = "", **options: Any) -> Site:
        application = f"tests.faults.builds.{name}" if name else "wsgi"
        site = new_site(application=application, **options)
        made.append(site)
        return site

    yield make
    for site in made:
        site.kill()
