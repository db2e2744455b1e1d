"""Encoders over a socket in the place of /dev/fuse: what they store and answer, and what they leave to Python."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device
from blockstore.plane.blocks.encode import Batch
from blockstore.plane.serve.encoders import Encoders, take_little
from blockstore.plane.serve.requests import Request, Requests
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import PAGE_ENTRIES, Volume
from tests.daemon.lab import until
from tests.plane.serve import device_socket
from tests.plane.serve.device_socket import PATIENCE_S, device_and_kernel, is_readable
from tests.store.invariants import check_store
from tests.store.live import remembered_files as remembered_files
from tests.store.material import near, noise, text

BOUNDS_US = (100, 10_000)
SLICE_BLOCKS = 4
THREADS = 2


@dataclass
class Served:
    """A store that a lane and encoders serve, in threads, and the kernel's end of its device."""

    store: Store
    volume: Volume
    requests: Requests
    encoders: Encoders
    kernel: socket.socket
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """What encoders have asked Python for: file, offset and length in bytes."""
    refuses: bool = False
    unique: int = 0

    def ask(self, number: int, offset: int, data: memoryview, batch: Batch) -> bool:
        self.asked.append((number, offset, len(data)))
        return not self.refuses and self.store.commit_slice(number, offset, data, batch)

    def send(self, offset: int, data: bytes, number: int = 1, flags: int = 0) -> int:
        """Sends a WRITE; its unique number."""
        return self._send(abi.WRITE, abi.READ_WRITE_IN.pack(0, offset, len(data), flags, 0, 0, 0) + data, number)

    def ask_for(self, offset: int, length: int) -> int:
        """Sends a READ; its unique number."""
        return self._send(abi.READ, abi.READ_WRITE_IN.pack(0, offset, length, 0, 0, 0, 0), 1)

    def _send(self, opcode: int, body: bytes, number: int) -> int:
        self.unique += 2
        self.kernel.send(device_socket.request(opcode, self.unique, number, body))
        return self.unique

    def answered(self) -> tuple[int, int]:
        """Unique number and bytes of the next answer."""
        size_bytes, error, unique, written, _ = abi.OUT_U32.unpack(self.kernel.recv(1 << 12))
        assert (size_bytes, error) == (abi.OUT_U32.size, 0)
        return unique, written

    def left(self) -> Request:
        """The next request that is left to Python."""
        while (request := self.requests.take(1000 * PATIENCE_S)) is None:
            assert self.requests.was_woken()
        return request

    def read(self, offset: int, length: int) -> bytes:
        return self.store.read(self.volume, offset, length)


@pytest.fixture
def served() -> Iterator[Served]:
    ours, kernel = device_and_kernel()
    store, device = Store(MemoryHome(), 64 << 20), Device(ours.fileno())
    volume, requests = store.create_volume(1, 1), Requests(abi.MAXIMUM_REQUEST_BYTES, device.spare_pipes())
    encoders = store.encoders(ours.fileno(), requests, BOUNDS_US)
    lane = store.lane(ours.fileno(), device.pipe, device.pipe_bytes, abi.MAXIMUM_REQUEST_BYTES, requests, encoders)
    place = Served(store, volume, requests, encoders, kernel)
    threads = [threading.Thread(target=lane.serve)]
    for _ in range(THREADS):
        arguments = (store.new_batch(), SLICE_BLOCKS, place.ask)
        threads.append(threading.Thread(target=encoders.serve, args=arguments))
    for thread in threads:
        thread.start()
    try:
        yield place
    finally:
        kernel.close()
        requests.close()
        encoders.queue.end()
        for thread in threads:
            thread.join()
        lane.end()
        device.close()
        store.close()
        ours.close()


def test_whole_blocks_are_stored_and_answered(served: Served) -> None:
    data = b"".join([text(1), near(text(1), 1), noise(1), bytes(BLOCK_BYTES), *(noise(number) for number in range(9))])
    before_ns = served.volume.mtime_ns
    unique = served.send(BLOCK_BYTES, data)
    assert served.answered() == (unique, len(data))
    assert served.read(0, 1 << 20) == bytes(BLOCK_BYTES) + data and served.volume.size_bytes == BLOCK_BYTES + len(data)
    assert served.volume.mtime_ns > before_ns
    with served.store.lock:
        check_store(served.store, decode=True)
    assert served.encoders.turns == 1
    counts, sum_us = served.encoders.latency
    assert sum(counts) == 1 and len(counts) == len(BOUNDS_US) + 1 and sum_us > 0


def test_python_is_asked_for_the_first_segment_and_not_for_memory_of_the_map(served: Served) -> None:
    run(served.store.resize_steps(served.volume, 40 * PAGE_ENTRIES * BLOCK_BYTES))
    served.send(0, noise(1))
    served.answered()
    assert served.asked == [(1, 0, BLOCK_BYTES)], "the first rows and the first segment"
    for page in range(1, 40):
        served.send(page * PAGE_ENTRIES * BLOCK_BYTES, noise(1 + page))
        served.answered()
    assert len(served.asked) == 1
    assert all(served.read(page * PAGE_ENTRIES * BLOCK_BYTES, BLOCK_BYTES) == noise(1 + page) for page in range(40))
    with served.store.lock:
        check_store(served.store, decode=True)


def test_python_is_asked_seldom_while_the_content_index_grows(served: Served) -> None:
    """It grows for more than a third of the time while memory is overwritten."""
    blocks, model = 4096, {}
    for first in range(0, blocks, SLICE_BLOCKS):
        served.send(first * BLOCK_BYTES, b"".join(noise(first + number) for number in range(SLICE_BLOCKS)))
        served.answered()
    served.asked.clear()
    growing = 0
    for number in range(3000):
        block = number * 7 % blocks
        model[block] = blocks + number
        served.send(block * BLOCK_BYTES, noise(blocks + number), flags=abi.WRITE_CACHE * (number % 2))
        served.answered()
        with served.store.lock:
            growing += served.store.content.is_growing
    assert growing > 100 and len(served.asked) < 20
    assert all(served.read(block * BLOCK_BYTES, BLOCK_BYTES) == noise(content) for block, content in model.items())
    with served.store.lock:
        check_store(served.store, decode=True)


@pytest.mark.parametrize("offset", [0, 100, BLOCK_BYTES])
@pytest.mark.parametrize("size_bytes", [1, 100, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 100])
def test_a_part_of_a_block_is_left_to_python_and_later_writes_wait(
    served: Served, offset: int, size_bytes: int
) -> None:
    data = random.Random(1).randbytes(size_bytes)
    unique = served.send(offset, data)
    request = served.left()
    assert (request.opcode, request.unique, request.inode) == (abi.WRITE, unique, 1)
    assert (request.offset, request.length) == (offset, size_bytes)
    assert bytes(request)[abi.HEAD_BYTES :] == data
    later = served.send(1 << 20, noise(2))
    assert served.encoders.queue.handed == 1 and served.encoders.turns == 0
    run(served.store.write_steps(served.volume, offset, data))
    request.done()
    assert served.answered() == (later, BLOCK_BYTES)
    assert served.read(offset, size_bytes) == data


def test_what_python_refuses_it_gets_whole(served: Served) -> None:
    served.send(0, noise(1))
    served.answered()
    served.refuses = True
    unique = served.send(8 << 20, noise(2) + noise(3))
    request = served.left()
    assert request.unique == unique and bytes(request)[abi.HEAD_BYTES :] == noise(2) + noise(3)
    served.encoders.queue.steer(passes_on=True, holds=False)
    other = served.send(0, noise(4))
    passed_on = served.left()
    assert passed_on.unique == other and served.encoders.queue.handed == 2
    served.encoders.queue.steer(passes_on=False, holds=True)
    held = served.send(0, noise(5))
    request.done()
    passed_on.done()
    assert served.encoders.turns == 1 and served.read(0, BLOCK_BYTES) == noise(1)
    served.encoders.queue.steer(passes_on=False, holds=False)
    assert served.answered() == (held, BLOCK_BYTES) and served.read(0, BLOCK_BYTES) == noise(5)


def test_a_write_of_one_block_is_stored_by_the_lane_and_what_is_written_back_is_not(served: Served) -> None:
    served.send(0, noise(1))
    served.answered()
    until(lambda: not served.encoders.queue.count, "a write leaves when it was answered")
    served.encoders.queue.end()  # no encoder takes anything any more
    for number in range(20):
        unique = served.send(number * BLOCK_BYTES, noise(number))
        assert served.answered() == (unique, BLOCK_BYTES)
        assert served.read(number * BLOCK_BYTES, BLOCK_BYTES) == noise(number)
    served.send(0, noise(30), flags=abi.WRITE_CACHE)
    served.send(0, noise(31))  # may not overtake it
    served.send(40 * BLOCK_BYTES, noise(32) + noise(33))
    unique = served.send(BLOCK_BYTES, noise(34))
    assert served.answered() == (unique, BLOCK_BYTES)
    assert served.read(0, 2 * BLOCK_BYTES) == noise(0) + noise(34)
    until(lambda: served.encoders.queue.count == 3, "a write leaves when it was answered, and three wait")
    assert served.encoders.turns == 22
    with served.store.lock:
        check_store(served.store, decode=True)


def test_a_lane_does_not_wait_for_the_store_lock(served: Served) -> None:
    served.send(0, noise(1))
    served.answered()
    with served.store.lock:
        written = served.send(0, noise(2))
        read = served.ask_for(0, BLOCK_BYTES)
        answer = served.kernel.recv(2 * BLOCK_BYTES)
        assert abi.OUT_HEADER.unpack_from(answer) == (len(answer), 0, read)
        assert answer[abi.OUT_HEADER.size :] == noise(1)
    assert served.answered() == (written, BLOCK_BYTES)
    assert served.read(0, BLOCK_BYTES) == noise(2)


@pytest.mark.parametrize("spare", [0, 3])
def test_large_writes_wait_in_pipes_and_the_lane_copies_those_that_find_none(served: Served, spare: int) -> None:
    """Some of them for Python, which gets them whole."""
    requests, all_pipes, writes, blocks = served.requests, served.requests.free_pipes, 0, SLICE_BLOCKS + 1
    assert all_pipes > spare
    served.encoders.queue.steer(passes_on=False, holds=True)
    data = []
    while writes < all_pipes - spare or (not spare and requests.large_in_use < 4):
        data.append(b"".join(noise(writes * blocks + number) for number in range(blocks)))
        served.send(writes * blocks * BLOCK_BYTES, data[-1])
        writes += 1
        until(lambda count=writes: served.encoders.queue.count == count, "the lane has queued it")  # type: ignore[misc]
    assert requests.free_pipes == spare and requests.large_in_use == (0 if spare else 4)
    served.encoders.queue.steer(passes_on=False, holds=False)
    for _ in range(writes):
        served.answered()
    assert served.read(0, writes * blocks * BLOCK_BYTES) == b"".join(data)
    until(lambda: requests.free_pipes == all_pipes and not requests.large_in_use, "all that was used is given back")


def test_a_file_that_is_not_there_is_left_to_python(served: Served) -> None:
    unique = served.send(0, noise(1), number=7)
    assert served.left().unique == unique


def test_a_file_that_only_python_knows_is_left_to_python(served: Served) -> None:
    """Without memory for their table lanes and encoders find no file: what is encoded then is of another write."""
    data = noise(1) + noise(2)
    served.send(0, data)
    served.answered()
    served.asked.clear()
    with served.store.lock:
        served.store._lane_volumes.remove(1)
    for sent in (noise(3) + noise(4), noise(5)):
        unique = served.send(8 << 20, sent)
        request = served.left()
        assert request.unique == unique and bytes(request)[abi.HEAD_BYTES :] == sent
        request.done()
    assert not served.asked and served.read(0, 1 << 30) == data


def test_a_batch_of_another_domain_is_dropped(served: Served) -> None:
    """The file has gone, and another one has its number."""
    batch, data = served.store.new_batch(), noise(1)
    domain = served.volume.domain
    batch.load([data], domain.index + 1, domain.seed, domain.zero_digest, domain.multipliers)
    batch.encode()
    assert served.store.commit_slice(1, 0, memoryview(data), batch)
    assert served.volume.size_bytes == 0 and served.store.live_contents == 0


def test_the_last_of_many_writes_of_the_same_bytes_stays(served: Served) -> None:
    chance, model = random.Random(1), bytearray(64 * BLOCK_BYTES)
    for _ in range(200):
        sent = []
        for _ in range(4):
            block, count = chance.randrange(48), chance.randrange(1, 16)
            data = b"".join(noise(chance.randrange(40)) for _ in range(count))
            model[block * BLOCK_BYTES : (block + count) * BLOCK_BYTES] = data
            sent.append((served.send(block * BLOCK_BYTES, data), len(data)))
        assert sorted(served.answered() for _ in sent) == sent
    stored = served.read(0, len(model))
    assert stored == bytes(model[: len(stored)]) and not any(model[len(stored) :])
    with served.store.lock:
        check_store(served.store, decode=True)
    until(lambda: not served.encoders.queue.count, "a write leaves when it was answered")


def test_files_go_while_others_are_written(served: Served) -> None:
    """A file may be deleted between an encoder's look and its commit: what is written then goes nowhere."""
    for round_ in range(60):
        with served.store.lock:
            served.store.create_volume(2, 1)
        sent = [served.send(0, noise(round_) + noise(round_ + 1), number=2) for _ in range(3)]
        run(served.store.delete_steps(served.store.volumes[2]))
        done = 0
        while done < len(sent):
            if (request := served.requests.take(1)) is not None:
                done += 1
                assert request.unique in sent
                del request
            if is_readable(served.kernel, 0):
                served.answered()
                done += 1
    with served.store.lock:
        check_store(served.store, decode=True)
    assert served.store.live_contents == 0
    until(lambda: not served.encoders.queue.count, "a write leaves when it was answered")


def test_what_is_written_between_two_steps_of_a_punch_stays(served: Served) -> None:
    blocks = 1024  # two pages of the map, which a punch gives back
    for start in range(0, blocks, 64):
        served.send(start * BLOCK_BYTES, b"".join(noise(start + number) for number in range(64)))
        served.answered()
    steps = served.store.discard_steps(served.volume, 0, blocks * BLOCK_BYTES)
    next(steps)
    served.send(0, noise(5000))
    served.answered()
    run(steps)
    assert served.read(0, 2 * BLOCK_BYTES) == noise(5000) + bytes(BLOCK_BYTES)
    with served.store.lock:
        check_store(served.store, decode=True)


def test_python_gets_writes_in_the_order_in_which_they_came(served: Served) -> None:
    count = 2000
    served.encoders.queue.steer(passes_on=True, holds=False)
    got: list[int] = []

    def take() -> None:
        while len(got) < count:
            got.append(served.left().unique)

    taker = threading.Thread(target=take)
    taker.start()
    sent = [served.send(0, noise(1)) for _ in range(count)]
    taker.join()
    assert got == sent, "two encoders pass them on"


def test_a_thread_takes_little() -> None:
    found: list[int] = []

    def look() -> None:
        take_little(7, 100_000)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [7]
