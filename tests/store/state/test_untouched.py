"""Memory that costs what was written of it, and nothing when nobody looks at it any more."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from blockstore.store.state.untouched import numbers_to_fill, untouched

MIB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_what_is_not_written_takes_nothing() -> None:
    before = resident_bytes()
    memory = untouched(256 * MIB)
    memory[100 * MIB] = 1
    assert len(memory) == 256 * MIB and resident_bytes() - before < 16 * MIB
    memory.resize(512 * MIB)
    assert memory[100 * MIB] == 1 and memory[511 * MIB] == 0 and resident_bytes() - before < 16 * MIB


@pytest.mark.parametrize("count", (0, 1, 1025, 5 * MIB))
def test_numbers(count: int) -> None:
    numbers = numbers_to_fill(count)
    assert len(numbers) == count and not any(numbers[:10]) and not any(numbers[-10:])
    if count:
        numbers[count - 1] = 0xFFFF_FFFF


def test_memory_goes_back() -> None:
    before = resident_bytes()
    numbers = numbers_to_fill(16 * MIB)
    numbers[:] = memoryview(bytearray(b"\1") * (64 * MIB)).cast("I")
    del numbers
    assert resident_bytes() - before < 32 * MIB
