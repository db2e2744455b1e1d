"""Looking through the map of a volume, some pages of which have memory: against a list of its entries."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.plane.tables.block_map import BlockMap

PAGE_ENTRIES = 512
PAGES = 5
BLOCKS = PAGES * PAGE_ENTRIES
EDGES = sorted({edge for page in range(PAGES + 1) for edge in (page * 512 - 1, page * 512, page * 512 + 1)} - {-1})

PLACES = st.one_of(st.integers(0, BLOCKS + 600), st.sampled_from(EDGES))
RUNS = st.lists(st.tuples(PLACES, st.integers(1, 700), st.sampled_from((0, 1, 1 << 63, (1 << 64) - 1))), max_size=8)
"""Entries that are alike: from which block, how many, and which."""


def bound(runs: list[tuple[int, int, int]], pages: int) -> tuple[BlockMap, list[int]]:
    """A map with these entries, and what is to be seen of it: what lies on a page without memory is a hole."""
    entries, has_memory = [0] * BLOCKS, bytearray(pages >> page & 1 for page in range(PAGES))
    for first, count, entry in runs:
        entries[first : first + count] = [entry] * len(entries[first : first + count])
    block_map = BlockMap()
    block_map.bind(array("Q", entries), has_memory)
    return block_map, [entry * has_memory[block // PAGE_ENTRIES] for block, entry in enumerate(entries)]


@settings(deadline=None)
@given(runs=RUNS, pages=st.integers(0, (1 << PAGES) - 1), first=PLACES, second=PLACES)
def test_data_and_holes_are_found(runs: list[tuple[int, int, int]], pages: int, first: int, second: int) -> None:
    (block_map, seen), end = bound(runs, pages), max(first, second)
    first = min(first, second)
    seen += [0] * (end - len(seen))
    blocks = range(first, end)
    assert block_map.next_data(first, end) == next((block for block in blocks if seen[block]), end)
    assert block_map.next_hole(first, end) == next((block for block in blocks if not seen[block]), end)
    found = block_map.copy(first, end - first)
    assert found.typecode == "Q" and found.tolist() == seen[first:end]


def test_where_the_end_comes_first_nothing_is_found() -> None:
    block_map, _ = bound([(0, BLOCKS, 1)], (1 << PAGES) - 1)
    for first, end in ((10, 5), (BLOCKS + 10, 5), (BLOCKS, BLOCKS), ((1 << 64) - 1, 0)):
        assert block_map.next_data(first, end) == block_map.next_hole(first, end) == end


def test_a_map_that_is_not_bound_is_a_hole_of_any_size() -> None:
    block_map = BlockMap()
    assert block_map.next_data(0, 1 << 40) == 1 << 40 and block_map.next_hole(7, 1 << 40) == 7
    assert block_map.copy(1 << 40, 3) == array("Q", (0, 0, 0))
    block_map.bind(array("Q", [1] * BLOCKS), bytearray(b"\1" * PAGES))
    assert block_map.next_hole(0, 1 << 40) == BLOCKS
    block_map.unbind()
    assert block_map.next_data(0, BLOCKS) == BLOCKS and block_map.next_hole(0, BLOCKS) == 0
