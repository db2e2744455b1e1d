"""What changes tables that are shared with the next process: commit of a batch, and counts of rows. See commit.pyi.

The order of stores is part of the format: a row's word comes after its other columns, the indexes after the row, map
entries after the indexes, and only then are the rows let go that they replace. Each is one atomic store.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from blockstore.plane.sync.atomics cimport POINT, publish_16, publish_32, publish_64, store_64
from blockstore.plane.tables.block_map cimport BlockMap, MapView, give_memory
from blockstore.plane.sync.clock cimport CLOCK_REALTIME, now_ns
from blockstore.plane.tables.content_index cimport insert
from blockstore.plane.blocks.encode cimport Batch, Content
from blockstore.plane.tables.free_rows cimport (
    ChangedRows,
    FreeRows,
    free_row,
    mark,
    rows_in_use,
    rows_left,
    take_row,
)
from blockstore.plane.codec.layout cimport (
    CHECK_SHIFT,
    FIRST_ROW,
    ID_MASK,
    OFFSET_SHIFT,
    PATCHED,
    SIZE_SHIFT,
    ZERO,
    ZERO_ENTRY,
    is_patch,
)
from blockstore.plane.sync.lock cimport StoreLock
from blockstore.plane.tables.log cimport (
    APPENDED,
    LET_GO,
    Log,
    Placed,
    append_records,
    can_let_go,
    fits_head,
    is_within_limit,
    let_go_of,
)
from blockstore.plane.tables.similarity_index cimport enter_features
from blockstore.plane.tables.tables cimport Columns, Tables


cdef extern from *:
    """
    #define SIZE_BITS 45 /* store/volume.py */
    #define SIZE_MIX UINT64_C(0x9E3779B97F4A7C15)
    """
    const int SIZE_BITS
    const uint64_t SIZE_MIX

include "../sync/points.pxi"

# What commit says.
COMMITTED = OUTCOME_COMMITTED
STALE = OUTCOME_STALE
NEEDS_PYTHON = OUTCOME_NEEDS_PYTHON
DROPPED = OUTCOME_DROPPED


cdef class Commit:
    def __cinit__(
        self, Tables tables not None, FreeRows free_rows not None, ChangedRows changed not None, Log log not None
    ):
        self.tables, self.free_rows, self.changed, self.log = tables, free_rows, changed, log
        self.books = Books(&tables.columns, &free_rows.stack, &changed.state, &log.state)

    def commit(self, Batch batch not None, targets, int reserved_segments, *, bint is_reserved=False):
        cdef Target* target
        cdef BlockMap block_map
        cdef int outcome
        cdef uint64_t blocks = 0
        if batch.tables is not self.tables:
            raise ValueError("a batch of another store")
        if not 0 < len(targets) <= batch.blocks:
            raise ValueError(f"{batch.blocks} blocks for {len(targets)} places")
        target = <Target*>malloc(len(targets) * sizeof(Target))
        if target == NULL:
            raise MemoryError("no memory to commit a batch")
        try:
            for number, (block_map, first, count) in enumerate(targets):
                target[number] = Target(&block_map.view, first, count)
                blocks += target[number].count
            if blocks != <uint64_t>batch.blocks:
                raise ValueError(f"{batch.blocks} blocks for places of {blocks}")
            outcome = commit_batch(&self.books, batch, target, <int>len(targets), reserved_segments, is_reserved)
        finally:
            free(target)
        return outcome

    def write(
        self, Batch batch not None, BlockMap block_map not None, uint64_t first, uint64_t end_bytes,
        int reserved_segments, StoreLock lock,
    ):
        cdef int outcome
        if batch.tables is not self.tables or not batch.blocks:
            raise ValueError("a batch of another store, or an empty one")
        with nogil:
            outcome = write_blocks(&self.books, batch, &block_map.view, first, end_bytes, reserved_segments, lock)
        return outcome

    cdef int check_room(self, uint64_t rows) except -1:
        if rows > LET_GO or not can_let_go(self.books.log, rows):
            raise ValueError(f"{rows} of them at once, or nobody has taken back what was let go")
        return 0


cdef Outcome commit_batch(
    Books* books, Batch batch, const Target* targets, int count, int reserved_segments, bint is_reserved
) noexcept nogil:
    cdef Placed placed
    cdef int number
    if not batch.is_current():
        return OUTCOME_STALE
    if not can_let_go(books.log, batch.blocks):
        return OUTCOME_NEEDS_PYTHON
    for number in range(count):
        if give_memory(targets[number].view, targets[number].first, targets[number].count):
            return OUTCOME_NEEDS_PYTHON
    if batch.contents:
        if not has_room(books, batch, reserved_segments, is_reserved):
            return OUTCOME_NEEDS_PYTHON
        if append_records(books.log, batch.record_buffer, batch.record_ends, batch.contents, &placed) != APPENDED:
            return OUTCOME_NEEDS_PYTHON
        fill_rows(books, batch, &placed)
    batch.published = 0
    for number in range(count):
        publish_entries(books, batch, &targets[number])
    drop_entries(books, batch.old_entries, batch.published)
    return OUTCOME_COMMITTED


cdef Outcome write_blocks(
    Books* books, Batch batch, MapView* view, uint64_t first, uint64_t end_bytes, int reserved_segments, StoreLock lock
) noexcept nogil:
    cdef Outcome outcome
    batch.encode_without_lock()
    if lock is not None:
        lock.acquire()
    outcome = commit_write(books, batch, view, first, end_bytes, reserved_segments)
    if lock is not None:
        lock.release()
    return outcome


cdef Outcome commit_write(
    Books* books, Batch batch, MapView* view, uint64_t first, uint64_t end_bytes, int reserved_segments
) noexcept nogil:
    cdef Target target
    cdef Outcome outcome
    if view.is_deleted or view.domain != batch.domain:  # meanwhile: nobody can read what would be written
        return OUTCOME_DROPPED
    if view.size_word == NULL or view.has_paged_tail:
        return OUTCOME_NEEDS_PYTHON
    target = Target(view, first, batch.blocks)
    outcome = commit_batch(books, batch, &target, 1, reserved_segments, False)
    if outcome == OUTCOME_STALE:
        batch.encode_all()  # nothing can change now
        outcome = commit_batch(books, batch, &target, 1, reserved_segments, False)
    if outcome != OUTCOME_COMMITTED:
        return OUTCOME_NEEDS_PYTHON
    if end_bytes > view.size_bytes:
        publish_size(view, end_bytes)
    publish_64(&view.size_word[1], <uint64_t>now_ns(CLOCK_REALTIME))
    return outcome


cdef void publish_size(MapView* view, uint64_t size_bytes) noexcept nogil:
    publish_64(view.size_word, size_bytes | (size_bytes + 1) * SIZE_MIX >> SIZE_BITS << SIZE_BITS)
    store_64(&view.size_bytes, size_bytes)


cdef bint has_room(const Books* books, Batch batch, int reserved_segments, bint is_reserved) noexcept nogil:
    """Returns whether rows, indexes and the log have room for the contents of the batch. `is_reserved`: both indexes
    have, which may be fuller than they should be."""
    cdef uint64_t bytes = batch.record_bytes
    if rows_left(books.free_rows) < <uint64_t>batch.contents or books.free_rows.capacity > books.columns.capacity:
        return False
    if not is_reserved and not (
        batch.index.has_room(batch.contents)
        and batch.similarity.make_room(batch.featured, rows_in_use(books.free_rows))
    ):
        return False
    return is_within_limit(books.log, reserved_segments) and (fits_head(books.log, bytes) or books.log.spare >= 0)


cdef void fill_rows(Books* books, Batch batch, const Placed* placed) noexcept nogil:
    """Fills rows that nothing points at, one for each content, and enters them in both indexes."""
    cdef Columns* columns = books.columns
    cdef int number
    cdef uint32_t row
    cdef uint64_t offset = placed.first
    cdef Content* content
    for number in range(batch.contents):
        batch.rows[number] = take_row(books.free_rows)
    for number in range(batch.contents):
        content, row = &batch.content[number], batch.rows[number]
        if number == placed.split:
            offset = placed.second
        publish_64(&columns.digest[row], content.digest)
        publish_32(&columns.reference[row], content.reference)
        publish_16(&columns.domain[row], batch.domain)
        publish_64(&columns.where[row], offset << OFFSET_SHIFT | content.size_bytes << SIZE_SHIFT | content.encoding)
        offset += content.size_bytes
        if content.encoding == PATCHED:
            mark(books.changed, content.reference)
            publish_16(&columns.dependents[content.reference], columns.dependents[content.reference] + 1)
    for number in range(batch.contents):
        POINT()
        insert(&batch.index.slots, batch.content[number].digest, batch.rows[number])
        if batch.content[number].is_featured:
            enter_features(
                &batch.similarity.table,
                batch.content[number].features,
                batch.content[number].digest,
                batch.rows[number],
            )
            batch.similarity.entered += 1
    batch.index.charge(batch.contents)


cdef void publish_entries(Books* books, Batch batch, const Target* target) noexcept nogil:
    """Lets the next blocks of the batch be those of the target."""
    cdef uint64_t* entries = target.view.entries + target.first
    cdef int published = batch.published
    cdef uint64_t entry
    cdef uint32_t row
    cdef int number
    for number in range(<int>target.count):
        row = row_of(batch, published + number)
        if row != ZERO:
            count_entry(books, row, 1)
    for number in range(<int>target.count):
        row = row_of(batch, published + number)
        entry = ZERO_ENTRY if row == ZERO else (
            batch.block[published + number].digest >> CHECK_SHIFT << CHECK_SHIFT | row
        )
        batch.old_entries[published + number] = entries[number]
        target.view.touched_blocks += not entries[number]
        publish_64(&entries[number], entry)
    batch.published += <int>target.count


cdef inline uint32_t row_of(Batch batch, int number) noexcept nogil:
    return batch.block[number].row or batch.rows[batch.block[number].content]


cdef void acquire_entries(Books* books, const uint64_t* entries, uint64_t count) noexcept nogil:
    cdef uint64_t number
    cdef uint32_t row
    for number in range(count):
        row = row_of_entry(books.columns, entries[number])
        if row:
            count_entry(books, row, 1)


cdef void drop_entries(Books* books, const uint64_t* entries, uint64_t count) noexcept nogil:
    cdef uint64_t number
    for number in range(count):
        drop_entry(books, entries[number])


cdef uint32_t row_of_entry(const Columns* columns, uint64_t entry) noexcept nogil:
    """Returns the row of a map entry; 0 where it has none, or is damaged: its check is not that of the row."""
    cdef uint64_t row = entry & ID_MASK
    if row < FIRST_ROW or row >= columns.capacity or (entry ^ columns.digest[row]) >> CHECK_SHIFT:
        return 0
    return <uint32_t>row


cdef void count_entry(Books* books, uint32_t row, int change) noexcept nogil:
    """One map entry more or less points at a row."""
    mark(books.changed, row)
    publish_32(&books.columns.count[row], books.columns.count[row] + change)


cdef void drop_entry(Books* books, uint64_t entry) noexcept nogil:
    """A map entry is gone, and with it the row that nothing points at any more."""
    cdef uint32_t row = row_of_entry(books.columns, entry)
    if not row or not books.columns.count[row]:
        return
    count_entry(books, row, -1)
    if not books.columns.count[row] and not books.columns.dependents[row]:
        free_with_reference(books, row)


cdef void free_with_reference(Books* books, uint32_t row) noexcept nogil:
    """Frees the row, and its reference if this was the last patch against it."""
    cdef uint64_t where = books.columns.where[row]
    cdef uint32_t reference = books.columns.reference[row]
    free_one(books, row)
    if is_patch(where):
        release_reference(books, reference)


cdef void release_reference(Books* books, uint32_t reference) noexcept nogil:
    """One patch less is against this row, which is freed if nothing needs it any more."""
    cdef Columns* columns = books.columns
    if reference >= columns.capacity or not columns.dependents[reference]:
        return
    mark(books.changed, reference)
    publish_16(&columns.dependents[reference], columns.dependents[reference] - 1)
    if not columns.dependents[reference] and not columns.count[reference]:
        free_one(books, reference)  # it is never a patch itself: it ends here


cdef void free_one(Books* books, uint32_t row) noexcept nogil:
    """Its word becomes 0 first, so that nothing can find it."""
    cdef uint64_t where = books.columns.where[row]
    publish_64(&books.columns.where[row], 0)
    free_row(books.free_rows, row)
    let_go_of(books.log, where)
