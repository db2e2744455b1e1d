"""All threads of the plane side by side: lanes, encoders, and Python's, which punches, clones, deletes, encodes cold
blocks anew and moves records, beside a model. ThreadSanitizer watches it in `scripts/test --sanitize`."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device
from blockstore.plane.blocks.encode import Batch
from blockstore.plane.serve.encoders import Encoders
from blockstore.plane.serve.lane import Lane
from blockstore.plane.serve.requests import Request, Requests
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.plane.serve import device_socket
from tests.plane.serve.device_socket import LARGEST_ANSWER_BYTES, device_and_kernel, is_readable
from tests.store.invariants import check_store
from tests.store.live import remembered_files as remembered_files
from tests.store.material import noise, text

BOUNDS_US = (100, 10_000)
SLICE_BLOCKS = 8
LANES = 2
ENCODERS = 2
REGIONS = 4
REGION_BLOCKS = 512
ROUNDS = 300
"""Enough contents that both indexes, the rows, the maps and the pool grow meanwhile."""


@dataclass
class Served:
    """A store that lanes and encoders serve, in threads, and the kernel's end of their device."""

    store: Store
    volume: Volume
    requests: Requests
    encoders: Encoders
    kernel: socket.socket
    lanes: list[Lane] = field(default_factory=list)
    unique: int = 0

    def ask(self, number: int, offset: int, data: memoryview, batch: Batch) -> bool:
        return self.store.commit_slice(number, offset, data, batch)

    def send(self, opcode: int, offset: int, length: int, data: bytes = b"", number: int = 1) -> int:
        """Sends a READ or WRITE, one half of them written back; its unique number."""
        self.unique += 2
        flags = abi.WRITE_CACHE if opcode == abi.WRITE and self.unique % 4 else 0
        body = abi.READ_WRITE_IN.pack(0, offset, length, flags, 0, 0, 0) + data
        self.kernel.send(device_socket.request(opcode, self.unique, number, body))
        return self.unique

    def answers(self, sent: dict[int, object]) -> Iterator[tuple[int, bytes | None]]:
        """The unique number and the data of each answer to what was sent; None for what was left to Python and is done
        when the caller wants the next one."""
        missing = set(sent)
        while missing:
            request = self.requests.take(0)
            if request is not None:
                assert isinstance(request, Request)
                if request.opcode == abi.WRITE:
                    run(self.store.write_steps(self.volume, request.offset, bytes(request)[abi.HEAD_BYTES :]))
                missing.remove(request.unique)
                yield request.unique, None
                del request
            elif is_readable(self.kernel, 1):
                answer = self.kernel.recv(LARGEST_ANSWER_BYTES)
                size_bytes, error, unique = abi.OUT_HEADER.unpack_from(answer)
                assert (size_bytes, error) == (len(answer), 0)
                missing.remove(unique)
                yield unique, answer[abi.OUT_HEADER.size :]


@pytest.fixture
def served() -> Iterator[Served]:
    ours, kernel = device_and_kernel()
    store, devices = Store(MemoryHome(), 256 << 20), [Device(ours.fileno()) for _ in range(LANES)]
    volume, requests = store.create_volume(1, 1), Requests(abi.MAXIMUM_REQUEST_BYTES, devices[0].spare_pipes())
    encoders = store.encoders(ours.fileno(), requests, BOUNDS_US)
    place = Served(store, volume, requests, encoders, kernel)
    for device in devices:
        place.lanes.append(
            store.lane(ours.fileno(), device.pipe, device.pipe_bytes, abi.MAXIMUM_REQUEST_BYTES, requests, encoders)
        )
    threads = [threading.Thread(target=lane.serve) for lane in place.lanes]
    for _ in range(ENCODERS):
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
        for lane in place.lanes:
            lane.end()
        for device in devices:
            device.close()
        store.close()
        ours.close()


def test_all_threads_side_by_side(served: Served) -> None:
    """Each block says its number and version. A READ finds what a block was when it was asked for or what it is being
    made; a clone, what it ever was."""
    store = served.store
    with store.lock:
        clone = store.create_volume(2, 1)
    is_over = threading.Event()
    failures: list[BaseException] = []

    def change(work: int) -> None:
        try:
            number = 0
            while not is_over.is_set():
                number += 1
                (change_others, tend)[work](number)
        except BaseException as error:
            failures.append(error)

    def change_others(number: int) -> None:
        chance = random.Random(number)
        first = chance.randrange(REGIONS * REGION_BLOCKS)
        length = chance.randrange(1, 200) * BLOCK_BYTES
        run(store.clone_steps(served.volume, first * BLOCK_BYTES, clone, first * BLOCK_BYTES, length))
        with store.lock:
            found = store.read(clone, first * BLOCK_BYTES, length)
        for place in range(len(found) // BLOCK_BYTES):
            block = found[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
            version = int.from_bytes(block[4:8], "little")
            assert block in (bytes(BLOCK_BYTES), versioned(first + place, version))
        run(store.discard_steps(clone, chance.randrange(REGION_BLOCKS) * BLOCK_BYTES, length))
        with store.lock:
            gone = store.create_volume(3, 1)
        run(store.write_steps(gone, 0, noise(number % 9) + text(number % 9)))
        run(store.delete_steps(gone))

    def tend(number: int) -> None:
        with store.lock:
            store.make_room()
        if number % 20 == 0:
            with store.lock:
                store.recompression.begin_all()
        store.recompression.step(store.lock)
        with store.lock:
            store.compact()
        assert served.encoders.turns <= sum(served.encoders.latency[0]) and store.filled_segments >= 0
        assert served.requests.large_in_use >= 0 and served.requests.spare >= 0 and not served.requests.is_closed
        assert served.encoders.queue.handed >= 0 and served.encoders.queue.count >= 0
        served.requests.was_woken()
        served.encoders.queue.steer(passes_on=False, holds=False)

    threads = [threading.Thread(target=change, args=(work,)) for work in range(2)]
    for thread in threads:
        thread.start()
    chance, versions = random.Random(1), [0] * (REGIONS * REGION_BLOCKS)
    """0: zeros."""
    try:
        for version in range(1, ROUNDS):
            exchange(served, chance, versions, version)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures
    with store.lock:
        stored = store.read(served.volume, 0, len(versions) * BLOCK_BYTES)
        check_store(store, decode=True)
    assert stored.ljust(len(versions) * BLOCK_BYTES, b"\0") == b"".join(
        versioned(block, version) for block, version in enumerate(versions)
    )
    assert served.encoders.queue.count == 0 and served.encoders.turns > 0


def exchange(served: Served, chance: random.Random, versions: list[int], version: int) -> None:
    """Sends a WRITE and some READs to each region but one, which is punched meanwhile, and looks at all answers."""
    written: dict[int, int] = {}
    sent: dict[int, object] = {}
    for region in range(REGIONS):
        first = region * REGION_BLOCKS + chance.randrange(REGION_BLOCKS - 32)
        count = chance.choice((1, chance.randrange(1, 32)))  # lanes store those of one block
        if region == version % REGIONS:
            punched = range(first, first + count)
            continue
        data = b"".join(versioned(block, version) for block in range(first, first + count))
        sent[served.send(abi.WRITE, first * BLOCK_BYTES, len(data), data)] = range(first, first + count)
        written |= dict.fromkeys(range(first, first + count), version)
        for _ in range(6):
            block = first + chance.randrange(32)
            sent[served.send(abi.READ, block * BLOCK_BYTES, BLOCK_BYTES)] = block
    run(served.store.discard_steps(served.volume, punched.start * BLOCK_BYTES, len(punched) * BLOCK_BYTES))
    for unique, answer in served.answers(sent):
        what = sent[unique]
        if isinstance(what, int) and answer:
            assert answer in (versioned(what, versions[what]), versioned(what, written.get(what, versions[what])))
    for block, new in (written | dict.fromkeys(punched, 0)).items():
        versions[block] = new


def versioned(block: int, version: int) -> bytes:
    """Some are compressed, some patches of others, some raw."""
    if not version:
        return bytes(BLOCK_BYTES)
    tag = block.to_bytes(4, "little") + version.to_bytes(4, "little")
    return tag + (noise(version) if block % 3 == 0 else text(version % 9))[8:]
