"""What the blocks of a map and the records of rows are, counted by kind. See census.pyi.

Any word may be damaged: an id is compared with the number of rows before it is used.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

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
    is_patch,
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

    # In a word of RowUsers: a VM needs the row; the rest counts the map entries of snapshots that point at it.
    NEEDED = 0x80000000
    ENTRIES_MASK = 0x7FFFFFFF

cdef struct Users:
    # A word for each row; none if there are no snapshots.
    uint32_t* words
    uint64_t rows


cdef class RowUsers:
    cdef Users users

    def __cinit__(self, uint64_t rows):
        self.users.words = <uint32_t*>calloc(max(rows, <uint64_t>1), sizeof(uint32_t))
        if self.users.words == NULL:
            raise MemoryError
        self.users.rows = rows

    def __dealloc__(self):
        free(self.users.words)


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


cdef inline uint32_t entries_of_snapshots(const Users* users, uint64_t row) noexcept nogil:
    """Returns how many map entries of snapshots point at a row."""
    return users.words[row] & ENTRIES_MASK if row < users.rows else 0


cdef inline void note_needed(Users* users, uint64_t row) noexcept nogil:
    if FIRST_ROW <= row < users.rows:
        users.words[row] |= NEEDED


cdef void note_snapshot_entry(uint64_t entry, Users* users) noexcept nogil:
    cdef uint64_t row = entry & ID_MASK
    if entry != HOLE and FIRST_ROW <= row < users.rows and users.words[row] < ENTRIES_MASK:
        users.words[row] += 1


cdef void count_entry(
    uint64_t entry, const Columns* columns, uint64_t capacity, Users* users, int64_t* blocks, double* paid_bytes
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
    if users.rows:
        # As if there were no snapshots: what only they share with a VM is that VM's alone.
        count -= min(count, entries_of_snapshots(users, row))
        note_needed(users, row)
        if is_patch(where):
            note_needed(users, load_32(&columns.reference[row]))
    kind = class_of(where, count)
    blocks[kind] += 1
    paid_bytes[kind - SHARED] += <double>size_of(where) / max(count, <uint32_t>1)


cdef void count_batch(
    const uint64_t* entries, uint64_t number, const Columns* columns, Users* users, int64_t* blocks, double* paid_bytes
) noexcept nogil:
    cdef uint64_t capacity = columns.capacity, place, row
    for place in range(number):
        row = load_64(&entries[place]) & ID_MASK
        if FIRST_ROW <= row < capacity:
            bs_prefetch(&columns.where[row])
            bs_prefetch(&columns.count[row])
        if row < users.rows:
            bs_prefetch(&users.words[row])
    for place in range(number):
        count_entry(load_64(&entries[place]), columns, capacity, users, blocks, paid_bytes)


cdef void note_batch(const uint64_t* entries, uint64_t number, Users* users) noexcept nogil:
    cdef uint64_t place, row
    for place in range(number):
        row = load_64(&entries[place]) & ID_MASK
        if row < users.rows:
            bs_prefetch(&users.words[row])
    for place in range(number):
        note_snapshot_entry(load_64(&entries[place]), users)


cdef uint64_t count_map(
    const MapView* view,
    uint64_t first,
    uint64_t end,
    uint64_t most_entries,
    const Columns* columns,
    Users* users,
    int64_t* blocks,
    double* paid_bytes,
) noexcept nogil:
    """Notes what points at rows in `users`, of a snapshot, where there is nothing to count in (`blocks` is NULL)."""
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
            if blocks == NULL:
                note_batch(&view.entries[first], number, users)
            else:
                count_batch(&view.entries[first], number, columns, users, blocks, paid_bytes)
            first += number
            left -= number
    return end


def count_snapshot_entries(
    BlockMap block_map not None, uint64_t first, uint64_t end, uint64_t most_entries, RowUsers users not None
):
    cdef uint64_t following
    with nogil:
        following = count_map(&block_map.view, first, end, most_entries, NULL, &users.users, NULL, NULL)
    return following


def count_blocks(
    Tables tables not None,
    BlockMap block_map not None,
    uint64_t first,
    uint64_t end,
    uint64_t most_entries,
    int64_t[::1] blocks not None,
    double[::1] paid_bytes not None,
    RowUsers users=None,
):
    cdef Users nobody = Users(NULL, 0)
    cdef Users* of_rows = &nobody if users is None else &users.users
    cdef uint64_t following
    if blocks.shape[0] != CLASSES or paid_bytes.shape[0] != RECORDS:
        raise ValueError(f"{blocks.shape[0]} classes of blocks and {paid_bytes.shape[0]} of records")
    with nogil:
        following = count_map(
            &block_map.view, first, end, most_entries, &tables.columns, of_rows, &blocks[0], &paid_bytes[0]
        )
    return following


def count_record_bytes(
    Tables tables not None,
    uint64_t first,
    uint64_t end,
    int64_t[::1] record_bytes not None,
    RowUsers users=None,
    int64_t[::1] snapshot_bytes=None,
):
    cdef const Columns* columns = &tables.columns
    cdef Users nobody = Users(NULL, 0)
    cdef Users* of_rows = &nobody if users is None else &users.users
    cdef int64_t* of_snapshots = NULL
    cdef int64_t rows = 0
    cdef uint64_t row
    if record_bytes.shape[0] != RECORDS:
        raise ValueError(f"{record_bytes.shape[0]} classes of records")
    if users is not None:
        if snapshot_bytes is None or snapshot_bytes.shape[0] != RECORDS:
            raise ValueError("with users of rows as many sums for snapshots as there are classes of records")
        of_snapshots = &snapshot_bytes[0]
    end = min(end, columns.capacity)
    with nogil:
        for row in range(max(first, <uint64_t>FIRST_ROW), end):
            rows += count_record(columns, row, of_rows, &record_bytes[0], of_snapshots)
    return rows


cdef bint count_record(
    const Columns* columns, uint64_t row, const Users* users, int64_t* record_bytes, int64_t* snapshot_bytes
) noexcept nogil:
    """Adds the bytes of a row's record to its class. Returns whether only snapshots need it."""
    cdef uint64_t where = load_64(&columns.where[row])
    cdef uint32_t count
    cdef bint is_needed
    if where == 0:
        return False
    count = load_32(&columns.count[row])
    # What is younger than the users is no snapshot's; of the others it is a VM's what a VM needs, or what has users
    # that are no snapshots: they came while this was counted.
    is_needed = row >= users.rows or users.words[row] & NEEDED or count > entries_of_snapshots(users, row)
    if is_needed:
        count -= min(count, entries_of_snapshots(users, row))
    (record_bytes if is_needed else snapshot_bytes)[
        REFERENCES if count == 0 and not is_paged(where) else class_of(where, count) - SHARED
    ] += size_of(where)
    return not is_needed


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
