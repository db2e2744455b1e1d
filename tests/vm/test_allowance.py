"""The controller's processor time for one VM: a burst at first, and the bound in the long run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.vm.allowance import LARGEST_COST, LONGEST_PAUSE_S, SAVED_UP_S, Allowance


@given(st.lists(st.floats(0, LONGEST_PAUSE_S * LARGEST_COST), min_size=1, max_size=400))
def test_the_bound_holds_in_the_long_run(costs_s: list[float]) -> None:
    allowance, passed_s, pause_s = Allowance(), 0.0, 1.0
    for cost_s in costs_s:
        passed_s += max(pause_s, 1.0)
        pause_s = allowance.spend(max(pause_s, 1.0), cost_s)
        assert 0 <= pause_s <= LONGEST_PAUSE_S * (1 + 1e-9)
    assert sum(costs_s) <= (SAVED_UP_S + passed_s + LONGEST_PAUSE_S) * LARGEST_COST * (1 + 1e-9)


def test_a_burst_and_another_one_after_a_minute_of_rest() -> None:
    allowance = Allowance()
    for _ in range(2):
        spent_s = 0.0
        while not (pause_s := allowance.spend(1.0, 0.05)):
            spent_s += 0.05
        assert spent_s == pytest.approx(SAVED_UP_S * LARGEST_COST, abs=0.1)
        assert pause_s < LONGEST_PAUSE_S
        assert allowance.spend(SAVED_UP_S + LONGEST_PAUSE_S, 0.0) == 0


def test_one_look_that_took_very_long_is_forgotten() -> None:
    allowance = Allowance()
    assert allowance.spend(1.0, 3600.0) == pytest.approx(LONGEST_PAUSE_S)
    assert allowance.spend(LONGEST_PAUSE_S, 0.0) == pytest.approx(0.0, abs=1e-6)
