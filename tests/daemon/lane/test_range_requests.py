"""Requests on ranges of files: what their flags may be, as the kernel would send them."""

from __future__ import annotations

import errno
import os

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.lane.range_requests import RangeRequests
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store

UNIQUE, SIZE_BYTES = 8, 1 << 20
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


@pytest.fixture
def store() -> Store:
    """Two files of 1 MiB."""
    made = Store(MemoryHome(), 16 << 20)
    for number in (1, 2):
        run(made.resize_steps(made.create_volume(number, 1), SIZE_BYTES))
    return made


def error_of(store: Store, opcode: int, arguments: bytes) -> int:
    """The errno that the request on file 1 is answered with; 0 if it becomes a job, or is answered well."""
    jobs: list[object] = []
    answers: list[bytes] = []
    requests = RangeRequests(store, store.lock, jobs.append, answers.append, lambda inode, fh: 0)
    requests.handlers[opcode](UNIQUE, 1, arguments)
    assert len(jobs) + len(answers) == 1
    if jobs:
        return 0
    error: int
    _, error, unique = abi.OUT_HEADER.unpack_from(answers[0])
    assert unique == UNIQUE
    return -error


@pytest.mark.parametrize("mode", (*range(32), 32, 33, 64, 65, 128, 129, 256, 1 << 31))
def test_fallocate_does_what_it_is_asked_for_or_refuses(store: Store, mode: int) -> None:
    known = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
    error = error_of(store, abi.FALLOCATE, abi.FALLOCATE_IN.pack(0, 0, 4096, mode, 0))
    assert error == (0 if mode in known else errno.EOPNOTSUPP)


@pytest.mark.parametrize("flags", (0, 1, 2, 1 << 63))
@pytest.mark.parametrize("opcode", (abi.COPY_FILE_RANGE, abi.COPY_FILE_RANGE_64))
def test_copy_file_range_knows_no_flags(store: Store, opcode: int, flags: int) -> None:
    arguments = abi.COPY_FILE_RANGE_IN.pack(0, 0, 2, 0, 0, 4096, flags)
    assert error_of(store, opcode, arguments) == (errno.EINVAL if flags else 0)


@pytest.mark.parametrize("offset", (0, SIZE_BYTES, 1 << 63))
@pytest.mark.parametrize("whence", (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE, 5, 1 << 31))
def test_lseek_looks_for_data_and_holes_only(store: Store, whence: int, offset: int) -> None:
    error = error_of(store, abi.LSEEK, abi.LSEEK_IN.pack(0, offset, whence, 0))
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        assert error == errno.EINVAL
    elif offset >= SIZE_BYTES or whence == os.SEEK_DATA:
        assert error == errno.ENXIO
    else:
        assert error == 0
