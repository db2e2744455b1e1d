"""Memory of the map's pages: given when it is needed, and noted only when it is there."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

import pytest

from blockstore.plane.tables.block_map import BlockMap

PAGE_ENTRIES = 512
PAGES = 6


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("map")
    os.ftruncate(fd, (1 + PAGES) * mmap.PAGESIZE)
    yield fd
    os.close(fd)


def bound(fd: int) -> tuple[BlockMap, bytearray]:
    pages, block_map = bytearray(PAGES), BlockMap()
    view = memoryview(mmap.mmap(fd, 0))
    block_map.bind(view[mmap.PAGESIZE :].cast("Q"), pages, None, fd)
    return block_map, pages


def bytes_of(fd: int) -> int:
    """What the file takes."""
    return os.fstat(fd).st_blocks * 512


@pytest.mark.parametrize(
    ("first", "count", "pages"),
    [
        (0, 1, [0]),
        (PAGE_ENTRIES - 1, 2, [0, 1]),
        (PAGE_ENTRIES, PAGE_ENTRIES, [1]),
        (0, PAGES * PAGE_ENTRIES, list(range(PAGES))),
        (PAGES * PAGE_ENTRIES - 1, 1, [PAGES - 1]),
    ],
)
def test_pages_get_memory_for_these_blocks_alone(file: int, first: int, count: int, pages: list[int]) -> None:
    block_map, marks = bound(file)
    assert block_map.give_memory(first, count) == 0
    assert [page for page in range(PAGES) if marks[page]] == pages
    assert bytes_of(file) == len(pages) * mmap.PAGESIZE


def test_pages_that_have_memory_are_left_alone(file: int) -> None:
    block_map, marks = bound(file)
    marks[1] = marks[3] = 1  # so says the table, and nobody asks the file
    assert block_map.give_memory(0, PAGES * PAGE_ENTRIES) == 0
    assert bytes_of(file) == 4 * mmap.PAGESIZE and all(marks)


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 0), (0, PAGES * PAGE_ENTRIES + 1), (PAGES * PAGE_ENTRIES, 1), (2**64 - 1, 1), (1, 2**64 - 1)],
)
def test_blocks_beyond_the_map_are_refused(file: int, first: int, count: int) -> None:
    block_map, marks = bound(file)
    assert block_map.give_memory(first, count) == errno.EINVAL
    assert not any(marks) and not bytes_of(file)


def test_a_page_that_gets_no_memory_is_not_marked(file: int) -> None:
    block_map, marks = bound(file)
    unwritable = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    try:
        view = memoryview(mmap.mmap(file, 0))
        block_map.bind(view[mmap.PAGESIZE :].cast("Q"), marks, None, unwritable)
        assert block_map.give_memory(0, 1) == errno.EBADF
    finally:
        os.close(unwritable)
    assert not any(marks)
