"""What the table of pieces says, and the live bytes of each, are those of a model, whatever the words name."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.piece_table import (
    count_words,
    figures_of,
    forget_words,
    lengths_of,
    numbers_of,
    unneeded,
)
from blockstore.store.state.geometry import COMPRESSED, PAGED, PIECE_MASK, WHERE_SEGMENT_SHIFT
from blockstore.store.state.location import pack, size_of

PIECES = 5
LENGTH_MASK = (1 << 21) - 1
WORD = st.one_of(st.just(0), st.integers(0, (1 << 64) - 1))


def paged(piece: int, size_bytes: int) -> int:
    return PAGED | piece << WHERE_SEGMENT_SHIFT | pack(0, size_bytes, COMPRESSED)


PAGED_WORD = st.builds(paged, st.sampled_from([*range(PIECES), PIECES, PIECE_MASK]), st.integers(0, 8191))


@given(st.lists(WORD, max_size=20), st.data())
def test_what_the_table_says(words: list[int], data: st.DataObject) -> None:
    table = array("Q", words)
    assert figures_of(table) == (sum(map(bool, words)), sum(word & LENGTH_MASK for word in words))
    assert list(lengths_of(table)) == [word & LENGTH_MASK for word in words]
    assert numbers_of(table) == [piece for piece, word in enumerate(words) if word]
    assert numbers_of(table, used=False) == [piece for piece, word in enumerate(words) if not word]
    live = data.draw(st.lists(st.sampled_from([0, 0, 7, -1]), min_size=len(words), max_size=len(words)))
    assert unneeded(table, array("q", live)) == [
        piece for piece, (word, live_bytes) in enumerate(zip(words, live, strict=True)) if word and not live_bytes
    ]


def test_live_bytes_for_fewer_pieces_are_refused() -> None:
    with pytest.raises(ValueError, match="live bytes of 2 pieces for 3"):
        unneeded(array("Q", [1, 2, 3]), array("q", [0, 0]))


@given(st.lists(PAGED_WORD, max_size=40), st.data())
def test_live_bytes(words: list[int], data: st.DataObject) -> None:
    """Some are let go again, and some that were never counted: damage may have put them there."""
    live, expected = array("q", [0]) * PIECES, [0] * PIECES
    count_words(live, array("Q", words))
    for word in words:
        if (piece := word >> WHERE_SEGMENT_SHIFT & PIECE_MASK) < PIECES:
            expected[piece] += size_of(word)
    assert list(live) == expected
    let_go = words[: data.draw(st.integers(0, len(words)))] + data.draw(st.lists(PAGED_WORD, max_size=3))
    emptied = forget_words(live, array("Q", let_go))
    named = {piece for word in let_go if (piece := word >> WHERE_SEGMENT_SHIFT & PIECE_MASK) < PIECES}
    for word in let_go:
        if (piece := word >> WHERE_SEGMENT_SHIFT & PIECE_MASK) < PIECES:
            expected[piece] -= size_of(word)
    assert list(live) == expected
    assert emptied == sorted(piece for piece in named if not expected[piece])
