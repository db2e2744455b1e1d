"""Tables of a few rows and a map of a few pages, with whatever damage may have put there, for models in Python."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from hypothesis import strategies as st

from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.soundness import Places, judge_entries
from blockstore.plane.tables.tables import Tables
from blockstore.store.remote.arrivals import entry_of
from blockstore.store.state.geometry import CHECK_MASK, ID_MASK, LOST_ENTRY, PAGED, ZERO_ENTRY
from blockstore.store.state.location import pack

SEGMENTS = 3
PIECE_BYTES = array("q", [1 << 20, 0, 5000])
ARRIVALS = 5
PAGE_ENTRIES = 512
PAGES = 3

WORDS = st.one_of(
    st.just(0),
    st.builds(
        lambda place, size_bytes, encoding, paged: pack(place << 20, size_bytes, encoding) | paged,
        st.integers(0, 3),
        st.sampled_from([1, 900, 4096]),
        st.integers(0, 7),
        st.sampled_from([0, 0, PAGED]),
    ),
    st.integers(0, 2**64 - 1),
)


@dataclass
class SmallTables:
    """`entries` are those of `block_map`, holes where `pages` says that there is no memory."""

    where: array[int]
    digest: array[int]
    reference: array[int]
    count: array[int]
    dependents: array[int]
    entries: array[int]
    pages: bytearray

    def __post_init__(self) -> None:
        self.tables, self.block_map = Tables(), BlockMap()
        domain = array("H", bytes(2 * len(self.where)))
        self.tables.bind_rows(self.where, self.digest, self.reference, domain, self.count, self.dependents)
        self.block_map.bind(self.entries, self.pages)
        self.places = Places(SEGMENTS, PIECE_BYTES, ARRIVALS)

    @property
    def rows(self) -> int:
        return len(self.where)

    def has_memory(self, block: int) -> bool:
        """Says whether the map has memory for a block's entry."""
        return block < len(self.entries) and bool(self.pages[block // PAGE_ENTRIES])

    def mapped(self, first: int, end: int) -> list[tuple[int, int]]:
        """Returns (block, entry) of the blocks in [first, end) whose entries have memory."""
        return [(block, self.entries[block]) for block in range(first, end) if self.has_memory(block)]

    def is_sound(self, entry: int) -> bool:
        """Asks the judge of entries, which has a test of its own."""
        sound = bytearray(1)
        judge_entries(self.tables, self.places, array("Q", [entry]), sound)
        return bool(sound[0])

    def points_at(self, entry: int) -> int:
        """Returns the row of an entry whose check is that of the row; 0 for none."""
        row = entry & ID_MASK
        return row if 4 <= row < self.rows and self.digest[row] & CHECK_MASK == entry & CHECK_MASK else 0


@st.composite
def small_tables(draw: st.DrawFn) -> SmallTables:
    """Draws tables of 5 to 80 rows."""
    rows = draw(st.integers(5, 80))

    def column(typecode: str, elements: st.SearchStrategy[int]) -> array[int]:
        return array(typecode, draw(st.lists(elements, min_size=rows, max_size=rows)))

    counts = st.integers(0, 3) | st.just(2**32 - 1)
    where, digest = column("Q", WORDS), column("Q", st.integers(0, 3).map(lambda upper: upper << 32 | 7))
    reference = column("I", st.integers(0, rows + 1) | st.just(2**32 - 1))
    count, dependents = column("I", counts), column("H", st.integers(0, 3) | st.just(2**16 - 1))
    entries = array("Q", bytes(8 * PAGES * PAGE_ENTRIES))
    pages = bytearray(draw(st.lists(st.integers(0, 1), min_size=PAGES, max_size=PAGES)))
    entry = st.one_of(
        st.sampled_from([ZERO_ENTRY, LOST_ENTRY, entry_of(ARRIVALS - 1), entry_of(ARRIVALS), 1, 2, 5 << 32]),
        st.integers(0, rows + 1).map(lambda row: digest[min(row, rows - 1)] & CHECK_MASK | row),
        st.integers(0, 2**64 - 1),
    )
    for block, value in draw(st.dictionaries(st.integers(0, len(entries) - 1), entry, max_size=60)).items():
        entries[block] = value
    return SmallTables(where, digest, reference, count, dependents, entries, pages)


RANGES = st.tuples(st.integers(0, PAGES * PAGE_ENTRIES), st.integers(0, PAGES * PAGE_ENTRIES + 700)).map(
    lambda ends: (min(ends), max(ends))
)
"""[first, end) of blocks, some behind the end of the map."""
