"""A region stays where it is while its file grows, and no view outlives its memory."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blockstore.plane.sync.region import Region

PAGE = mmap.PAGESIZE
GIB = 1 << 30

LITTLE_ADDRESS_SPACE = f"""
import resource
from blockstore.errors import OutOfRoom
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.shared_array import SharedArray

resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB}))
try:
    SharedArray(MemoryHome(), "array", "Q", 512, most=1 << 32)
except OutOfRoom as error:
    print(error)
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty file."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def mappings_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_it_grows_in_place_in_one_mapping(file: int, tmp_path: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    region = Region(file, GIB)
    assert len(memoryview(region)) == region.size_bytes == 0
    first = None
    for pages in range(1, 200):
        os.ftruncate(file, pages * PAGE)
        region.extend(pages * PAGE)
        array = np.frombuffer(memoryview(region), dtype=np.uint8)
        array[-PAGE:] = pages % 251
        first = array if first is None else first
        assert array.ctypes.data == first.ctypes.data
    assert mappings_of(tmp_path / "file") == 1
    assert os.listdir("/proc/self/fd") == descriptors, "a mapping keeps no descriptor"
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([pages % 251]) * PAGE for pages in range(1, 200))
    assert first is not None and len(first) == PAGE


def test_it_lives_as_long_as_its_views(file: int, tmp_path: Path) -> None:
    os.ftruncate(file, PAGE)
    region = Region(file, GIB)
    region.extend(PAGE)
    view, array = memoryview(region).cast("Q"), np.frombuffer(memoryview(region), dtype=np.uint64)
    del region
    view[5] = 7
    assert array[5] == 7
    del view
    assert array[5] == 7 and mappings_of(tmp_path / "file") == 1
    del array
    assert not mappings_of(tmp_path / "file")


def test_it_reserves_addresses_and_no_memory(file: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    regions = [Region(file, 1 << 40) for _ in range(16)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert len({np.frombuffer(memoryview(region), dtype=np.uint8).ctypes.data for region in regions}) == 16


def test_one_for_reading_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * PAGE)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(PermissionError):
        Region(fd, GIB)
    region = Region(fd, GIB, writable=False)
    os.close(fd)
    region.extend(PAGE)
    assert bytes(memoryview(region)) == b"x" * PAGE
    with pytest.raises(TypeError):
        memoryview(region)[0] = 1


def test_it_shrinks_never_and_has_an_end(file: int) -> None:
    region = Region(file, 4 * PAGE)
    region.extend(2 * PAGE)
    for size_bytes in (PAGE, 5 * PAGE):
        with pytest.raises(ValueError, match=str(size_bytes)):
            region.extend(size_bytes)
    assert region.size_bytes == 2 * PAGE and region.reserved_bytes == 4 * PAGE


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer takes more addresses itself")
def test_a_limit_of_addresses_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", LITTLE_ADDRESS_SPACE], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "`ulimit -v`" in done.stdout, done.stderr
