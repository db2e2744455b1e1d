"""The lane's buffers: kept for the next write, let go after a burst, and no memory of their own before."""

from __future__ import annotations

import os
import time

import pytest

from blockstore.daemon.buffers import REST_MS, SPARE_BUFFERS, Buffers
from tests.daemon.lab import Lab, put

MIB = 1 << 20


def anonymous_bytes(pid: int | str = "self") -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss_Anon:"))


def test_given_back_is_taken_again() -> None:
    buffers = Buffers(MIB)
    first, second = buffers.take(), buffers.take()
    assert first is not second and len(first) == MIB
    buffers.give_back(first)
    assert buffers.spare == [first] and buffers.take() is first and not buffers.spare


def test_no_more_are_kept_than_the_next_writes_need() -> None:
    buffers = Buffers(MIB)
    for buffer in [buffers.take() for _ in range(SPARE_BUFFERS + 3)]:
        buffers.give_back(buffer)
    assert len(buffers.spare) == SPARE_BUFFERS


def test_one_takes_memory_where_it_was_written_and_gives_it_back() -> None:
    before = anonymous_bytes()
    buffers = Buffers(64 * MIB)
    request = buffers.take()
    assert anonymous_bytes() - before < MIB
    request[: 32 * MIB] = bytes(32 * MIB)
    assert anonymous_bytes() - before >= 32 * MIB
    buffers.give_back(request)
    request = buffers.renew()
    assert anonymous_bytes() - before < MIB and len(request) == 64 * MIB and not buffers.spare


def test_what_still_looks_at_one_keeps_it() -> None:
    """A job's data lie in its buffer."""
    buffers = Buffers(MIB)
    buffer = buffers.take()
    buffer[:3] = b"abc"
    data = memoryview(buffer)[:3]
    buffers.give_back(buffer)
    del buffer
    assert buffers.renew()[:3] == bytes(3) and bytes(data) == b"abc"


@pytest.mark.mount
def test_a_burst_of_writes_leaves_no_buffers_behind(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "warm", os.urandom(MIB))  # what the first write needs stays
    time.sleep(REST_MS / 1000 + 1)
    before = anonymous_bytes(mounted.daemon_pid())
    for number in range(4):
        put(mounted.path / f"file{number}", os.urandom(16 * MIB))
    time.sleep(REST_MS / 1000 + 1)
    assert anonymous_bytes(mounted.daemon_pid()) - before < MIB
