"""The table of arrivals, and the map entries that are places in it. See arrivals.pyi."""

from array import array

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    CHECK_SHIFT,
    DENSE,
    DUE,
    DUE_CHECK,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    OFFSET_SHIFT,
    PIECE_MASK,
    RAW,
    SEGMENT_BYTES,
    SEGMENT_SHIFT,
    SIZE_SHIFT,
)
from blockstore.plane.sync.atomics cimport publish_64
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum:
    WORDS = 4
    DIGEST_BYTES = 16
    SOURCE = 3  # the word of an arrival that has its source

MAXIMUM_DUE = (<uint64_t>UINT32_MAX + 1) // DUE_CHECK

include "../sync/points.pxi"


def used_arrivals(const uint64_t[::1] table not None):
    cdef Py_ssize_t word = table.shape[0]
    with nogil:
        while word and not table[word - 1]:
            word -= 1
    return (word + WORDS - 1) // WORDS


def sources_of(const uint64_t[::1] table not None, uint64_t count):
    cdef uint64_t place = 0, source
    if count > <uint64_t>table.shape[0] // WORDS:
        raise ValueError(f"{count} arrivals of {table.shape[0] // WORDS}")
    found = set()
    while place < count:
        source = table[place * WORDS + SOURCE]
        found.add(source)
        with nogil:  # they come in long runs
            while place < count and table[place * WORDS + SOURCE] == source:
                place += 1
    return found


def enter_arrivals(
    uint64_t[::1] table not None,
    uint64_t first,
    uint64_t source,
    const uint64_t[::1] where not None,
    const uint8_t[::1] digests not None,
):
    cdef uint64_t number, count = where.shape[0], room = table.shape[0] // WORDS
    cdef uint64_t[2] digest
    cdef uint64_t* arrival
    if not source or first > room or count > room - first or <uint64_t>digests.shape[0] != count * DIGEST_BYTES:
        raise ValueError(f"{count} arrivals of source {source}, from {first} on of {room}")
    with nogil:
        for number in range(count):
            arrival = &table[(first + number) * WORDS]
            memcpy(digest, &digests[number * DIGEST_BYTES], DIGEST_BYTES)
            publish_64(&arrival[SOURCE], source)
            publish_64(&arrival[0], where[number])
            publish_64(&arrival[1], digest[0])
            publish_64(&arrival[2], digest[1])


def due_entries(const uint32_t[::1] places not None, uint64_t first):
    cdef Py_ssize_t number
    cdef uint64_t due = 0, largest = MAXIMUM_DUE
    cdef uint64_t[::1] entries
    made = array("Q", [HOLE]) * places.shape[0]
    entries = made
    if first > largest:
        raise ValueError(f"place {first} of {largest}")
    for number in range(places.shape[0]):
        if places[number]:
            if first + places[number] > largest:
                raise ValueError(f"place {first + places[number] - 1} of {largest}")
            entries[number] = (first + places[number] - 1) * DUE_CHECK << CHECK_SHIFT | DUE
            due += 1
    return made, due


cdef inline bint is_due(uint64_t entry, uint64_t arrivals) noexcept nogil:
    """Whether an entry is an undamaged one of a block that is due, with so many arrivals."""
    cdef uint64_t check = entry >> CHECK_SHIFT
    return entry & ID_MASK == DUE and check % DUE_CHECK == 0 and check // DUE_CHECK < arrivals


def due_blocks(const uint64_t[::1] entries not None, uint64_t arrivals, uint64_t first):
    cdef Py_ssize_t number
    due = []
    for number in range(entries.shape[0]):
        if is_due(entries[number], arrivals):
            due.append(first + number)
    return due


def is_any_due(const uint64_t[::1] entries not None, uint64_t arrivals):
    cdef Py_ssize_t number = 0
    with nogil:
        while number < entries.shape[0] and not is_due(entries[number], arrivals):
            number += 1
    return number < entries.shape[0]


def rows_of_domain(Tables tables not None, uint64_t domain, uint64_t first, uint64_t end):
    cdef Columns* columns = &tables.columns
    cdef uint64_t row
    rows = []
    for row in range(max(first, <uint64_t>FIRST_ROW), min(end, columns.capacity)):
        if columns.domain[row] == domain and columns.where[row]:
            rows.append(row)
    return rows


def record_words(const uint8_t[::1] sizes not None, uint64_t first_piece):
    cdef Py_ssize_t number, count = sizes.shape[0] // 2
    cdef uint64_t piece = first_piece, start = 0, size = 0
    cdef bint is_sound = sizes.shape[0] % 2 == 0 and first_piece <= PIECE_MASK
    cdef uint64_t[::1] words
    packed = array("Q", [0]) * count
    words = packed
    with nogil:
        for number in range(count):
            size = sizes[2 * number] | <uint64_t>sizes[2 * number + 1] << 8
            if start + size > SEGMENT_BYTES:
                piece, start = piece + 1, 0
            is_sound = is_sound and 0 < size <= BLOCK_BYTES and piece <= PIECE_MASK
            if not is_sound:
                break
            words[number] = (
                (piece << SEGMENT_SHIFT | start) << OFFSET_SHIFT
                | size << SIZE_SHIFT
                | <uint64_t>(RAW if size == BLOCK_BYTES else DENSE)
            )
            start += size
    if not is_sound:
        raise ValueError(f"a record of {size} bytes in piece {piece}")
    return packed


def highest(const uint32_t[::1] numbers not None):
    cdef Py_ssize_t number
    cdef uint32_t found = 0
    with nogil:
        for number in range(numbers.shape[0]):
            found = max(found, numbers[number])
    return found
