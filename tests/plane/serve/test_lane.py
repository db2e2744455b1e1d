"""The compiled lane over a socket in the place of /dev/fuse: which READs it answers, with what, and what it leaves."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device
from blockstore.plane.serve.lane import LARGEST_READ_BYTES, TIMED_FAULTS, Lane
from blockstore.plane.serve.requests import Request, Requests
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.state.geometry import BLOCK_BYTES, BLOCK_SHIFT
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.plane.serve import device_socket
from tests.plane.serve.device_socket import LARGEST_ANSWER_BYTES, PATIENCE_S, device_and_kernel, is_readable
from tests.store.material import near, noise, text

TID = 4321


@dataclass
class Served:
    """A store that a lane serves in a thread, and the kernel's end of its device."""

    store: Store
    volume: Volume
    requests: Requests
    lane: Lane
    kernel: socket.socket
    thread: threading.Thread
    unique: int = 0
    results: list[object] = field(default_factory=list)

    def ask(self, offset: int, length: int, number: int = 1) -> int:
        """Sends a READ; its unique number."""
        self.unique += 2
        body = abi.READ_WRITE_IN.pack(0, offset, length, 0, 0, 0, 0)
        self.kernel.send(device_socket.request(abi.READ, self.unique, number, body, TID))
        return self.unique

    def read(self, offset: int, length: int, number: int = 1) -> bytes:
        """What the lane itself answers a READ with."""
        unique = self.ask(offset, length, number)
        answer = self.kernel.recv(LARGEST_ANSWER_BYTES)
        size_bytes, error, answered = abi.OUT_HEADER.unpack_from(answer)
        assert (size_bytes, error, answered) == (len(answer), 0, unique)
        return answer[abi.OUT_HEADER.size :]

    def left(self, offset: int, length: int, number: int = 1) -> Request:
        """The request that a READ was left to Python as."""
        unique = self.ask(offset, length, number)
        request = self.requests.take(1000 * PATIENCE_S)
        assert request is not None and request.unique == unique
        assert (request.inode, request.offset, request.length, request.pid) == (number, offset, length, TID)
        return request

    def write(self, offset: int, data: bytes) -> None:
        run(self.store.write_steps(self.volume, offset, data))


def serve(lane: Lane, results: list[object]) -> None:
    try:
        results.append(lane.serve())
    except BaseException as error:
        results.append(error)
    lane.end()


@pytest.fixture
def served() -> Iterator[Served]:
    ours, kernel = device_and_kernel()
    store, device = Store(MemoryHome(), 64 << 20), Device(ours.fileno())
    volume, requests = store.create_volume(1, 1), Requests(abi.MAXIMUM_REQUEST_BYTES, device.spare_pipes())
    lane = store.lane(ours.fileno(), device.pipe, device.pipe_bytes, abi.MAXIMUM_REQUEST_BYTES, requests)
    results: list[object] = []
    thread = threading.Thread(target=serve, args=(lane, results))
    thread.start()
    try:
        yield Served(store, volume, requests, lane, kernel, thread, results=results)
    finally:
        kernel.close()
        requests.close()
        thread.join()
        device.close()
        store.close()
        ours.close()


CONTENT = b"".join([text(1), near(text(1), 1), noise(1), bytes(BLOCK_BYTES), text(2), noise(2)[:1000]])


@pytest.mark.parametrize(
    "length", [0, 1, 100, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES, 64 << 10, 128 << 10, 1 << 20]
)
@pytest.mark.parametrize("offset", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES, 20480, 21479, 21480, 1 << 40])
def test_a_read_is_what_a_file_would_answer(served: Served, offset: int, length: int) -> None:
    served.write(0, CONTENT)
    assert served.read(offset, length) == CONTENT[offset : offset + length]
    assert served.requests.count == 0


def test_an_offset_beyond_everything_is_behind_the_end(served: Served) -> None:
    served.write(0, CONTENT)
    assert served.read((1 << 64) - 1, BLOCK_BYTES) == b""


def test_what_is_written_or_cut_off_meanwhile_is_seen(served: Served) -> None:
    for number in range(600):  # over a page of the map
        served.write(number * BLOCK_BYTES, noise(number % 7))
        assert served.read(number * BLOCK_BYTES, BLOCK_BYTES) == noise(number % 7)
    run(served.store.discard_steps(served.volume, BLOCK_BYTES, 598 * BLOCK_BYTES))
    assert served.read(0, 3 * BLOCK_BYTES) == noise(0) + bytes(2 * BLOCK_BYTES)
    run(served.store.resize_steps(served.volume, BLOCK_BYTES + 7))
    assert served.read(0, 3 * BLOCK_BYTES) == noise(0) + bytes(7)
    run(served.store.resize_steps(served.volume, 40 << 30))  # of which the map does not fit into its first addresses
    served.write(39 << 30, text(5))
    assert served.read((39 << 30) - BLOCK_BYTES, 3 * BLOCK_BYTES) == bytes(BLOCK_BYTES) + text(5) + bytes(BLOCK_BYTES)
    assert served.requests.count == 0


def test_reads_of_one_block_and_of_several_are_counted_apart(served: Served) -> None:
    served.write(0, CONTENT)
    run(served.store.resize_steps(served.volume, 16 * BLOCK_BYTES))
    for number in (0, 1, 1, 3, 9):  # the last one is a hole
        served.read(number * BLOCK_BYTES, BLOCK_BYTES)
    served.read(0, 8 * BLOCK_BYTES)
    served.read(8 * BLOCK_BYTES, 8 * BLOCK_BYTES)  # of holes
    volume = served.volume
    assert (volume.refaults, volume.range_refaults, volume.range_requests) == (4, 6, 1)
    volume.forget_reads()
    assert (volume.refaults, volume.range_refaults, volume.range_requests) == (0, 0, 0)


def test_volumes_are_found_however_many_there_are_and_left_when_they_have_gone(served: Served) -> None:
    volumes = {number: served.store.create_volume(number, 1) for number in range(2, 300)}
    for number, volume in volumes.items():
        run(served.store.write_steps(volume, 0, number.to_bytes(2, "little") * 2048))
    for number in range(2, 300, 3):
        run(served.store.delete_steps(volumes.pop(number)))
    for number in range(2, 300):
        if number in volumes:
            assert served.read(0, 6, number) == number.to_bytes(2, "little") * 3
        else:
            served.left(0, 6, number)
    served.left(0, 6, 0)


def test_what_it_cannot_read_is_left_to_python(served: Served) -> None:
    served.write(0, CONTENT)
    served.left(0, LARGEST_READ_BYTES + 1)
    row = served.volume.lookup(2) & 0xFFFFFFFF
    digests = served.store.rows.digest.items
    digests[row] ^= 1
    served.left(0, len(CONTENT))
    served.left(2 * BLOCK_BYTES, BLOCK_BYTES)
    digests[row] ^= 1
    assert served.read(0, 1 << 20) == CONTENT
    assert served.volume.refaults == 0 and served.volume.range_requests == 1


@pytest.mark.parametrize("size_bytes", [40, 48, 80, 4176, 8192, 8193, 200_000])
def test_all_other_requests_are_left_as_they_came(served: Served, size_bytes: int) -> None:
    for opcode in (abi.READ if size_bytes < abi.HEAD_BYTES else abi.LSEEK, abi.WRITE):
        sent = abi.IN_HEADER.pack(size_bytes, opcode, 4, 1, 0, 0, TID, 0, 0).ljust(size_bytes, b"\7")
        served.kernel.send(sent)
        request = served.requests.take(1000 * PATIENCE_S)
        assert request is not None and bytes(request) == sent and request.opcode == opcode
    assert served.lane.turns == 2


def test_one_of_so_many_is_timed(served: Served) -> None:
    served.write(0, CONTENT)
    for _ in range(4 * TIMED_FAULTS - 1):
        served.read(BLOCK_BYTES, BLOCK_BYTES)
    served.read(0, 2 * BLOCK_BYTES)  # of more than one block: which thread it was says nothing about where VMs run
    samples: list[tuple[int, int, int, int]] = []
    while len(samples) < 4:
        found = served.lane.take_samples()
        assert found is not None
        samples += found
    assert [sample[:3] for sample in samples] == [(1, BLOCK_BYTES, TID)] * 3 + [(1, 0, 0)]
    assert all(sample[3] > 0 for sample in samples)


def test_samples_that_nobody_takes_do_no_harm(served: Served) -> None:
    served.write(0, CONTENT)
    for _ in range(300 * TIMED_FAULTS):
        served.read(0, BLOCK_BYTES)
    found = served.lane.take_samples()
    assert found is not None and len(found) == 256


def test_it_ends_with_the_device_and_so_do_those_who_wait_for_it(served: Served) -> None:
    served.kernel.shutdown(socket.SHUT_RDWR)
    served.thread.join()
    assert served.results == [True] and served.lane.take_samples() is None


def test_a_pipe_that_is_too_small_is_told_and_read_does_without(served: Served) -> None:
    """The kernel says EINVAL; here an eventfd does, which has no splice."""
    store = served.store
    event = os.eventfd(0)
    device = Device(event)
    lane = store.lane(event, device.pipe, device.pipe_bytes, abi.MAXIMUM_REQUEST_BYTES, served.requests)
    assert lane.serve() is False
    os.eventfd_write(event, 1)
    with pytest.raises(OSError) as raised:
        lane.serve(by_read=True)  # which reads eight bytes: no request
    assert raised.value.errno == errno.EIO
    device.close()
    os.close(event)


def test_reads_are_right_or_from_before_while_others_write_punch_clone_and_delete(served: Served) -> None:
    """Each block says its number and version. A read must find a version that was current at some moment of it."""
    blocks, rounds = 64, 400
    store, lock = served.store, StoreLock()
    store.lock = lock
    with lock:
        clone = store.create_volume(2, 1)
    started = [0] * blocks
    """The version that is being written to a block, and below the last one that was."""
    done = [0] * blocks
    served.write(0, b"".join(versioned(block, 0) for block in range(blocks)))
    failures: list[BaseException] = []
    is_over = threading.Event()

    def change() -> None:
        try:
            for version in range(1, rounds):
                first = version * 7 % blocks
                for block in range(first, min(first + 1 + version % 5, blocks)):
                    started[block] = version
                    if version % 11 == 0:
                        run(store.discard_steps(served.volume, block * BLOCK_BYTES, BLOCK_BYTES))
                    else:
                        served.write(block * BLOCK_BYTES, versioned(block, version))
                    done[block] = version
                if version % 13 == 0:
                    run(store.clone_steps(served.volume, 0, clone, 0, blocks * BLOCK_BYTES))
                if version % 17 == 0:
                    with lock:
                        gone = store.create_volume(3, 1)
                    run(store.write_steps(gone, 0, noise(version) * 3))
                    run(store.delete_steps(gone))
                with lock:
                    store.make_room()
        except BaseException as error:
            failures.append(error)
        is_over.set()

    writer = threading.Thread(target=change)
    writer.start()
    reads = left = 0
    try:
        while not is_over.is_set() or reads < rounds:
            block = reads * 5 % blocks
            before = done[block]
            served.ask(block << BLOCK_SHIFT, BLOCK_BYTES, 3 if reads % 29 == 0 else 1)
            reads += 1
            if reads % 29 == 1:  # a volume that comes and goes: any answer will do
                if not answered(served):
                    left += 1
                continue
            found = answered(served)
            after = started[block]
            if found:
                assert found in {expected(block, version) for version in range(before, after + 1)}
            else:
                left += 1
    finally:
        writer.join()
    assert not failures and left < reads
    assert served.read(0, blocks * BLOCK_BYTES) == b"".join(
        expected(block, version) for block, version in enumerate(done)
    )


def answered(served: Served) -> bytes:
    """The data of the answer to what was asked last; nothing when it was left to Python."""
    while True:
        if served.requests.take(0) is not None:
            return b""
        if is_readable(served.kernel, 1):
            return served.kernel.recv(LARGEST_ANSWER_BYTES)[abi.OUT_HEADER.size :] or b"end"


def versioned(block: int, version: int) -> bytes:
    """Some are compressed, some patches of others, some raw."""
    tag = block.to_bytes(4, "little") + version.to_bytes(4, "little")
    return tag + (noise(version) if block % 3 == 0 else text(version % 9))[8:]


def expected(block: int, version: int) -> bytes:
    return versioned(block, version) if version % 11 or not version else bytes(BLOCK_BYTES)
