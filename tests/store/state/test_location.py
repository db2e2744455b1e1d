"""The location word: packing is the inverse of unpacking, and no other module does either."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.state import location
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    FREE,
    PAGED,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
)

SHIFTS = {"SIZE_SHIFT", "SIZE_MASK", "OFFSET_SHIFT", "WHERE_SEGMENT_SHIFT", "PIECE_MASK"}

PLACES = st.integers(0, location.LAST_PIECE - 1)
RECORDS = st.tuples(
    st.integers(0, SEGMENT_BYTES - 1),
    st.integers(0, BLOCK_BYTES),
    st.sampled_from((FREE, RAW, COMPRESSED, PATCHED, DENSE, DENSE_PATCHED)),
)


@given(PLACES, RECORDS)
def test_one_word(place: int, record: tuple[int, int, int]) -> None:
    start, size_bytes, encoding = record
    offset = place * SEGMENT_BYTES + start
    where = location.pack(offset, size_bytes, encoding)
    assert 0 <= where < PAGED
    assert location.offset_of(where) == offset
    assert (location.place_of(where), location.start_of(where), location.size_of(where)) == (place, start, size_bytes)
    assert location.unpack_paged(where | PAGED) == (place, start, size_bytes)
    assert location.place_of(where | PAGED) == location.PAGED_PLACE + place
    assert location.piece_of(location.PAGED_PLACE + place) == place
    assert location.moved(location.pack(0, size_bytes, encoding), offset) == where


def test_a_free_row_is_all_zeros() -> None:
    assert location.pack(0, 0, FREE) == 0


def test_no_other_module_takes_the_word_apart() -> None:
    package = Path(location.__file__).parents[2]
    modules = [path for path in package.rglob("*.py") if path.name not in {"geometry.py", "location.py"}]
    assert len(modules) > 100
    for path in modules:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & SHIFTS, f"{path} takes a location word apart: {names & SHIFTS}; use store/state/location.py"
