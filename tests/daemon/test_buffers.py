"""The lane's buffers: kept for the next write, let go after a burst, and no memory of their own before."""

from __future__ import annotations

import pytest

from blockstore.daemon.buffers import SPARE_BUFFERS, Buffers
from tests.daemon.lab import Lab, Mounted, blockstore, end, noisy, put, said, spawn, until
from tests.daemon.logs import NO_ROOM

MIB = 1 << 20


def anonymous_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Anonymous:"))


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
    assert anonymous_bytes() - before < 8 * MIB
    request[: 32 * MIB] = bytes(32 * MIB)
    assert anonymous_bytes() - before >= 24 * MIB
    buffers.give_back(request)
    request = buffers.renew()
    assert anonymous_bytes() - before < 8 * MIB and len(request) == 64 * MIB and not buffers.spare


def test_what_still_looks_at_one_keeps_it() -> None:
    """A job's data lie in its buffer."""
    buffers = Buffers(MIB)
    buffer = buffers.take()
    buffer[:3] = b"abc"
    data = memoryview(buffer)[:3]
    buffers.give_back(buffer)
    del buffer
    assert buffers.renew()[:3] == bytes(3) and bytes(data) == b"abc"


COUNTED = """
import weakref, blockstore.daemon.relay, blockstore.daemon.buffers as buffers
untouched, live = buffers.untouched, set()

def tell():
    with open("%s", "a") as counts:
        print(len(live), file=counts)

def counted(size_bytes):
    buffer = untouched(size_bytes)
    number = id(buffer)
    live.add(number)
    tell()
    weakref.finalize(buffer, lambda: (live.discard(number), tell())).atexit = False
    return buffer

buffers.untouched = counted
"""
"""For the daemon: a line with the number of the lane's buffers whenever there is one more or less."""

WRITER = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(os.urandom(16 << 20))
    os.fsync(file.fileno())
print("synced", flush=True)
"""


@pytest.mark.mount
@NO_ROOM
def test_writes_that_waited_leave_no_buffers_behind(lab: Lab) -> None:
    counts = lab.path / "counts"
    (lab.path / "sitecustomize.py").write_text(COUNTED % counts)
    place = Mounted(lab.mountpoint(), lab.path / "mnt.state", True)
    command = ["mount", str(place.path), "--state", str(place.state), "--pool-limit", "32M"]
    assert blockstore(*command, PYTHONPATH=str(lab.path)).returncode == 0
    put(place.path / "ballast", noisy(22 * MIB, 1))
    writer = spawn(WRITER, str(place.path / "file"))
    try:
        until(lambda: place.total()["stalled"] > 0, "a write waits, with its data in a buffer")
        assert int(counts.read_text().split()[-1]) > 1
        (place.path / "ballast").unlink()
        assert said(writer) == "synced"
    finally:
        end(writer.pid)
    until(lambda: counts.read_text().endswith("\n1\n"), "one is left, for the next request")
