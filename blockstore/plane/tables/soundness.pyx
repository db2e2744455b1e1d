"""What a row and a map entry must be like to be used. See soundness.pyi.

Any word may be damaged: an id is compared with the number of rows before it is used, a piece with that of pieces.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.sync.atomics cimport load_32, load_64
from blockstore.plane.tables.content_index cimport bs_prefetch
from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    CHECK_SHIFT,
    DUE,
    DUE_CHECK,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    LOST_ENTRY,
    OFFSET_SHIFT,
    PIECE_MASK,
    RAW,
    SEGMENT_BYTES,
    WHERE_SEGMENT_SHIFT,
    ZERO_ENTRY,
    encoding_of,
    is_paged,
    is_patch,
    needs_dictionary,
    size_of,
)
from blockstore.plane.tables.tables cimport Columns, Tables, has_dictionary

cdef enum:
    # A bit for each encoding that there is: all but FREE.
    KNOWN_ENCODINGS = 0xFE


cdef bint names_record(uint64_t where, const Room* room) noexcept nogil:
    """Whether a location word says a known encoding, and a record that lies in a segment or a piece."""
    cdef uint64_t size_bytes = size_of(where), place = where >> WHERE_SEGMENT_SHIFT, place_bytes = 0
    if not KNOWN_ENCODINGS >> encoding_of(where) & 1 or size_bytes == 0 or size_bytes > BLOCK_BYTES:
        return False
    if encoding_of(where) == RAW and size_bytes != BLOCK_BYTES:
        return False
    if is_paged(where):
        place &= PIECE_MASK
        if place < room.pieces:
            place_bytes = <uint64_t>room.piece_lengths[place]
    elif place < room.segments:
        place_bytes = SEGMENT_BYTES
    return (where >> OFFSET_SHIFT & (SEGMENT_BYTES - 1)) + size_bytes <= place_bytes


cdef bint is_usable(uint64_t row, const Columns* columns, const Room* room) noexcept nogil:
    """Whether a row that there is names a record, and a reference if that is a patch, or a dictionary if it needs one."""
    cdef uint64_t where = load_64(&columns.where[row])
    cdef uint32_t base
    if not names_record(where, room):
        return False
    if not is_patch(where):
        return not needs_dictionary(encoding_of(where)) or has_dictionary(columns, row, where)
    base = load_32(&columns.reference[row])
    if base < FIRST_ROW or base >= columns.capacity:
        return False
    where = load_64(&columns.where[base])
    if not names_record(where, room) or is_patch(where):
        return False
    return not needs_dictionary(encoding_of(where)) or has_dictionary(columns, base, where)


cdef bint is_sound(uint64_t entry, const Columns* columns, const Room* room) noexcept nogil:
    cdef uint64_t row = entry & ID_MASK, check = entry >> CHECK_SHIFT
    if row >= FIRST_ROW:
        return (
            row < columns.capacity
            and load_64(&columns.digest[row]) >> CHECK_SHIFT == check
            and is_usable(row, columns, room)
        )
    if row == DUE:
        return check % DUE_CHECK == 0 and check // DUE_CHECK < room.arrivals
    return entry == HOLE or entry == ZERO_ENTRY or entry == LOST_ENTRY


cdef void judge(
    const uint64_t* entries, uint64_t count, const Columns* columns, const Room* room, uint8_t* sound
) noexcept nogil:
    cdef uint64_t number, row
    cdef uint32_t base
    for number in range(count):
        row = entries[number] & ID_MASK
        if FIRST_ROW <= row < columns.capacity:
            bs_prefetch(&columns.where[row])
            bs_prefetch(&columns.digest[row])
            bs_prefetch(&columns.reference[row])
    for number in range(count):
        row = entries[number] & ID_MASK
        if FIRST_ROW <= row < columns.capacity and is_patch(load_64(&columns.where[row])):
            base = load_32(&columns.reference[row])
            if base < columns.capacity:
                bs_prefetch(&columns.where[base])
    for number in range(count):
        sound[number] = is_sound(entries[number], columns, room)


cdef class Places:
    def __cinit__(self, uint64_t segments, const int64_t[::1] piece_lengths not None, uint64_t arrivals):
        self.lengths = piece_lengths
        self.room.segments = segments
        self.room.pieces = piece_lengths.shape[0]
        self.room.piece_lengths = &piece_lengths[0] if piece_lengths.shape[0] else NULL
        self.room.arrivals = arrivals


def judge_words(Places places not None, const uint64_t[::1] words not None, uint8_t[::1] sound not None):
    cdef Py_ssize_t number
    if sound.shape[0] != words.shape[0]:
        raise ValueError(f"{sound.shape[0]} answers for {words.shape[0]} words")
    with nogil:
        for number in range(words.shape[0]):
            sound[number] = names_record(words[number], &places.room)


def judge_entries(
    Tables tables not None, Places places not None, const uint64_t[::1] entries not None, uint8_t[::1] sound not None
):
    cdef Py_ssize_t first = 0, count
    if sound.shape[0] != entries.shape[0]:
        raise ValueError(f"{sound.shape[0]} answers for {entries.shape[0]} entries")
    with nogil:
        while first < entries.shape[0]:
            count = min(entries.shape[0] - first, BATCH_ENTRIES)
            judge(&entries[first], count, &tables.columns, &places.room, &sound[first])
            first += count
