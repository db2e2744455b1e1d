"""Which map entries and rows are sound: compiled code and a model in Python agree on damaged ones, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from blockstore.plane.tables.soundness import Places, judge_entries, judge_words
from blockstore.plane.tables.tables import Tables
from blockstore.store.remote.arrivals import entry_of
from blockstore.store.state.geometry import COMPRESSED, DENSE_PATCHED, FIRST_ROW, LOST_ENTRY, PATCHED, RAW, ZERO_ENTRY
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import pack
from blockstore.store.state.rows import Rows
from tests.store.columns import column

Words = npt.NDArray[np.uint64]

SEGMENTS = 40
PIECE_BYTES = np.array([1 << 20, 0, 3000, 4096], dtype=np.int64)
ARRIVALS = 30
ROWS = 500
SINGLE_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def places() -> Places:
    return Places(SEGMENTS, PIECE_BYTES, ARRIVALS)


def is_record(word: int) -> bool:
    """By the table of bits in geometry.py."""
    encoding, size, start, place = word & 7, word >> 3 & 0x1FFF, word >> 16 & 0xFFFFF, word >> 36
    if place >> 27:
        piece = place & (1 << 27) - 1
        room = int(PIECE_BYTES[piece]) if piece < len(PIECE_BYTES) else 0
    else:
        room = 1 << 20 if place < SEGMENTS else 0
    return encoding in range(1, 8) and 0 < size <= 4096 and start + size <= room and (encoding != 1 or size == 4096)


def is_sound(rows: Rows, entry: int) -> bool:
    row, check = entry & 0xFFFFFFFF, entry >> 32
    if entry in (0, ZERO_ENTRY, LOST_ENTRY):
        return True
    if row == 3:
        return check % 61 == 0 and check // 61 < ARRIVALS
    if not FIRST_ROW <= row < rows.capacity or rows.digest.items[row] >> 32 != check:
        return False
    word, base = rows.where.items[row], rows.reference.items[row]
    if word & 3 != 3:
        return is_record(word) and word & 7 not in (5, 6)  # there are no dictionaries
    if not FIRST_ROW <= base < rows.capacity:
        return False
    of_base = rows.where.items[base]
    return is_record(word) and is_record(of_base) and of_base & 7 not in (3, 5, 6, 7)


def words(count: int, seed: int) -> Words:
    """Sound words in segments and pieces, and some of a kind that cannot be."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        encoding = int(random.choice([RAW, COMPRESSED, PATCHED, 4, 5, 6, DENSE_PATCHED]))
        size = 4096 if encoding == RAW else int(random.choice([1, 70, 3000, 4096]))
        place = int(random.choice([0, 3, SEGMENTS - 1, SEGMENTS, 1 << 27, (1 << 27) + 2, (1 << 27) + 3, (1 << 27) + 4]))
        start = int(random.choice([0, 0, 500, (1 << 20) - size, (1 << 20) - size + 1]))
        found.append(pack((place << 20) + start, size, encoding))
    return np.array(found, dtype=np.uint64)


def sound_words(judged: Words) -> list[bool]:
    sound = np.full(len(judged), 7, dtype=np.uint8)
    judge_words(places(), judged, sound)
    return [bool(answer) for answer in sound.tolist()]


def test_words_and_their_single_flips() -> None:
    judged = np.concatenate([words(400, 1), (words(100, 2)[:, None] ^ SINGLE_BITS).ravel()])
    expected = [is_record(word) for word in judged.tolist()]
    assert sound_words(judged) == expected and 0.1 < np.mean(expected) < 0.9


@pytest.mark.parametrize("seed", range(4))
def test_entries_of_damaged_rows(seed: int) -> None:
    random, tables = np.random.default_rng(seed), Tables()
    rows = Rows(MemoryHome(), tables)
    rows.reserve(ROWS)
    ids = np.asarray(rows.take(ROWS))
    column(rows.where)[ids] = words(ROWS, seed)
    column(rows.digest)[ids] = random.integers(0, 1 << 64, ROWS, dtype=np.uint64)
    column(rows.reference)[ids] = random.choice(
        [0, 3, *ids.tolist(), rows.capacity - 1, rows.capacity, 2**32 - 1], ROWS
    )
    entries = column(rows.digest)[ids] & np.uint64(0xFFFFFFFF << 32) | ids.astype(np.uint64)
    of_no_row = [0, ZERO_ENTRY, LOST_ENTRY, entry_of(0), entry_of(ARRIVALS - 1), entry_of(ARRIVALS)]
    marks = np.array([*of_no_row, 1, 2, rows.capacity], dtype=np.uint64)
    flipped = np.concatenate([entries[:20], marks])[:, None] ^ SINGLE_BITS
    judged = np.concatenate([entries, marks, flipped.ravel()])
    sound = np.full(len(judged), 7, dtype=np.uint8)
    judge_entries(tables, places(), judged, sound)
    expected = [is_sound(rows, entry) for entry in judged.tolist()]
    assert [bool(answer) for answer in sound.tolist()] == expected
    assert 20 < sum(expected) < len(expected) - 20
    rows.close()


def test_nothing_is_due_and_nothing_is_in_the_tier() -> None:
    nowhere, sound = Places(0, np.empty(0, dtype=np.int64), 0), np.empty(3, dtype=np.uint8)
    judge_entries(Tables(), nowhere, np.array([0, entry_of(0), 4], dtype=np.uint64), sound)
    assert sound.tolist() == [1, 0, 0]


def test_as_many_answers_as_questions() -> None:
    with pytest.raises(ValueError, match="2 answers for 3 words"):
        judge_words(places(), np.zeros(3, dtype=np.uint64), np.zeros(2, dtype=np.uint8))
    with pytest.raises(ValueError, match="2 answers for 3 entries"):
        judge_entries(Tables(), places(), np.zeros(3, dtype=np.uint64), np.zeros(2, dtype=np.uint8))
