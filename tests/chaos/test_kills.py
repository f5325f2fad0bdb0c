"""Whatever dies, freezes or loses its clock: what was shown stays, and each answer goes on or is marked."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos import kills
from tests.chaos.kills import Outcome
from tests.chaos.load import Judgement
from tests.chaos.model import Model
from tests.support.site import Site

RECOVERY_SECONDS = 30  # on a busy machine; what it really takes is measured by `make chaos`


def check(judgement: Judgement) -> None:
    assert (judgement.faults, judgement.notes) == (0, [])
    assert judgement.finished + judgement.interrupted == judgement.answers


def check_all(outcome: Outcome) -> None:
    for judgement in outcome.judgements:
        check(judgement)
    assert max(outcome.recoveries) < RECOVERY_SECONDS


def test_workers_killed_at_random_lose_nothing_that_was_shown(
    two_workers: Site, model: Model, dice: random.Random
) -> None:
    outcome = kills.kill_at_random(two_workers, model, dice, kills=2, tokens=200)
    check_all(outcome)
    assert outcome.total("went_on")


def test_the_only_worker_killed_at_random_loses_nothing_that_was_shown(
    one_worker: Site, model: Model, dice: random.Random
) -> None:
    outcome = kills.kill_at_random(one_worker, model, dice, kills=2, tokens=200)
    check_all(outcome)
    assert outcome.total("went_on")
    assert outcome.total("interrupted")  # those whose model cannot go on


def test_the_control_what_is_shown_before_it_is_stored_is_lost(
    failing_site: Callable[..., Site], model: Model, dice: random.Random
) -> None:
    site = failing_site(CHATAPP_TEST_WITHOUT="commit-first")
    outcome = kills.kill_at_random(site, model, dice, kills=1, tokens=200)
    assert outcome.total("lost") + outcome.total("wrong")


def test_a_worker_that_dies_at_any_point_loses_nothing(
    one_worker: Site, two_workers: Site, model: Model, dice: random.Random
) -> None:
    """On two sites at once, half of the points each: most of the time is the wait for a lease to end."""

    def at_each(site: Site, points: Sequence[str]) -> list[tuple[str, Judgement]]:
        return [(point, kills.kill_at(site, model, point)) for point in points]

    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(at_each, [one_worker, two_workers], [kills.POINTS[::2], kills.POINTS[1::2]])
        found = [result for half in halves for result in half]
    assert [(point, judgement.notes) for point, judgement in found if judgement.faults] == []


def test_a_site_on_postgresql_loses_nothing_either(
    failing_site: Callable[..., Site], model: Model, dice: random.Random, new_database: Callable[[], str]
) -> None:
    site = failing_site(2, CHATAPP_DATABASE_URL=new_database())
    judgement = kills.pause(site, model, dice)
    check(judgement)
    assert judgement.went_on


@pytest.mark.parametrize("workers_too", [True, False], ids=["with its workers", "alone"])
def test_a_master_that_is_killed_takes_nothing_along(one_worker: Site, model: Model, workers_too: bool) -> None:
    outcome = kills.kill_master(one_worker, model, workers_too=workers_too)
    check_all(outcome)
    assert outcome.left_after < RECOVERY_SECONDS


def test_a_worker_that_was_paused_beyond_its_lease_writes_nothing_more(
    two_workers: Site, model: Model, dice: random.Random
) -> None:
    judgement = kills.pause(two_workers, model, dice)
    check(judgement)
    assert judgement.went_on
    assert "the lease was lost" in two_workers.log()


def test_the_control_without_the_fence_two_write_one_answer(
    failing_site: Callable[..., Site], model: Model, dice: random.Random
) -> None:
    assert kills.pause(failing_site(2, CHATAPP_TEST_WITHOUT="fence"), model, dice, answers=3, seconds=6).faults


def test_a_worker_whose_loop_is_blocked_beyond_its_lease_writes_nothing_more(two_workers: Site, model: Model) -> None:
    judgement = kills.block(two_workers, model)
    check(judgement)
    assert judgement.went_on


def test_a_clock_that_jumps_by_a_day_and_back_ends_nothing(two_workers: Site, model: Model) -> None:
    judgement = kills.shift_clock(two_workers, model, 86_400, -2 * 86_400, 86_400)
    check(judgement)
    assert (judgement.finished, judgement.went_on) == (judgement.answers, 0)
