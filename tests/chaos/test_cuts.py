"""Whoever is cut off, at whatever byte, comes back and misses nothing: `make chaos` does it for longer."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos import cuts
from tests.chaos.model import Model
from tests.support.site import Site

SECONDS = 6


def test_readers_cut_off_anywhere_miss_and_repeat_nothing(one_worker: Site, model: Model, dice: random.Random) -> None:
    done = cuts.cut_at_random(one_worker, model, dice, cuts=20_000, seconds=SECONDS)
    assert done.cuts > 100
    assert (done.wrong, done.notes) == (0, [])


def test_the_control_a_site_that_begins_one_event_too_early_is_found_out(
    failing_site: Callable[..., Site], model: Model, dice: random.Random
) -> None:
    site = failing_site(CHATAPP_TEST_WITHOUT="cursor")
    assert cuts.cut_at_random(site, model, dice, cuts=50, seconds=SECONDS, tokens=30).wrong
    asked, wrong = cuts.every_cursor(site, model, tokens=20)
    assert wrong >= asked - 3


def test_each_cursor_gets_exactly_the_rest(one_worker: Site, model: Model) -> None:
    asked, wrong = cuts.every_cursor(one_worker, model, tokens=300)
    assert asked > 50
    assert wrong == 0


def test_rubbish_for_a_cursor_is_answered_with_the_answers_own_text_or_refused(
    one_worker: Site, model: Model, dice: random.Random
) -> None:
    statuses, wrong = cuts.rubbish_ids(one_worker, model, dice, number=2000)
    assert wrong == []
    assert set(statuses) <= {200, 204, 400, 431}
    assert statuses[200] > 1000
    assert "Traceback" not in one_worker.log()
