"""A full pool: writers wait and can be killed, readers go on, and nothing is lost when there is room again."""

from __future__ import annotations

import os

import pytest

from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    abort_below,
    ask,
    blockstore,
    cold,
    drop,
    end,
    ended,
    noisy,
    put,
    run,
    said,
    spawn,
    until,
)

pytestmark = [pytest.mark.mount, pytest.mark.logs("there is no room for more: (writes wait|a request waits)")]

MIB = 1 << 20
POOL_MIB = 16

WRITER = """
import os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for number in range(int(sys.argv[2])):
    os.write(descriptor, random.Random(f"{sys.argv[3]}-{number}").randbytes(1 << 20))
    print(number, flush=True)
print("synced" if os.fsync(descriptor) is None else "", flush=True)
sys.stdin.readline()
"""
"""Writes so many MiB that nothing compresses, and says so after each."""


@pytest.fixture
def full(lab: Lab) -> Mounted:
    """A mount whose pool is half full of `old`."""
    mounted = lab.mount(pool_limit=f"{POOL_MIB}M")
    put(mounted.path / "old", noisy(POOL_MIB // 2 * MIB, "old"))
    return mounted


def content(mebibytes: int, seed: str) -> bytes:
    return b"".join(noisy(MIB, f"{seed}-{number}") for number in range(mebibytes))


def is_stalled(mounted: Mounted) -> bool:
    return "no room" in mounted.log()


def test_a_writer_waits_and_goes_on_when_a_file_is_deleted(full: Mounted) -> None:
    writer = spawn(WRITER, str(full.path / "new"), "12", "new")
    try:
        until(lambda: is_stalled(full), "the writer is held up")
        old = full.path / "old"
        assert cold(old) == noisy(POOL_MIB // 2 * MIB, "old"), "reads go on"
        result = invoke("status", str(full.path))
        assert result.returncode == 0 and "writes wait" in result.stderr, result
        old.unlink()
        while (line := said(writer)) != "synced":
            assert line
        assert cold(full.path / "new") == content(12, "new")
        assert "wait" not in invoke("status", str(full.path)).stderr
    finally:
        end(writer.pid)


def test_a_writer_that_waits_can_be_killed(full: Mounted) -> None:
    writer = spawn(WRITER, str(full.path / "new"), "12", "new")
    until(lambda: is_stalled(full), "the writer is held up")
    writer.kill()
    assert ended(writer.pid), "it hangs in the kernel"
    writer.wait(60)
    assert cold(full.path / "old") == noisy(POOL_MIB // 2 * MIB, "old")
    size = (full.path / "new").stat().st_size
    assert cold(full.path / "new") == content(12, "new")[:size]


def test_memory_that_is_punched_out_makes_room(full: Mounted) -> None:
    writer = spawn(WRITER, str(full.path / "new"), "9", "new")
    try:
        until(lambda: is_stalled(full), "the writer is held up")
        run = spawn(
            "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True); d = os.open(sys.argv[1], os.O_RDWR);"
            "print(libc.fallocate(d, 3, ctypes.c_long(0), ctypes.c_long(6 << 20)), flush=True)",
            str(full.path / "old"),
        )
        assert said(run) == "0"
        run.wait(60)
        while (line := said(writer)) != "synced":
            assert line
        assert cold(full.path / "new") == content(9, "new")
        assert cold(full.path / "old") == bytes(6 * MIB) + noisy(POOL_MIB // 2 * MIB, "old")[6 * MIB :]
    finally:
        end(writer.pid)


def test_a_mapping_waits_too(full: Mounted) -> None:
    """What a VM wrote to its memory is kept by the kernel until there is room."""
    path = full.path / "vm"
    path.touch()
    os.truncate(path, 12 * MIB)
    program = (
        "import mmap, os, random, sys; d = os.open(sys.argv[1], os.O_RDWR); m = mmap.mmap(d, 0)\n"
        "m[:] = random.Random('vm').randbytes(len(m)); print('dirty', flush=True)\n"
        "for line in sys.stdin:\n    os.fsync(d); print('synced', flush=True)"
    )
    vm = spawn(program, str(path))
    try:
        assert said(vm) == "dirty"
        assert vm.stdin is not None
        vm.stdin.write("sync\n")
        until(lambda: is_stalled(full), "the write-back is held up")
        # Who looks at the file must not wait for its pages, least of all with the directory locked, so that nobody can
        # delete anything.
        assert run(["ls", "-l", str(full.path)]).stdout.count("\n") == 3
        (full.path / "old").unlink()
        assert said(vm) == "synced"
        assert cold(path) == noisy(12 * MIB, "vm")
        assert ask(vm, "sync") == "synced"
    finally:
        end(vm.pid)


STUBBORN = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | (os.O_DIRECT if sys.argv[2] == "direct" else 0))
buffer = mmap.mmap(-1, 1 << 20)
if sys.argv[2] == "mapped":
    os.ftruncate(descriptor, 64 << 20)
    mapping = mmap.mmap(descriptor, 64 << 20)
for number in range(64):
    buffer[:] = os.urandom(len(buffer))
    if sys.argv[2] == "mapped":
        mapping[number << 20 : (number + 1) << 20] = buffer[:]
        mapping.flush(number << 20, 1 << 20)
    else:
        os.pwrite(descriptor, buffer, number << 20)
"""
"""Writes until there is no room, and waits."""


@pytest.mark.parametrize("way", ["buffered", "direct", "mapped"])
def test_many_writers_wait_while_others_read_and_then_are_killed(lab: Lab, full: Mounted, way: str) -> None:
    """More of them than the kernel sends write-back requests at once."""
    path = full.path / "old"
    whole = noisy(POOL_MIB // 2 * MIB, "old")
    drop(path)
    writers = [spawn(STUBBORN, str(full.path / f"new{number}"), way) for number in range(24)]
    try:
        until(lambda: is_stalled(full), "the writers are held up")
        until(lambda: full.path.joinpath("new23").exists(), "all of them have begun")
        for read in (
            "mapping[5000000]",
            "mapping[:][5000000]",
            "os.pread(descriptor, 1 << 20, 4 << 20)[5000000 - (4 << 20)]",
        ):
            drop(path)
            reader = spawn(
                "import mmap, os, sys; descriptor = os.open(sys.argv[1], os.O_RDONLY)\n"
                f"mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ); print({read}, flush=True)",
                str(path),
            )
            assert said(reader, 20) == str(whole[5000000]), read
            reader.wait(60)
        assert "writes wait" in blockstore("status", str(full.path)).stderr
        if way == "mapped":  # the kernel lets nobody go who waits for the write-back of pages
            abort_below(lab.path)
        for writer in writers:
            writer.kill()
        for writer in writers:
            assert ended(writer.pid), "it hangs in the kernel"
    finally:
        for writer in writers:
            end(writer.pid)
            writer.wait(60)
    assert way == "mapped" or cold(path) == whole


MANY = """
import os, sys, threading
def write(number):
    descriptor = os.open(f"{sys.argv[1]}/many{number}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, number.to_bytes(4, "little") + os.urandom(65532), 0)
        failures.append(0)
    except OSError as error:
        failures.append(error.errno)
failures, threads = [], [threading.Thread(target=write, args=(number,)) for number in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
print("begun", flush=True)
for thread in threads:
    thread.join()
print(sorted(set(failures)), len(failures), flush=True)
"""
"""So many threads that write 64 KiB each, to a file of their own; prints what came of it."""

MANY_WRITERS = 100
"""More than are tried again and again (MAXIMUM_JOBS), and than the kernel writes back at once."""


@pytest.fixture
def crowded(full: Mounted) -> Mounted:
    """A pool without room, because of `old` and `more`."""
    writer = spawn(WRITER, str(full.path / "more"), str(POOL_MIB), "more")
    until(lambda: is_stalled(full), "the pool is full")
    writer.kill()
    writer.wait(60)
    return full


def test_all_writers_wait_however_many_there_are(crowded: Mounted) -> None:
    many = spawn(MANY, str(crowded.path), str(MANY_WRITERS))
    try:
        assert said(many) == "begun"
        until(lambda: crowded.total()["stalled"] >= MANY_WRITERS - 3, "all of them wait")  # a little room may be left
        assert crowded.total()["refused_writes"] == 0
        (crowded.path / "old").unlink()
        assert said(many) == f"[0] {MANY_WRITERS}"
    finally:
        end(many.pid)
    for number in range(MANY_WRITERS):
        content = cold(crowded.path / f"many{number}")
        assert len(content) == 65536 and content[:4] == number.to_bytes(4, "little")
    until(lambda: crowded.total()["stalled"] == 0, "nobody waits any more")


STORER = """
import ctypes, mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(descriptor, 4096)
while memory[0:1] != b"W":
    pass
memory[100:106] = b"mapped"
ctypes.CDLL(None).sync_file_range(descriptor, ctypes.c_long(0), ctypes.c_long(4096), 2)  # SYNC_FILE_RANGE_WRITE
print("stored", flush=True)
sys.stdin.readline()
"""
"""Changes through a mapping what a write(2) of others has put there, and has the kernel begin to write it back."""


def test_what_is_written_back_last_stays_though_a_write_before_it_waits(crowded: Mounted) -> None:
    shared = crowded.path / "shared"
    os.truncate(crowded.path / "old", 7 * MIB)
    put(shared, noisy(4096, "shared"))
    shared.read_bytes()
    many = spawn(MANY, str(crowded.path), str(MANY_WRITERS))
    storer = spawn(STORER, str(shared))
    processes = [many, storer]
    try:
        assert said(many) == "begun"
        until(lambda: crowded.total()["stalled"] >= 60, "more wait than are tried again")
        write = "import os, sys; os.pwrite(os.open(sys.argv[1], os.O_RDWR), b'W' * 4096, 0); print('written')"
        processes.append(writer := spawn(write, str(shared)))
        assert said(storer) == "stored"
        (crowded.path / "old").unlink()
        assert said(many) == f"[0] {MANY_WRITERS}" and said(writer) == "written"
    finally:
        for process in processes:
            end(process.pid)
    assert cold(shared) == b"W" * 100 + b"mapped" + b"W" * (4096 - 106)


def test_writers_that_wait_in_turn_can_be_killed(crowded: Mounted) -> None:
    many = spawn(MANY, str(crowded.path), str(MANY_WRITERS))
    assert said(many) == "begun"
    until(lambda: crowded.total()["stalled"] >= MANY_WRITERS - 3, "all of them wait")
    many.kill()
    assert ended(many.pid), "it hangs in the kernel"
    many.wait(60)
    until(lambda: crowded.total()["stalled"] == 0, "nobody waits any more")
    assert cold(crowded.path / "old") == noisy(POOL_MIB // 2 * MIB, "old")


def test_truncating_a_full_pool_does_not_wait(full: Mounted) -> None:
    for number in range(100):
        put(full.path / f"small{number}", noisy(2 * 4096, number))
    writer = spawn(WRITER, str(full.path / "new"), "12", "new")
    try:
        until(lambda: is_stalled(full), "the writer is held up")
        for number in range(100):
            os.truncate(full.path / f"small{number}", 4096 + 100)
        for number in range(100):
            assert cold(full.path / f"small{number}") == noisy(2 * 4096, number)[: 4096 + 100]
        (full.path / "old").unlink()
        while (line := said(writer)) != "synced":
            assert line
    finally:
        end(writer.pid)


def test_garbage_goes_back_to_the_host_though_nobody_touches_the_mount(mounted: Mounted) -> None:
    """A file whose records lie between another's is deleted; nothing is asked of the mount afterwards."""
    keep, drop_it = mounted.path / "keep", mounted.path / "drop"
    with keep.open("wb", buffering=0) as one, drop_it.open("wb", buffering=0) as other:
        for number in range(1500):
            one.write(noisy(8192, f"a{number}"))
            other.write(noisy(8192, f"b{number}"))
            if not number % 64:
                os.fsync(one.fileno())
                os.fsync(other.fileno())
        os.fsync(one.fileno())
        os.fsync(other.fileno())
    pool = mounted.state / "pool"
    before = pool.stat().st_blocks
    drop_it.unlink()
    until(lambda: pool.stat().st_blocks < before * 0.7, "the pool shrinks")
    assert cold(keep) == b"".join(noisy(8192, f"a{number}") for number in range(1500))
