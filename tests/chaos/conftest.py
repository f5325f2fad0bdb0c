"""Sites with fail-points, and the model whose answers are known before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.model import Model
from tests.support.site import Site

BUILD = "tests.support.failing_wsgi"
Make = Callable[..., Site]


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with Model() as running:
        yield running


@pytest.fixture(scope="module")
def failing_site(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Make]:
    """Make sites that can be told to fail; they are stopped at the end of the module."""
    made: list[Site] = []

    def make(workers: int = 1, **environ: str) -> Site:
        folder = Path(tmp_path_factory.mktemp("chaos"))
        site = Site(folder, application=BUILD, CHATAPP_WORKERS=str(workers), **{**model.environ(), **environ})
        made.append(site)
        site.start()
        return site

    yield make
    for site in made:
        site.kill()


@pytest.fixture(scope="module")
def one_worker(failing_site: Make) -> Site:
    return failing_site(1)


@pytest.fixture(scope="module")
def two_workers(failing_site: Make) -> Site:
    return failing_site(2)


@pytest.fixture
def dice() -> random.Random:
    return random.Random(20)
