"""How much shall leave the page cache: properties of the policies, and simulated VMs."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.vm.memory.policy import (
    AGED_S,
    FLOOR_BYTES,
    LONGEST_PAUSE_S,
    OVERDRAFT_S,
    SAVED_S,
    Aging,
    Auto,
    Fixed,
    Taken,
    pause_s,
)

MIB = 1 << 20
PAGE = 4096
FAULT_S = 60e-6


class SimulatedVM:
    """Uses its working set all the time, and the rest never: what it lacks of the first it takes back in a second."""

    def __init__(self, memory_bytes: int, working_bytes: int, fault_s: float = FAULT_S) -> None:
        self.fault_s = fault_s
        self.resident_bytes = memory_bytes
        self.working_bytes = working_bytes
        self.waited_s = 0.0

    def live(self, policy: Auto, seconds: int) -> None:
        """So many ticks of a second."""
        waited_s = 0.0
        self.history: list[tuple[int, float]] = []
        for _ in range(seconds):
            self.resident_bytes -= policy.reclaim_bytes(self.resident_bytes, waited_s, 1.0)
            missing_bytes = max(self.working_bytes - self.resident_bytes, 0)
            waited_s = min(missing_bytes / PAGE * self.fault_s, 1.0)
            self.waited_s += waited_s
            self.resident_bytes += missing_bytes
            self.history.append((self.resident_bytes, waited_s))


@pytest.mark.parametrize("working_mib", [0, 8, 100, 256, 500])
def test_auto_finds_the_working_set_and_costs_no_more_than_it_may(working_mib: int) -> None:
    vm, policy = SimulatedVM(512 * MIB, working_mib * MIB), Auto(0.01)
    vm.live(policy, 120)
    assert vm.resident_bytes <= working_mib * MIB * 1.05 + 2 * FLOOR_BYTES
    vm.live(policy, 1800)
    assert vm.waited_s <= 1920 * 0.01 * 1.2
    assert vm.resident_bytes >= min(FLOOR_BYTES, working_mib * MIB)


@given(st.integers(0, 500), st.floats(10e-6, 100e-6), st.integers(0, 3))
def test_auto_is_near_the_working_set_soon_and_stays_there(working_mib: int, fault_s: float, late_s: int) -> None:
    """Nine tenths of what can be had within 20 ticks, whatever a fault costs and however soon the VM asks for it."""
    vm, policy = SimulatedVM(512 * MIB, working_mib * MIB, fault_s), Auto(0.01)
    vm.live(policy, 20 + late_s)
    least_bytes = max(working_mib * MIB, FLOOR_BYTES)
    near_bytes = least_bytes + (512 * MIB - least_bytes) // 10
    assert vm.resident_bytes <= near_bytes
    vm.live(policy, 600)
    assert all(least_bytes * 0.99 <= resident_bytes <= near_bytes for resident_bytes, _ in vm.history)


@given(st.integers(8, 500), st.floats(10e-6, 100e-6))
def test_auto_takes_nothing_while_the_vm_waits_too_long(working_mib: int, fault_s: float) -> None:
    """One tick is the longest that a VM waits for longer than what had been saved up for it; then nothing leaves until
    that is earned back."""
    vm, policy = SimulatedVM(512 * MIB, working_mib * MIB, fault_s), Auto(0.01)
    vm.live(policy, 900)
    too_long = [waited_s > (1 + SAVED_S) * 0.01 for _, waited_s in vm.history]
    assert not any(one and other for one, other in itertools.pairwise(too_long))


@pytest.mark.parametrize("waited_s", [0.02, 1.0])
def test_an_overdraft_is_earned_back_in_bounded_time(waited_s: float) -> None:
    policy = Auto(0.01)
    assert policy.reclaim_bytes(512 * MIB, 0.0, 1.0) > 0
    assert policy.reclaim_bytes(512 * MIB, 0.05, 1.0) == 0
    assert policy.reclaim_bytes(512 * MIB, waited_s, 1.0) == 0
    ticks = next(tick for tick in range(100) if policy.reclaim_bytes(512 * MIB, 0.0, 1.0))
    assert 0 < ticks <= OVERDRAFT_S


def test_auto_lets_a_vm_grow_that_wakes_up() -> None:
    vm, policy = SimulatedVM(512 * MIB, 8 * MIB), Auto(0.01)
    vm.live(policy, 300)
    vm.working_bytes, vm.waited_s = 400 * MIB, 0.0
    vm.live(policy, 60)
    once_s = 392 * MIB / PAGE * FAULT_S  # what it needs has to come back once; little of it is taken away again
    assert vm.waited_s <= once_s * 1.3 and vm.resident_bytes >= 400 * MIB
    vm.working_bytes = 8 * MIB
    vm.live(policy, 600)
    assert vm.resident_bytes < 40 * MIB, "and to be idle again"


@given(
    st.lists(st.tuples(st.integers(0, 1 << 42), st.floats(0, 100), st.floats(0, 100)), max_size=50),
    st.floats(0.0001, 0.5),
)
def test_auto_takes_no_more_than_there_is(ticks: list[tuple[int, float, float]], target: float) -> None:
    policy = Auto(target)
    for resident_bytes, waited_s, elapsed_s in ticks:
        assert 0 <= policy.reclaim_bytes(resident_bytes, waited_s, elapsed_s) <= max(resident_bytes - FLOOR_BYTES, 0)


def test_the_part_does_not_grow_while_nothing_may_be_taken() -> None:
    waiting, fresh = Auto(0.01), Auto(0.01)
    for _ in range(60):
        waiting.wait(0.0, 1.0)
    assert waiting.reclaim_bytes(1 << 30, 0.0, 1.0) == fresh.reclaim_bytes(1 << 30, 0.0, 1.0) > 0
    waiting.wait(10.0, 1.0)
    assert waiting.reclaim_bytes(1 << 30, 0.0, 1.0) == 0, "what the VM waited meanwhile counts"


def test_a_fixed_size() -> None:
    policy = Fixed(64 * MIB)
    assert policy.reclaim_bytes(100 * MIB, 9.0, 1.0) == 36 * MIB
    assert policy.reclaim_bytes(64 * MIB, 0.0, 1.0) == 0
    assert policy.reclaim_bytes(10 * MIB, 0.0, 1.0) == 0


def test_a_vm_is_aged_when_it_was_loaded_and_when_it_wakes_up() -> None:
    aging = Aging()
    assert aging.is_over(0.0), "nothing is there that could be wrong"
    assert aging.is_due(100 * MIB, 10.0)
    assert not aging.is_over(10.0 + AGED_S / 2) and aging.is_over(10.0 + AGED_S)
    assert not aging.is_due(101 * MIB, 11.0) and aging.is_over(10.0 + AGED_S), "a little more is not waited for"
    assert aging.is_due(200 * MIB, 12.0) and not aging.is_over(10.0 + AGED_S)
    assert not any(aging.is_due(size_mib * MIB, 30.0) for size_mib in range(200, 8, -1))
    assert not aging.is_due(20 * MIB, 31.0), "it was small"
    assert aging.is_due(40 * MIB, 32.0)


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 1 << 18)), max_size=50))
def test_no_more_comes_back_than_was_taken(steps: list[tuple[int, int]]) -> None:
    taken, left_bytes, back = Taken(), 0, 0.0
    for taken_bytes, blocks in steps:
        taken.take(taken_bytes)
        left_bytes += taken_bytes
        share = taken.share_of(blocks)
        assert 0.0 <= share <= 1.0
        back += share * blocks * PAGE
    assert back <= left_bytes * (1 + 1e-9)


def test_first_touches_are_no_refaults() -> None:
    taken = Taken()
    assert taken.share_of(30_000) == 0.0
    taken.take(100 * PAGE)
    assert taken.share_of(50) == 1.0
    assert taken.share_of(200) == 0.25
    assert taken.share_of(200) == 0.0


def test_looking_is_limited_and_taking_is_not() -> None:
    assert pause_s(0.008, 0) == pytest.approx(1.0)
    assert pause_s(0.05, 100 * MIB) == 0.0, "2 us a page"
    assert pause_s(0.05, 4 * MIB) > 5.0, "50 us a page"
    assert pause_s(9.0, 0) == LONGEST_PAUSE_S
