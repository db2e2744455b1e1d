"""Counts anew what follows from maps and rows. See recount.pyi.

Each function works on a range, and several threads on ranges of one table at once. What they write is their range's
alone, but for sums, which are atomic additions. Every word may be damaged: what it names is compared with the length
of the table before it is used.
"""

from array import array

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.sync.atomics cimport add_16, add_32, add_64, load_64, publish_16, publish_32, publish_64
from blockstore.plane.tables.block_map cimport PAGE_ENTRIES_SHIFT, BlockMap, MapView, page_end
from blockstore.plane.tables.content_index cimport bs_prefetch
from blockstore.plane.codec.layout cimport (
    DUE,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    LOST_ENTRY,
    PIECE_MASK,
    WHERE_SEGMENT_SHIFT,
    is_paged,
    is_patch,
    size_of,
)
from blockstore.plane.tables.soundness cimport BATCH_ENTRIES, Places, Room, judge
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum:
    # Rows ahead, of which the reference is asked of memory.
    AHEAD_ROWS = 16

cdef struct Counted:
    uint64_t touched
    uint64_t lost
    uint64_t due
    uint64_t unsound


cdef void count_batch(
    const uint64_t* batch, uint64_t count, const Columns* columns, const Room* room, uint32_t* counts, Counted* counted
) noexcept nogil:
    cdef uint8_t[BATCH_ENTRIES] sound
    cdef uint64_t number, row
    for number in range(count):
        row = batch[number] & ID_MASK
        if FIRST_ROW <= row < columns.capacity:
            bs_prefetch(&counts[row])
    judge(batch, count, columns, room, sound)
    for number in range(count):
        row = batch[number] & ID_MASK
        counted.touched += batch[number] != HOLE
        if not sound[number]:
            counted.unsound += 1
        elif row >= FIRST_ROW:
            add_32(&counts[row], 1)
        else:
            counted.lost += batch[number] == LOST_ENTRY
            counted.due += row == DUE


cdef Counted count_map(
    const MapView* view, uint64_t first, uint64_t end, const Columns* columns, const Room* room, uint32_t* counts
) noexcept nogil:
    cdef Counted counted = Counted(0, 0, 0, 0)
    cdef uint64_t[BATCH_ENTRIES] batch
    cdef uint64_t stop, number, count
    end = min(end, view.capacity)
    while first < end:
        stop = page_end(first, end)
        if not view.pages[first >> PAGE_ENTRIES_SHIFT]:
            first = stop
            continue
        while first < stop:
            count = min(stop - first, <uint64_t>BATCH_ENTRIES)
            for number in range(count):
                batch[number] = load_64(&view.entries[first + number])
            count_batch(batch, count, columns, room, counts, &counted)
            first += count
    return counted


def count_entries(
    Tables tables not None,
    Places places not None,
    BlockMap block_map not None,
    uint64_t first,
    uint64_t end,
    uint32_t[::1] counts not None,
):
    cdef Counted counted
    if counts.shape[0] == 0 or <uint64_t>counts.shape[0] < tables.columns.capacity:
        raise ValueError(f"{counts.shape[0]} counts for {tables.columns.capacity} rows")
    with nogil:
        counted = count_map(&block_map.view, first, end, &tables.columns, &places.room, &counts[0])
    return counted.touched, counted.lost, counted.due, counted.unsound


cdef void store_counts(Columns* columns, const uint32_t* counts, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t row
    cdef uint32_t count
    for row in range(first, end):
        count = counts[row] if row >= FIRST_ROW else 0
        publish_32(&columns.count[row], count)
        publish_16(&columns.dependents[row], 0)
        if count == 0 and is_patch(columns.where[row]):
            publish_64(&columns.where[row], 0)


def set_counts(Tables tables not None, const uint32_t[::1] counts not None, uint64_t first, uint64_t end):
    if counts.shape[0] == 0 or <uint64_t>counts.shape[0] < tables.columns.capacity:
        raise ValueError(f"{counts.shape[0]} counts for {tables.columns.capacity} rows")
    with nogil:
        store_counts(&tables.columns, &counts[0], first, min(end, tables.columns.capacity))


def count_dependents(Tables tables not None, uint64_t first, uint64_t end):
    cdef Columns* columns = &tables.columns
    cdef uint64_t row
    cdef uint32_t base
    end = min(end, columns.capacity)
    with nogil:
        for row in range(first, end):
            if row + AHEAD_ROWS < end and is_patch(columns.where[row + AHEAD_ROWS]):
                base = columns.reference[row + AHEAD_ROWS]
                if FIRST_ROW <= base < columns.capacity:
                    bs_prefetch(&columns.dependents[base])
            if is_patch(columns.where[row]):
                base = columns.reference[row]
                if FIRST_ROW <= base < columns.capacity:
                    add_16(&columns.dependents[base], 1)


def free_unneeded(Tables tables not None, uint64_t first, uint64_t end):
    cdef Columns* columns = &tables.columns
    cdef uint64_t row, used = 0, behind_last = 0
    end = min(end, columns.capacity)
    with nogil:
        for row in range(first, end):
            if columns.where[row] and columns.count[row] == 0 and columns.dependents[row] == 0:
                publish_64(&columns.where[row], 0)
            if columns.where[row]:
                used += 1
                behind_last = row + 1
    return used, behind_last


def list_free(Tables tables not None, uint64_t first, uint64_t end, uint64_t before, uint32_t[::1] free not None):
    cdef Columns* columns = &tables.columns
    cdef uint64_t row, place = before, total = free.shape[0]
    end = min(end, columns.capacity)
    with nogil:
        for row in range(max(first, <uint64_t>FIRST_ROW), end):
            if columns.where[row] == 0 and place < total:
                free[total - 1 - place] = <uint32_t>row
                place += 1


cdef void add_bytes(int64_t[::1] to, uint64_t place, uint64_t size_bytes) noexcept nogil:
    if place < <uint64_t>to.shape[0]:
        add_64(<uint64_t*>&to[place], size_bytes)


def count_records(
    const uint64_t[::1] where not None,
    uint64_t first,
    uint64_t end,
    int64_t[::1] segment_bytes not None,
    int64_t[::1] piece_bytes not None,
):
    cdef uint64_t row, word, place, last = 0, sum_bytes = 0
    end = min(end, <uint64_t>where.shape[0])
    with nogil:
        for row in range(first, end):
            word = where[row]
            place = word >> WHERE_SEGMENT_SHIFT
            if is_paged(word):
                add_bytes(piece_bytes, place & PIECE_MASK, size_of(word))
            elif place == last:  # as most are, for records are appended; a free row adds nothing to segment 0
                sum_bytes += size_of(word)
            else:
                add_bytes(segment_bytes, last, sum_bytes)
                last, sum_bytes = place, size_of(word)
        add_bytes(segment_bytes, last, sum_bytes)


def list_unused(const int64_t[::1] segment_bytes not None, uint8_t[::1] has_memory not None):
    cdef uint64_t segment, stop, unused = 0, count = segment_bytes.shape[0]
    cdef uint32_t[::1] numbers
    if <uint64_t>has_memory.shape[0] != count:
        raise ValueError(f"{has_memory.shape[0]} answers for {count} segments")
    with nogil:
        for segment in range(count):
            has_memory[segment] = segment_bytes[segment] > 0
            unused += not has_memory[segment]
    listed, runs = array("I", [0]) * unused, []
    numbers = listed
    segment = 0
    while segment < count:
        stop = segment
        while stop < count and not has_memory[stop]:
            unused -= 1
            numbers[unused] = <uint32_t>stop
            stop += 1
        if stop > segment:
            runs.append((segment, stop))
        segment = stop + 1
    return listed, runs
