"""Where the lane should run, by the cores of the faults that were looked at."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from blockstore.daemon.lane.core_choice import KEPT_LOOKS, LOOKS, SETTLED_LOOKS, CoreChoice


def after(*cores: int) -> int | None:
    """What is chosen after these looks, which are more than none."""
    choice = CoreChoice()
    return [choice.observe(core) for core in cores][-1]


def test_faults_that_have_settled_are_followed() -> None:
    assert after(*[3] * (SETTLED_LOOKS - 1)) is None
    assert after(*[3] * SETTLED_LOOKS) == 3


def test_a_move_takes_as_many_looks_as_settling_did() -> None:
    choice = CoreChoice()
    for _ in range(LOOKS):
        choice.observe(0)
    chosen = [choice.observe(1) for _ in range(LOOKS)]
    moved = chosen.index(1)
    assert moved == SETTLED_LOOKS - 1
    assert chosen[: LOOKS - KEPT_LOOKS] == [0] * (LOOKS - KEPT_LOOKS), "the majority is where the lane is"
    assert set(chosen[LOOKS - KEPT_LOOKS : moved]) == {None}
    assert set(chosen[moved:]) == {1}


def test_now_and_then_a_fault_elsewhere_moves_nothing() -> None:
    choice = CoreChoice()
    chosen = [choice.observe(0 if number % 4 else 1) for number in range(20 * LOOKS)]
    assert set(chosen[LOOKS:]) == {0}


def test_guests_on_many_cores_leave_it_to_the_scheduler() -> None:
    assert after(*[0] * LOOKS, *list(range(4)) * LOOKS) is None
    assert after(*list(range(4)) * LOOKS) is None


def test_guests_on_two_cores_do_not_make_the_lane_jump() -> None:
    """By chance such faults seem to have settled now and then; a lane that followed the last look would move in half of
    them."""
    chance = random.Random(1)
    choice = CoreChoice()
    chosen = [choice.observe(chance.randrange(2)) for _ in range(10_000)]
    moves = sum(before != now and now is not None for before, now in pairwise(chosen))
    assert moves < len(chosen) / 50
    assert chosen.count(None) > len(chosen) / 2


@given(st.lists(st.integers(0, 3), min_size=1, max_size=100))
def test_a_chosen_core_has_the_majority_of_the_last_looks(cores: list[int]) -> None:
    choice = CoreChoice()
    chosen: int | None = None
    for number, core in enumerate(cores, 1):
        before, chosen = chosen, choice.observe(core)
        last = cores[max(number - LOOKS, 0) : number]
        if chosen is None:
            assert all(last.count(each) < SETTLED_LOOKS for each in last)
        else:
            assert last.count(chosen) >= (KEPT_LOOKS if chosen == before else SETTLED_LOOKS)
