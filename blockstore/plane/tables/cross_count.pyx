"""What maps, rows and records say of each other, compared. See cross_count.pyi.

Any word may be damaged: what it names is compared with the length of the table before it is used.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from blockstore.plane.codec.layout cimport (
    CHECK_SHIFT,
    DUE,
    FIRST_ROW,
    ID_MASK,
    LOST_ENTRY,
    PIECE_MASK,
    WHERE_SEGMENT_SHIFT,
    is_paged,
    is_patch,
)
from blockstore.plane.sync.atomics cimport load_16, load_32, load_64
from blockstore.plane.tables.block_map cimport PAGE_ENTRIES_SHIFT, BlockMap, MapView, page_end
from blockstore.plane.tables.content_index cimport bs_prefetch
from blockstore.plane.tables.soundness cimport BATCH_ENTRIES, Places, Room, judge
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum:
    # Rows ahead, of which the reference is asked of memory.
    AHEAD_ROWS = 16

    OF_NO_CONCERN = 0
    MARK_DAMAGED_ENTRY = 1
    MARK_DAMAGED_ROW = 2
    MARK_LOST = 3
    MARK_DUE = 4

    FLAG_OTHER_COUNTS = 1
    FLAG_ORPHAN = 2

DAMAGED_ENTRY = MARK_DAMAGED_ENTRY
DAMAGED_ROW = MARK_DAMAGED_ROW
LOST_BLOCK = MARK_LOST
DUE_BLOCK = MARK_DUE
OTHER_COUNTS = FLAG_OTHER_COUNTS
ORPHAN = FLAG_ORPHAN


cdef uint8_t verdict_on(uint64_t entry, bint is_sound, const uint8_t* damaged_rows, uint64_t rows) noexcept nogil:
    cdef uint64_t row = entry & ID_MASK
    if not is_sound:
        return MARK_DAMAGED_ENTRY
    if row >= FIRST_ROW:
        return MARK_DAMAGED_ROW if row < rows and damaged_rows[row] else OF_NO_CONCERN
    if entry == LOST_ENTRY:
        return MARK_LOST
    return MARK_DUE if row == DUE else OF_NO_CONCERN


cdef uint64_t judge_map(
    const MapView* view,
    uint64_t first,
    uint64_t end,
    const Columns* columns,
    const Room* room,
    const uint8_t* damaged_rows,
    uint64_t rows,
    uint8_t* verdicts,
) noexcept nogil:
    cdef uint8_t[BATCH_ENTRIES] sound
    cdef uint64_t[BATCH_ENTRIES] batch
    cdef uint64_t block = first, found = 0, stop, count, number
    cdef uint8_t verdict
    end = min(end, view.capacity)
    while block < end:
        stop = page_end(block, end)
        if not view.pages[block >> PAGE_ENTRIES_SHIFT]:
            block = stop
            continue
        while block < stop:
            count = min(stop - block, <uint64_t>BATCH_ENTRIES)
            for number in range(count):
                batch[number] = load_64(&view.entries[block + number])
            judge(batch, count, columns, room, sound)
            for number in range(count):
                verdict = verdict_on(batch[number], sound[number], damaged_rows, rows)
                verdicts[block + number - first] = verdict
                found += verdict != OF_NO_CONCERN and verdict != MARK_DUE
            block += count
    return found


def judge_blocks(
    Tables tables not None,
    Places places not None,
    BlockMap block_map not None,
    uint64_t first,
    const uint8_t[::1] damaged_rows not None,
    uint8_t[::1] verdicts not None,
):
    cdef uint64_t found
    if not verdicts.shape[0] or not damaged_rows.shape[0]:
        raise ValueError(f"{verdicts.shape[0]} blocks, {damaged_rows.shape[0]} marks of rows")
    verdicts[:] = OF_NO_CONCERN
    with nogil:
        found = judge_map(
            &block_map.view,
            first,
            first + <uint64_t>verdicts.shape[0],
            &tables.columns,
            &places.room,
            &damaged_rows[0],
            damaged_rows.shape[0],
            &verdicts[0],
        )
    return found


cdef void count_page(
    const uint64_t* entries, uint64_t number, const Columns* columns, uint32_t* counts, uint64_t rows
) noexcept nogil:
    cdef uint64_t place, entry, row
    for place in range(number):
        row = load_64(&entries[place]) & ID_MASK
        if FIRST_ROW <= row < rows:
            bs_prefetch(&columns.digest[row])
            bs_prefetch(&counts[row])
    for place in range(number):
        entry = load_64(&entries[place])
        row = entry & ID_MASK
        if FIRST_ROW <= row < rows and not (entry ^ load_64(&columns.digest[row])) >> CHECK_SHIFT:
            counts[row] += 1


cdef void count_map(
    const MapView* view, uint64_t first, uint64_t end, const Columns* columns, uint32_t* counts, uint64_t rows
) noexcept nogil:
    cdef uint64_t stop, number
    end = min(end, view.capacity)
    while first < end:
        stop = page_end(first, end)
        if not view.pages[first >> PAGE_ENTRIES_SHIFT]:
            first = stop
            continue
        while first < stop:
            number = min(stop - first, <uint64_t>BATCH_ENTRIES)
            count_page(&view.entries[first], number, columns, counts, rows)
            first += number


def count_pointers(
    Tables tables not None, BlockMap block_map not None, uint64_t first, uint64_t end, uint32_t[::1] counts not None
):
    cdef uint64_t rows = min(<uint64_t>counts.shape[0], tables.columns.capacity)
    if not rows:
        return
    with nogil:
        count_map(&block_map.view, first, end, &tables.columns, &counts[0], rows)


def count_patches(Tables tables not None, uint64_t first, uint64_t end, uint32_t[::1] dependents not None):
    cdef const Columns* columns = &tables.columns
    cdef uint64_t row, rows = dependents.shape[0]
    cdef uint32_t base
    end = min(end, columns.capacity)
    with nogil:
        for row in range(first, end):
            if row + AHEAD_ROWS < end and is_patch(load_64(&columns.where[row + AHEAD_ROWS])):
                base = load_32(&columns.reference[row + AHEAD_ROWS])
                if base < rows:
                    bs_prefetch(&dependents[base])
            if is_patch(load_64(&columns.where[row])):
                base = load_32(&columns.reference[row])
                if base < rows:
                    dependents[base] += 1


def compare_counts(
    Tables tables not None,
    uint64_t first,
    const uint32_t[::1] counts not None,
    const uint32_t[::1] dependents not None,
    const uint8_t[::1] changed_rows not None,
    uint8_t[::1] verdicts not None,
):
    cdef const Columns* columns = &tables.columns
    cdef uint64_t found = 0, end = first + <uint64_t>verdicts.shape[0], row
    cdef uint64_t rows = min(
        columns.capacity,
        min(<uint64_t>counts.shape[0], min(<uint64_t>dependents.shape[0], <uint64_t>changed_rows.shape[0])),
    )
    cdef uint8_t verdict
    if first > end or end > rows:
        raise ValueError(f"rows {first} to {end} of {rows}")
    with nogil:
        for row in range(first, end):
            verdict = 0
            if not changed_rows[row]:
                if load_32(&columns.count[row]) != counts[row] or load_16(&columns.dependents[row]) != dependents[row]:
                    verdict = FLAG_OTHER_COUNTS
                if load_64(&columns.where[row]) and not counts[row] and not dependents[row]:
                    verdict |= FLAG_ORPHAN
            verdicts[row - first] = verdict
            found += verdict != 0
    return found


cdef inline bint is_in_piece(uint64_t where, uint64_t piece) noexcept nogil:
    return is_paged(where) and where >> WHERE_SEGMENT_SHIFT & PIECE_MASK == piece


cdef bint needs_piece(const Columns* columns, uint64_t row, uint64_t piece) noexcept nogil:
    cdef uint64_t where = load_64(&columns.where[row])
    cdef uint32_t base
    if is_in_piece(where, piece):
        return True
    if not is_patch(where):
        return False
    base = load_32(&columns.reference[row])
    return base < columns.capacity and is_in_piece(load_64(&columns.where[base]), piece)


def rows_that_need(Tables tables not None, uint64_t piece, uint64_t first, uint32_t[::1] found not None):
    cdef const Columns* columns = &tables.columns
    cdef uint64_t end = first + <uint64_t>found.shape[0], row, count = 0
    cdef uint32_t base
    if first > end or end > columns.capacity:
        raise ValueError(f"rows {first} to {end} of {columns.capacity}")
    with nogil:
        for row in range(first, end):
            if row + AHEAD_ROWS < end and is_patch(load_64(&columns.where[row + AHEAD_ROWS])):
                base = load_32(&columns.reference[row + AHEAD_ROWS])
                if base < columns.capacity:
                    bs_prefetch(&columns.where[base])
            if needs_piece(columns, row, piece):
                found[count] = <uint32_t>row
                count += 1
    return count
