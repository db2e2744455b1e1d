"""The lane answers each request: what fails in an unforeseen way is EIO for that request and a line in the log."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from blockstore.store.volume import MAXIMUM_SIZE_BYTES
from tests.daemon.lab import Lab, Mounted, blockstore, cold, drop, noisy, put, until

BLOCKS = 64

FAULTY = """
import blockstore.store.decode as decode, blockstore.store.store as store, blockstore.store.volume as volume
read_blocks, write_steps, seek = decode.Decoder.read_blocks, store.Store.write_steps, volume.Volume.seek
create_volume = store.Store.create_volume

def of_create(self, number, domain_key):
    created = create_volume(self, number, domain_key)
    self._lane_volumes.remove(number)
    return created

def fails(kind):
    raise RuntimeError(f"a {kind} that nobody foresaw")

def of_read(self, volume, first, count, *rest):
    is_bad = volume.size_bytes == 777 * 4096 and first <= 5 < first + count
    return fails("read") if is_bad else read_blocks(self, volume, first, count, *rest)

def of_write(self, volume, offset, data, *rest):
    return fails("write") if bytes(data[:5]) == b"fail!" else write_steps(self, volume, offset, data, *rest)

def of_seek(self, offset, *, data):
    return fails("seek") if self.size_bytes == 777 * 4096 else seek(self, offset, data=data)

decode.Decoder.read_blocks, store.Store.write_steps, volume.Volume.seek = of_read, of_write, of_seek
store.Store.create_volume = of_create
"""
"""For the daemon: the compiled lane leaves READs to Python; a file of 777 blocks cannot be read at its sixth block, and
one cannot write "fail!"."""


@pytest.fixture
def faulty(lab: Lab) -> Mounted:
    (lab.path / "sitecustomize.py").write_text(FAULTY)
    place = Mounted(lab.mountpoint(), lab.path / "mnt.state")
    command = ["mount", str(place.path), "--state", str(place.state), "--pool-limit", "64M"]
    assert blockstore(*command, PYTHONPATH=str(lab.path)).returncode == 0
    return place


def expect(mounted: Mounted, kind: str, *, failed: bool) -> None:
    assert failed, f"the {kind} did not fail"
    until(lambda: f"a {kind} that nobody foresaw" in mounted.log(), f"the log says why the {kind} failed")


@pytest.mark.mount
@pytest.mark.logs(r"a \w+ that nobody foresaw$")
def test_what_nobody_foresaw_is_an_error_for_that_request_alone(faulty: Mounted) -> None:
    path, other = faulty.path / "memory", faulty.path / "other"
    put(path, noisy(777 * 4096, 1))
    put(other, noisy(BLOCKS * 4096, 2))
    drop(path)
    pid = faulty.daemon_pid()
    descriptor = os.open(path, os.O_RDWR)
    direct = os.open(other, os.O_RDWR)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        expect(faulty, "read", failed=error_of(lambda: os.pread(descriptor, 4096, 5 * 4096)) == errno.EIO)
        assert os.pread(descriptor, 4096, 9 * 4096) == noisy(777 * 4096, 1)[9 * 4096 : 10 * 4096]
        data = b"fail!" + bytes(100_000)
        expect(faulty, "write", failed=error_of(lambda: os.pwrite(direct, data, 0)) == errno.EIO)
        expect(faulty, "seek", failed=error_of(lambda: os.lseek(descriptor, 0, os.SEEK_DATA)) == errno.EIO)
    finally:
        os.close(descriptor)
        os.close(direct)
    assert cold(other)[4096 * 25 :] == noisy(BLOCKS * 4096, 2)[4096 * 25 :]
    assert faulty.daemon_pid() == pid and faulty.total()["restarts"] == 0


@pytest.mark.mount
def test_a_small_write_beyond_the_largest_size_is_refused_without_a_traceback(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", noisy(4096, 1))
    descriptor = os.open(mounted.path / "file", os.O_RDWR)
    try:
        assert error_of(lambda: os.pwrite(descriptor, bytes(4096), MAXIMUM_SIZE_BYTES)) == errno.EFBIG
    finally:
        os.close(descriptor)
    assert cold(mounted.path / "file") == noisy(4096, 1)
    assert "Traceback" not in mounted.log()


def error_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None
