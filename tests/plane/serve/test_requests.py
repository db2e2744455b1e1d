"""The queue between lanes and Python: order, limits, waits, and whose memory it is."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from blockstore.daemon.fuse.fuse_abi import IN_HEADER, MAXIMUM_REQUEST_BYTES, READ_WRITE_IN
from blockstore.plane.serve.requests import Request, Requests

MIB = 1 << 20
MAXIMUM_LARGE = 64  # plane/serve/requests.pxd
MAXIMUM_QUEUED = 1024
SPARE_LARGE = 2
SMALL_BYTES = 8192


COUNTS_MEMORY = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what was freed for a while"
)


def anonymous_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Anonymous:"))


def packed(number: int, size_bytes: int) -> bytes:
    """A WRITE of so many bytes, all in all, at offset `number`."""
    body = READ_WRITE_IN.pack(7, number, size_bytes - 80, 5, 0, 0, 0)
    return (IN_HEADER.pack(size_bytes, 16, 2 * number, 3, 0, 0, 4321, 0, 0) + body).ljust(size_bytes, b"\1")


@pytest.mark.parametrize("size_bytes", [80, SMALL_BYTES, SMALL_BYTES + 1, MAXIMUM_REQUEST_BYTES])
def test_a_request_comes_out_as_it_was_put(size_bytes: int) -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    data = packed(9, size_bytes)
    requests.put(data)
    assert requests.count == 1 and requests.wait(0) and requests.taken == 0
    taken = requests.take(0)
    assert taken is not None and bytes(taken) == data and len(taken) == size_bytes and requests.taken == 1
    assert (taken.opcode, taken.unique, taken.inode, taken.pid) == (16, 18, 3, 4321)
    assert (taken.offset, taken.length, taken.flags) == (9, size_bytes - 80, 5)
    assert requests.take(0) is None and not requests.wait(0)
    with pytest.raises(TypeError):
        memoryview(taken)[0] = 1


def test_a_short_request_has_zeros_for_what_it_does_not_say() -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    requests.put(IN_HEADER.pack(40, 2, 6, 3, 0, 0, 0, 0, 0))
    taken = requests.take()
    assert taken is not None and len(memoryview(taken)) == 40 and (taken.offset, taken.length, taken.flags) == (0, 0, 0)


def test_what_can_be_no_request_is_refused() -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    for size_bytes in (0, 39, MAXIMUM_REQUEST_BYTES + 1):
        with pytest.raises(ValueError):
            requests.put(bytes(size_bytes))
    assert requests.count == 0


def test_the_oldest_comes_first_whoever_put_it() -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    numbers = range(300)

    def put(thread: int) -> None:
        for number in numbers:
            requests.put(packed(number << 1 | thread, SMALL_BYTES + 1 if number % 100 == 99 else 80))

    threads = [threading.Thread(target=put, args=(thread,)) for thread in (0, 1)]
    for each in threads:
        each.start()
    found: tuple[list[int], list[int]] = ([], [])
    for _ in range(2 * len(numbers)):
        taken = requests.take()
        assert taken is not None
        found[taken.offset & 1].append(taken.offset >> 1)
    assert found == (list(numbers), list(numbers))
    for each in threads:
        each.join()


def test_a_view_keeps_the_memory_and_the_last_one_gives_it_back() -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    requests.put(packed(1, MIB))
    taken = requests.take()
    assert taken is not None
    view = memoryview(taken)[80:]
    del taken
    requests.put(packed(2, MIB))
    assert requests.large_in_use == 2 and requests.spare == 0
    assert view[:10] == b"\1" * 10 and view.nbytes == MIB - 80
    del view
    assert requests.large_in_use == 1 and requests.spare == 1


@COUNTS_MEMORY
def test_few_large_buffers_are_kept_and_none_after_a_rest() -> None:
    before = anonymous_bytes()
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    for number in range(16):
        requests.put(packed(number, MIB))
    assert anonymous_bytes() - before >= 15 * MIB
    taken = [requests.take() for _ in range(16)]
    assert requests.large_in_use == 16
    del taken
    assert requests.large_in_use == 0 and requests.spare == SPARE_LARGE
    requests.trim()
    assert requests.spare == 0 and anonymous_bytes() - before < 4 * MIB


@COUNTS_MEMORY
def test_what_was_not_taken_goes_with_the_queue() -> None:
    before = anonymous_bytes()
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    for number in range(16):
        requests.put(packed(number, MIB))
    del requests
    gc.collect()
    assert anonymous_bytes() - before < 4 * MIB


@pytest.mark.parametrize(("size_bytes", "limit"), [(SMALL_BYTES + 1, MAXIMUM_LARGE), (80, MAXIMUM_QUEUED)])
def test_at_a_limit_the_next_one_waits_until_one_is_given_back(size_bytes: int, limit: int) -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    for number in range(limit):
        requests.put(packed(number, size_bytes))
    is_put = threading.Event()

    def put() -> None:
        requests.put(packed(limit, size_bytes))
        is_put.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert not is_put.wait(0.05) and requests.count == limit
    taken: list[Request | None] = [requests.take(0)]
    if size_bytes > SMALL_BYTES:  # of buffers it is not the place in the queue that counts
        assert not is_put.wait(0.05)
    taken.clear()
    thread.join()
    assert is_put.is_set() and requests.count == limit


def test_closing_ends_all_waits_and_loses_nothing() -> None:
    requests = Requests(MAXIMUM_REQUEST_BYTES)
    results: list[object] = []
    taker = threading.Thread(target=lambda: results.append(requests.take()))
    taker.start()
    requests.put(packed(1, 80))
    taker.join()
    assert isinstance(results[0], Request)
    for number in range(MAXIMUM_LARGE):
        requests.put(packed(number, SMALL_BYTES + 1))

    def put() -> None:
        with pytest.raises(BrokenPipeError):
            requests.put(packed(99, SMALL_BYTES + 1))
        results.append("refused")

    putter = threading.Thread(target=put)
    putter.start()
    requests.close()
    putter.join()
    assert results[1] == "refused" and requests.is_closed and requests.count == MAXIMUM_LARGE
    assert all(requests.take() is not None for _ in range(MAXIMUM_LARGE))
    assert requests.take() is None and not requests.wait(-1)
