"""How much shall leave the page cache: properties of the policies, and simulated VMs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.vm.memory.policy import FLOOR_BYTES, Auto, Fixed

MIB = 1 << 20
PAGE = 4096
FAULT_S = 60e-6


class SimulatedVM:
    """Uses its working set all the time, and the rest never: what it lacks of the first it takes back in a second."""

    def __init__(self, memory_bytes: int, working_bytes: int) -> None:
        self.resident_bytes = memory_bytes
        self.working_bytes = working_bytes
        self.waited_s = 0.0

    def live(self, policy: Auto, seconds: int) -> None:
        """So many ticks of a second."""
        waited_s = 0.0
        for _ in range(seconds):
            self.resident_bytes -= policy.reclaim_bytes(self.resident_bytes, waited_s, 1.0)
            missing_bytes = max(self.working_bytes - self.resident_bytes, 0)
            waited_s = min(missing_bytes / PAGE * FAULT_S, 1.0)
            self.waited_s += waited_s
            self.resident_bytes += missing_bytes


@pytest.mark.parametrize("working_mib", [0, 8, 100, 256, 500])
def test_auto_finds_the_working_set_and_costs_no_more_than_it_may(working_mib: int) -> None:
    vm, policy = SimulatedVM(512 * MIB, working_mib * MIB), Auto(0.01)
    vm.live(policy, 120)
    assert vm.resident_bytes <= working_mib * MIB * 1.05 + 2 * FLOOR_BYTES
    vm.live(policy, 1800)
    assert vm.waited_s <= 1920 * 0.01 * 1.2
    assert vm.resident_bytes >= min(FLOOR_BYTES, working_mib * MIB)


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


def test_a_fixed_size() -> None:
    policy = Fixed(64 * MIB)
    assert policy.reclaim_bytes(100 * MIB, 9.0, 1.0) == 36 * MIB
    assert policy.reclaim_bytes(64 * MIB, 0.0, 1.0) == 0
    assert policy.reclaim_bytes(10 * MIB, 0.0, 1.0) == 0
