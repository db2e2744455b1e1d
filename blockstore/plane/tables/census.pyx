"""What the blocks of a map and the records of rows are, counted by kind. See census.pyi.

Any word may be damaged: an id is compared with the number of rows before it is used.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from blockstore.plane.codec.layout cimport (
    COMPRESSED,
    DUE,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    PATCHED,
    ZERO_ENTRY,
    encoding_of,
    is_dense,
    is_paged,
    size_of,
)
from blockstore.plane.sync.atomics cimport load_16, load_32, load_64
from blockstore.plane.tables.block_map cimport PAGE_ENTRIES_SHIFT, BlockMap, MapView, page_end
from blockstore.plane.tables.content_index cimport bs_prefetch
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum:
    # Map entries whose rows are asked of memory before the first of them is looked at.
    BATCH_ENTRIES = 64

    # The classes of blocks, in the order of CLASSES (store/accounting/classes.py). A record is of the class of its
    # row's blocks: its place in RECORDS is one less, for zeros have none.
    ZEROS = 0
    SHARED = 1
    PATCH = 2
    LZ4 = 3
    ZSTD = 4
    PLAIN = 5
    IN_TIER = 6
    CLASSES = 7

    REFERENCES = 6
    RECORDS = 7

    ENCODINGS = 8


cdef inline int class_of(uint64_t where, uint32_t count) noexcept nogil:
    """Returns the class of the blocks of a row."""
    cdef int encoding = encoding_of(where)
    if is_paged(where):
        return IN_TIER
    if count > 1:
        return SHARED
    if encoding == COMPRESSED:
        return LZ4
    if encoding == PATCHED:
        return PATCH
    if is_dense(encoding):
        return ZSTD
    return PLAIN


cdef void count_entry(
    uint64_t entry, const Columns* columns, uint64_t capacity, int64_t* blocks, double* paid_bytes
) noexcept nogil:
    cdef uint64_t row = entry & ID_MASK, where
    cdef uint32_t count
    cdef int kind
    if entry == HOLE:
        return
    if row < FIRST_ROW or row >= capacity:
        # A lost block, or a damaged entry: it was written, but nothing keeps it.
        blocks[ZEROS if entry == ZERO_ENTRY else IN_TIER if row == DUE else PLAIN] += 1
        return
    where, count = load_64(&columns.where[row]), load_32(&columns.count[row])
    kind = class_of(where, count)
    blocks[kind] += 1
    paid_bytes[kind - SHARED] += <double>size_of(where) / max(count, <uint32_t>1)


cdef void count_batch(
    const uint64_t* entries, uint64_t number, const Columns* columns, int64_t* blocks, double* paid_bytes
) noexcept nogil:
    cdef uint64_t capacity = columns.capacity, place, row
    for place in range(number):
        row = load_64(&entries[place]) & ID_MASK
        if FIRST_ROW <= row < capacity:
            bs_prefetch(&columns.where[row])
            bs_prefetch(&columns.count[row])
    for place in range(number):
        count_entry(load_64(&entries[place]), columns, capacity, blocks, paid_bytes)


cdef uint64_t count_map(
    const MapView* view,
    uint64_t first,
    uint64_t end,
    uint64_t most_entries,
    const Columns* columns,
    int64_t* blocks,
    double* paid_bytes,
) noexcept nogil:
    cdef uint64_t mapped = min(end, view.capacity), left = most_entries, stop, number
    while first < mapped:
        stop = page_end(first, mapped)
        if not view.pages[first >> PAGE_ENTRIES_SHIFT]:
            first = stop
            continue
        while first < stop:
            if not left:
                return first
            number = min(min(stop - first, left), <uint64_t>BATCH_ENTRIES)
            count_batch(&view.entries[first], number, columns, blocks, paid_bytes)
            first += number
            left -= number
    return end


def count_blocks(
    Tables tables not None,
    BlockMap block_map not None,
    uint64_t first,
    uint64_t end,
    uint64_t most_entries,
    int64_t[::1] blocks not None,
    double[::1] paid_bytes not None,
):
    cdef uint64_t following
    if blocks.shape[0] != CLASSES or paid_bytes.shape[0] != RECORDS:
        raise ValueError(f"{blocks.shape[0]} classes of blocks and {paid_bytes.shape[0]} of records")
    with nogil:
        following = count_map(
            &block_map.view, first, end, most_entries, &tables.columns, &blocks[0], &paid_bytes[0]
        )
    return following


def count_record_bytes(Tables tables not None, uint64_t first, uint64_t end, int64_t[::1] record_bytes not None):
    cdef const Columns* columns = &tables.columns
    cdef uint64_t row, where
    cdef uint32_t count
    if record_bytes.shape[0] != RECORDS:
        raise ValueError(f"{record_bytes.shape[0]} classes of records")
    end = min(end, columns.capacity)
    with nogil:
        for row in range(max(first, <uint64_t>FIRST_ROW), end):
            where = load_64(&columns.where[row])
            if where == 0:
                continue
            count = load_32(&columns.count[row])
            if count == 0 and not is_paged(where):
                record_bytes[REFERENCES] += size_of(where)
            else:
                record_bytes[class_of(where, count) - SHARED] += size_of(where)


def count_encodings(Tables tables not None, uint64_t first, uint64_t end, int64_t[::1] rows not None):
    cdef const Columns* columns = &tables.columns
    cdef uint64_t row, where, place
    cdef uint64_t places = rows.shape[0]
    end = min(end, load_64(&columns.capacity))
    with nogil:
        for row in range(max(first, <uint64_t>FIRST_ROW), end):
            where = load_64(&columns.where[row])
            place = ENCODINGS * load_16(&columns.domain[row]) + encoding_of(where)
            if where and place < places:
                rows[place] += 1
