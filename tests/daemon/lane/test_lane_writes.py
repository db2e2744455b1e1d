"""Small writes that lie in the device together are all stored and answered, whatever goes wrong with one of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device
from blockstore.daemon.fuse.relay import Relay
from blockstore.daemon.lane.encoder_threads import EncoderThreads
from blockstore.daemon.lane.lane import Lane
from blockstore.store.ingest import Ingest
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.store.material import noise

WRITES = 5  # the socket takes no more at once


@dataclass
class Driven:
    """A lane of which only the compiled thread runs, until a test has it write, and the kernel's end of its device."""

    lane: Lane
    store: Store
    kernel: socket.socket

    def errors_of_writes(self) -> dict[int, int]:
        """Sends writes of a block each, to two files in turn, all at once; the errno of each, 0 if it was done."""
        for number in range(WRITES):
            body = abi.READ_WRITE_IN.pack(0, number * BLOCK_BYTES, BLOCK_BYTES, 0, 0, 0, 0) + noise(number)
            head = (abi.IN_HEADER.size + len(body), abi.WRITE, 2 * number + 2, number % 2 + 1, 0, 0, 0, 0, 0)
            self.kernel.send(abi.IN_HEADER.pack(*head) + body)
        self.lane._ended = lambda: None
        self.lane._encoding.start()
        self.lane._thread.start()
        found: dict[int, int] = {}
        while len(found) < WRITES:
            _, error, unique = abi.OUT_HEADER.unpack_from(self.kernel.recv(1 << 12))
            found[unique // 2 - 1] = -error
        return found

    def stored(self) -> list[bytes]:
        """What the files have where it was to be written."""
        volumes = [self.store.volumes[number % 2 + 1] for number in range(WRITES)]
        return [self.store.read(volume, at * BLOCK_BYTES, BLOCK_BYTES) for at, volume in enumerate(volumes)]


@pytest.fixture
def driven() -> Iterator[Driven]:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.settimeout(10)
    store, device = Store(MemoryHome(), 64 << 20), Device(ours.fileno())
    store_lock = store.lock
    for number in (1, 2):
        store.create_volume(number, 1)
    relay = Relay(device, lambda: None)
    lane = Lane(device, store, store_lock, relay, lambda inode, fh: 0, lambda request: None, lambda: None)
    relay.start(os.open(os.devnull, os.O_RDONLY))
    lane._reader_thread.start()
    try:
        yield Driven(lane, store, kernel)
    finally:
        kernel.shutdown(socket.SHUT_RDWR)
        lane._reader_thread.join()
        if lane._thread.ident is not None:
            lane._thread.join()
            lane._encoding.join()
        relay.close()
        device.close()
        store.close()
        for end in (kernel, ours):
            end.close()


def test_each_of_several_small_writes_is_stored_and_answered(driven: Driven) -> None:
    assert set(driven.errors_of_writes().values()) == {0}
    assert driven.stored() == [noise(number) for number in range(WRITES)]


def test_one_that_fails_is_answered_and_so_are_the_others(
    driven: Driven, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_blocks = Ingest.write_blocks

    def fail_once(self: Ingest, volume: Volume, first: int, *arguments: Any) -> None:
        if first == 3:
            raise RuntimeError("nobody foresaw this")
        write_blocks(self, volume, first, *arguments)

    monkeypatch.setattr(Ingest, "write_blocks", fail_once)
    queue = driven.lane._encoding.encoders.queue
    monkeypatch.setattr(EncoderThreads, "steer", lambda threads, **_: queue.steer(passes_on=True, holds=False))
    queue.steer(passes_on=True, holds=False)
    assert driven.errors_of_writes() == {number: errno.EIO if number == 3 else 0 for number in range(WRITES)}
    assert "nobody foresaw this" in caplog.text
    assert [block for block in driven.stored() if block] == [noise(number) for number in range(WRITES) if number != 3]


def test_a_lane_is_stuck_while_what_waits_is_not_taken(driven: Driven) -> None:
    before = driven.lane.progress
    assert before == (0, 0, 0) and not driven.lane.is_stuck(before), "nothing waits"
    head = abi.IN_HEADER.pack(abi.IN_HEADER.size, abi.LSEEK, 2, 1, 0, 0, 0, 0, 0)
    driven.kernel.send(head)
    assert driven.lane._requests.wait(10_000) and driven.lane.turns == 1
    assert driven.lane.is_stuck(before._replace(turns=1)), "in the queue"
    driven.lane._turn()
    assert not driven.lane.is_stuck(before), "taken"
    driven.kernel.shutdown(socket.SHUT_WR)
    driven.lane._reader_thread.join()
    assert driven.lane.is_stuck(driven.lane.progress), "in the device, whose reader has ended"


def test_buffers_that_a_burst_has_left_go_back(driven: Driven) -> None:
    """Without a rest: the lane's second thread, which sees one, does not run here."""
    requests = driven.lane._requests
    body = bytes(64 << 10)
    requests.put(abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), abi.WRITE, 2, 1, 0, 0, 0, 0, 0) + body)
    requests.take()
    assert (requests.spare, requests.large_in_use) == (1, 0)
    driven.lane.trim()
    assert requests.spare == 0
