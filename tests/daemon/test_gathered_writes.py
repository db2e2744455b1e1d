"""Small writes that the lane has read together are all answered, whatever goes wrong with one of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from blockstore.daemon import fuse_abi as abi
from blockstore.daemon.device import Device
from blockstore.daemon.door import Door
from blockstore.daemon.lane import Lane
from blockstore.daemon.relay import Relay
from blockstore.daemon.small_writes import SmallWrites
from blockstore.store.geometry import BLOCK_BYTES
from blockstore.store.home import MemoryHome
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.store.material import noise

WRITES = 5  # the socket takes no more at once


@dataclass
class Driven:
    """A lane whose turns the test takes, and the kernel's end of its device."""

    lane: Lane
    store: Store
    kernel: socket.socket

    def errors_of_writes(self) -> dict[int, int]:
        """Sends writes of a block each, to two files in turn, all at once; the errno of each, 0 if it was done."""
        for number in range(WRITES):
            body = abi.READ_WRITE_IN.pack(0, number * BLOCK_BYTES, BLOCK_BYTES, 0, 0, 0, 0) + noise(number)
            head = (abi.IN_HEADER.size + len(body), abi.WRITE, 2 * number + 2, number % 2 + 1, 0, 0, 0, 0, 0)
            self.kernel.send(abi.IN_HEADER.pack(*head) + body)
        while self.lane.turns < WRITES or self.lane._held_bytes or self.lane._jobs.count:
            if self.lane._held_bytes:
                self.lane._take_held()
            elif self.lane._jobs.count:
                self.lane._advance()
            else:
                self.lane._serve_one()
        found: dict[int, int] = {}
        while len(found) < WRITES:
            _, error, unique = abi.OUT_HEADER.unpack_from(self.kernel.recv(1 << 12))
            found[unique // 2 - 1] = -error
        return found

    def stored(self) -> list[bytes]:
        """What the files have where it was to be written."""
        volumes = [self.store.volumes[number % 2 + 1] for number in range(WRITES)]
        read = self.store.read
        return [b"".join(read(volume, at * BLOCK_BYTES, BLOCK_BYTES)) for at, volume in enumerate(volumes)]


@pytest.fixture
def driven() -> Iterator[Driven]:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.settimeout(10)
    store, door, device = Store(MemoryHome(), 64 << 20), Door(), Device(ours.fileno())
    for number in (1, 2):
        store.create_volume(number, 1)
    relay = Relay(device, lambda: None)
    lane = Lane(device, store, door, relay, lambda inode, fh: 0, lambda request: None, lambda: None)
    relay.start(os.open(os.devnull, os.O_RDONLY))
    try:
        yield Driven(lane, store, kernel)
    finally:
        relay.close()
        device.close()
        store.close()
        for end in (kernel, ours):
            end.close()


def test_writes_that_come_together_are_stored_together(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    store_together = SmallWrites.store

    def count(self: SmallWrites, store: Store) -> bool:
        sizes.append(len(self.extents))
        return store_together(self, store)

    monkeypatch.setattr(SmallWrites, "store", count)
    assert set(driven.errors_of_writes().values()) == {0} and sizes == [WRITES]
    assert driven.stored() == [noise(number) for number in range(WRITES)]


def test_one_that_cannot_be_looked_at_is_taken_by_itself(
    driven: Driven, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    takes = SmallWrites.takes

    def fail_once(self: SmallWrites, volume: Volume, offset: int, size: int) -> bool:
        if offset == 3 * BLOCK_BYTES:
            raise RuntimeError("nobody foresaw this")
        return takes(self, volume, offset, size)

    monkeypatch.setattr(SmallWrites, "takes", fail_once)
    assert set(driven.errors_of_writes().values()) == {0}
    assert driven.stored() == [noise(number) for number in range(WRITES)]
    assert "nobody foresaw this" in caplog.text


@pytest.mark.parametrize("method", ("answers", "singly"))
def test_all_are_answered_when_nothing_goes_well(
    driven: Driven, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def fail(*arguments: object) -> list[bytes]:
        raise RuntimeError("nobody foresaw this")

    if method == "singly":
        monkeypatch.setattr(SmallWrites, "store", lambda self, store: False)
    monkeypatch.setattr(SmallWrites, method, fail)
    assert set(driven.errors_of_writes().values()) == {errno.EIO}
    assert "nobody foresaw this" in caplog.text
