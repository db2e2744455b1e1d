"""Small writes that come at once: each byte is where it belongs, whoever else writes, and whatever room there is."""

from __future__ import annotations

import mmap
import os
import random

import pytest

from blockstore.daemon.relay import MAXIMUM_BACKGROUND
from blockstore.daemon.small_writes import SMALL_BYTES, SmallWrites, is_small, written
from blockstore.errors import InputError
from blockstore.store.geometry import BLOCK_BYTES
from blockstore.store.home import MemoryHome
from blockstore.store.ingest import SLICE_BLOCKS
from blockstore.store.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.store import Store
from blockstore.store.volume import MAXIMUM_SIZE_BYTES
from tests.daemon.lab import Lab, Mounted, blockstore, cold, end, noisy, put, said, spawn, until
from tests.daemon.logs import NO_ROOM
from tests.store.live import remembered_files as remembered_files
from tests.store.material import contents, noise, text


@pytest.mark.parametrize(
    ("offset", "size", "small"),
    [
        (0, BLOCK_BYTES, True),
        (3 * BLOCK_BYTES, SMALL_BYTES, True),
        (0, SMALL_BYTES + BLOCK_BYTES, False),
        (1, BLOCK_BYTES, False),
        (0, BLOCK_BYTES - 1, False),
        (0, 0, False),
    ],
)
def test_what_is_small(offset: int, size: int, small: bool) -> None:
    assert is_small(offset, size) == small


def test_a_slice_is_full_and_domains_stay_apart() -> None:
    store = Store(MemoryHome(), 64 << 20)
    own, neighbour, foreign = store.create_volume(1, 1), store.create_volume(2, 1), store.create_volume(3, 2)
    together, model = SmallWrites(own.domain), {1: b"", 2: b""}
    assert not together.takes(foreign, 0, BLOCK_BYTES)
    number = 0
    while together.takes(own, 0, 2 * BLOCK_BYTES):
        volume, block = (own, neighbour)[number % 2], 3 * number
        data = text(number) + noise(number)
        together.add(number, volume, block * BLOCK_BYTES, memoryview(data))
        model[volume.number] = model[volume.number].ljust(block * BLOCK_BYTES, b"\0") + data
        number += 1
    assert number == SLICE_BLOCKS // 2 and together.is_full and not together.takes(own, 0, BLOCK_BYTES)
    assert together.store(store)
    assert all(contents(store, volume) == model[volume.number] for volume in (own, neighbour))
    assert together.answers() == [written(unique, 2 * BLOCK_BYTES) for unique in range(number)]
    store.close()


def test_without_room_nothing_is_stored_and_each_can_wait() -> None:
    store = Store(MemoryHome(), MINIMUM_LIMIT_BYTES, patching=False)
    volume, number = store.create_volume(1, 1), 0
    while True:
        together = SmallWrites(volume.domain)
        for _ in range(SLICE_BLOCKS):
            together.add(number, volume, number * BLOCK_BYTES, memoryview(noise(number)))
            number += 1
        size_bytes = volume.size_bytes
        if not together.store(store):
            break
    assert volume.size_bytes == size_bytes and store.rows.live == size_bytes // BLOCK_BYTES
    waiting = together.singly()
    assert [offset for _, _, offset, _ in waiting] == [size_bytes + n * BLOCK_BYTES for n in range(SLICE_BLOCKS)]
    assert all(data == noise(unique) for unique, _, _, data in waiting)
    store.close()


def test_beyond_the_largest_size() -> None:
    store = Store(MemoryHome(), 64 << 20)
    volume = store.create_volume(1, 1)
    together = SmallWrites(volume.domain)
    together.add(1, volume, 0, memoryview(noise(1)))
    together.add(2, volume, MAXIMUM_SIZE_BYTES, memoryview(noise(2)))
    with pytest.raises(InputError):
        together.store(store)
    assert volume.size_bytes == 0
    store.close()


@pytest.mark.mount
def test_scattered_pages_of_several_files_and_domains(lab: Lab) -> None:
    """Written back at once by several processes, with large writes and reads between them."""
    mounted, chance = lab.mount(), random.Random(5)
    (mounted.path / "red").mkdir()
    children = []
    for name in ("one", "two", "red/three"):
        content = bytearray(noisy(8 << 20, name))
        put(mounted.path / name, bytes(content))
        scattered = [(page, noise(chance.randrange(10**9))) for page in chance.sample(range(2048), 700)]
        for page, data in scattered:
            content[page * BLOCK_BYTES : (page + 1) * BLOCK_BYTES] = data
        if not (pid := os.fork()):
            try:
                _scatter(mounted.path / name, scattered)
                os._exit(0)
            finally:
                os._exit(1)
        children.append((pid, name, bytes(content)))
    (mounted.path / "large").write_bytes(noisy(16 << 20, "large"))
    for pid, name, wanted in children:
        assert os.waitpid(pid, 0)[1] == 0
        assert cold(mounted.path / name) == wanted
    assert cold(mounted.path / "large") == noisy(16 << 20, "large")
    assert mounted.umount().returncode == 0


def _scatter(path: os.PathLike[str], pages: list[tuple[int, bytes]]) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        for part in range(0, len(pages), 100):
            for page, data in pages[part : part + 100]:
                mapping[page * BLOCK_BYTES : (page + 1) * BLOCK_BYTES] = data
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


APPENDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
for number in range(int(sys.argv[2])):
    os.write(descriptor, b"%04d" % (number % 10_000))
print("done", flush=True)
"""


@pytest.mark.mount
def test_processes_that_append_a_few_bytes_each_all_come_to_an_end(lab: Lab) -> None:
    """A request that is read while another one is stored is taken after it, however long that goes on."""
    mounted, count = lab.mount(), 4000
    paths = [mounted.path / f"log{number}" for number in range(4)]
    writers = [spawn(APPENDER, str(path), str(count)) for path in paths]
    try:
        assert [said(writer) for writer in writers] == ["done"] * 4
    finally:
        for writer in writers:
            end(writer.pid)
    wanted = b"".join(b"%04d" % (number % 10_000) for number in range(count))
    assert [cold(path) == wanted for path in paths] == [True] * 4
    assert "Traceback" not in mounted.log()
    assert "recursion" not in (mounted.state / "daemon.stderr").read_text()


SCATTERED = {page: noise(page) for page in range(0, 6144, 2)}

HOLDER = """
import mmap, sys
file = open(sys.argv[1], "r+b")
mapping = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
sys.stdin.readline()
"""


def scattered_content() -> bytearray:
    content = bytearray(24 << 20)
    for page, data in SCATTERED.items():
        content[page * BLOCK_BYTES : (page + 1) * BLOCK_BYTES] = data
    return content


def out_of_room(lab: Lab) -> tuple[Mounted, int]:
    """A mount on which a process waits for room, with more requests than the kernel sends at once; and its id."""
    mounted = lab.mount(pool_limit="32M")
    put(mounted.path / "vm", bytes(24 << 20))
    put(mounted.path / "ballast", noisy(22 << 20, 2))
    if not (pid := os.fork()):
        try:
            with open(mounted.path / "vm", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
                for page, data in SCATTERED.items():
                    mapping[page * BLOCK_BYTES : (page + 1) * BLOCK_BYTES] = data
                os.fdatasync(file.fileno())
            os._exit(0)
        finally:
            os._exit(1)
    return mounted, pid


def goes_on(mounted: Mounted, pid: int) -> None:
    until(lambda: os.waitpid(pid, os.WNOHANG) == (pid, 0), "all is written back")
    assert cold(mounted.path / "vm") == scattered_content()
    until(lambda: mounted.total()["pool"] <= 32 << 20, "what was lent is given back")
    assert mounted.total()["stored"] >= len(SCATTERED) * BLOCK_BYTES


@pytest.mark.mount
@NO_ROOM
def test_scattered_pages_wait_for_room_and_none_is_lost(lab: Lab) -> None:
    mounted, pid = out_of_room(lab)
    until(lambda: "writes wait" in mounted.log(), "there is no room")
    os.unlink(mounted.path / "ballast")
    goes_on(mounted, pid)


@pytest.mark.mount
@NO_ROOM
def test_a_file_that_was_looked_at_while_writes_wait_makes_room_when_it_is_deleted(lab: Lab) -> None:
    mounted, pid = out_of_room(lab)
    until(lambda: mounted.total()["stalled"] >= MAXIMUM_BACKGROUND, "no request can be sent in the background")
    with open(mounted.path / "ballast", "rb"):
        pass
    os.unlink(mounted.path / "ballast")
    goes_on(mounted, pid)


@pytest.mark.mount
@NO_ROOM
def test_a_vm_that_is_killed_while_writes_wait_makes_room(lab: Lab) -> None:
    mounted, pid = out_of_room(lab)
    holder = spawn(HOLDER, str(mounted.path / "ballast"))
    try:
        assert said(holder) == "ready"
        assert blockstore("attach", str(holder.pid)).returncode == 0
        until(lambda: mounted.total()["stalled"] >= MAXIMUM_BACKGROUND, "no request can be sent in the background")
        os.unlink(mounted.path / "ballast")
        mounted.controller_ticks()
        assert mounted.total()["pool"] <= 32 << 20, "nothing is lent while it runs"
    finally:
        end(holder.pid)
    goes_on(mounted, pid)
