"""Records that move together between the pool and the tier. See record_batch.pyi."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from blockstore.plane.codec.layout cimport (
    OFFSET_SHIFT,
    PIECE_MASK,
    SEGMENT_BYTES,
    WHERE_SEGMENT_SHIFT,
    is_paged,
    offset_of,
    size_of,
)
from blockstore.plane.moves.placed_rows cimport Listed, PlacedRows, PlaceTable, is_placed
from blockstore.plane.moves.publish cimport (
    Chunk,
    add_record,
    copy_record,
    publish_chunk,
    publish_word,
    room_for_chunk,
)
from blockstore.plane.sync.atomics cimport load_64, load_pointer
from blockstore.plane.sync.epochs cimport Epochs, enter_epoch, leave_epoch
from blockstore.plane.tables.log cimport APPENDED, Log, LogState, can_let_go
from blockstore.plane.tables.tables cimport Columns

cdef extern from *:
    """
    #define PAGED_BIT (UINT64_C(1) << 63)
    """
    const uint64_t PAGED_BIT

cdef enum:
    BELOW_OFFSET = (1 << OFFSET_SHIFT) - 1


@cython.no_gc_clear  # the epochs must be there until it has left them; nothing here can be part of a cycle
cdef class RecordBatch:
    def __cinit__(
        self, Log log not None, Epochs epochs not None, PlacedRows placed not None, const int64_t[::1] pieces not None,
        int64_t mended, uint32_t most_rows, uint64_t most_bytes,
    ):
        cdef Generations generations = generations_of(log, pieces)
        self.tables, self.log, self.epochs, self.mended, self.data = placed.tables, log, epochs, mended, b""
        if most_bytes > SEGMENT_BYTES:
            raise ValueError(f"a batch of {most_bytes} bytes; a segment has {SEGMENT_BYTES}")
        most_rows = <uint32_t>min(<uint64_t>most_rows, placed.listed.end - placed.listed.next)
        self.picked = <Picked*>malloc(max(most_rows, <uint32_t>1) * sizeof(Picked))
        if self.picked == NULL:
            raise MemoryError("no memory to note what is to be moved")
        with nogil:
            self.count = pick(
                &placed.tables.columns, &placed.places, &placed.listed, &generations, most_rows, most_bytes, self.picked
            )
            if self.count:
                self.slot = enter_epoch(&epochs.state)
                self.is_inside = True

    def __dealloc__(self):
        self.leave()
        free(self.picked)

    cdef void leave(self) noexcept:
        if self.is_inside:
            leave_epoch(&self.epochs.state, self.slot)
        self.is_inside = False

    def __len__(self):
        return self.count

    @property
    def size_bytes(self):
        return size_of_all(self.picked, self.count)

    def gather(self, contents):
        cdef uint32_t first = 0, end
        cdef bytes data
        if not self.is_inside:
            return
        try:
            data = PyBytes_FromStringAndSize(NULL, size_of_all(self.picked, self.count))
            while first < self.count:
                end = end_of_run(self.picked, first, self.count)
                self.gather_run(first, end, contents, <uint8_t*>PyBytes_AS_STRING(data))
                first = end
            self.data = data
        finally:
            self.leave()

    cdef int gather_run(self, uint32_t first, uint32_t end, object contents, uint8_t* target) except -1:
        """Gathers records that lie in the pool, or in one piece."""
        cdef Columns* columns = &self.tables.columns
        cdef const uint8_t* source
        cdef uint64_t source_bytes, mask = UINT64_MAX
        cdef bytes content
        if is_paged(self.picked[first].where):
            content = contents[self.picked[first].where >> WHERE_SEGMENT_SHIFT]
            source, source_bytes = <const uint8_t*>PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content)
            mask = SEGMENT_BYTES - 1
        else:  # it may get longer meanwhile: its length is published last
            source_bytes = load_64(&columns.pool_bytes)
            source = <const uint8_t*>load_pointer(&columns.pool)
        with nogil:
            copy_run(&self.picked[first], end - first, source, source_bytes, mask, target)
        return 0

    def drop_changed(self, const int64_t[::1] pieces not None, int64_t mended):
        cdef Generations generations = generations_of(self.log, pieces)
        if self.is_inside:
            raise ValueError("what was picked was not gathered")
        if mended != self.mended:
            self.count = 0
        with nogil:
            self.count = keep_unchanged(&self.tables.columns, &generations, self.picked, self.count)

    def publish(self, uint64_t piece):
        self.check()
        if piece > PIECE_MASK:
            raise ValueError(f"there can be no piece {piece}")
        with nogil:
            publish_in_piece(&self.tables.columns, &self.log.state, self.picked, self.count, piece)

    def publish_back(self):
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self.data)
        cdef Chunk* chunk
        cdef bint is_done
        self.check()
        chunk = <Chunk*>malloc(sizeof(Chunk))
        if chunk == NULL:
            raise MemoryError("no memory to copy records")
        with nogil:
            is_done = append_all(
                &self.tables.columns, &self.log.state, self.picked, self.count, data, chunk
            )
        free(chunk)
        return is_done

    cdef int check(self) except -1:
        """Raises ValueError when the batch may not be published now."""
        if self.is_inside:
            raise ValueError("what was picked was not gathered")
        if not can_let_go(&self.log.state, self.count):
            raise ValueError(f"{self.count} records at once, or nobody has taken back what was let go")
        return 0


cdef Generations generations_of(Log log, const int64_t[::1] pieces) noexcept:
    cdef Generations generations
    generations.segments, generations.segment_count = log.state.generation, log.state.segments
    generations.pieces = &pieces[0] if pieces.shape[0] else NULL
    generations.piece_count = pieces.shape[0]
    return generations


cdef bint has_generation(const Generations* generations, uint64_t where, int64_t* generation) noexcept nogil:
    """Finds the generation of a place. Returns False for a place that there cannot be."""
    cdef uint64_t place = where >> WHERE_SEGMENT_SHIFT
    if is_paged(where):
        place &= PIECE_MASK
        if place < generations.piece_count:
            generation[0] = generations.pieces[place]
        return place < generations.piece_count
    if place < generations.segment_count:
        generation[0] = generations.segments[place]
    return place < generations.segment_count


cdef uint32_t pick(
    const Columns* columns, const PlaceTable* places, Listed* listed, const Generations* generations,
    uint32_t most_rows, uint64_t most_bytes, Picked* picked,
) noexcept nogil:
    """Takes rows of the list. Returns how many were picked."""
    cdef uint64_t where, size_bytes = 0, end = listed.next + most_rows
    cdef int64_t generation = 0
    cdef uint32_t row, count = 0
    while listed.next < end:
        row = listed.rows[listed.next]
        where = columns.where[row] if row < columns.capacity else 0
        if is_placed(places, where) and size_of(where) and has_generation(generations, where, &generation):
            if size_bytes + size_of(where) > most_bytes:
                break
            picked[count] = Picked(where, generation, row, <uint32_t>size_bytes)
            size_bytes += size_of(where)
            count += 1
        listed.next += 1
    return count


cdef uint32_t end_of_run(const Picked* picked, uint32_t first, uint32_t count) noexcept nogil:
    """Returns behind which record those end that lie in the pool, as the first one does, or in the same piece."""
    cdef uint64_t place = picked[first].where >> WHERE_SEGMENT_SHIFT
    cdef bint is_in_pool = not is_paged(picked[first].where)
    cdef uint32_t end = first + 1
    while end < count and (
        not is_paged(picked[end].where) if is_in_pool else picked[end].where >> WHERE_SEGMENT_SHIFT == place
    ):
        end += 1
    return end


cdef void copy_run(
    const Picked* picked, uint32_t count, const uint8_t* source, uint64_t source_bytes, uint64_t mask, uint8_t* target
) noexcept nogil:
    cdef uint64_t offset
    cdef uint32_t number
    for number in range(count):
        offset = min(offset_of(picked[number].where) & mask, source_bytes)
        copy_record(target + picked[number].start, size_of(picked[number].where), source + offset, source_bytes - offset)


cdef uint64_t size_of_all(const Picked* picked, uint32_t count) noexcept nogil:
    cdef uint64_t size_bytes = 0
    cdef uint32_t number
    for number in range(count):
        size_bytes += size_of(picked[number].where)
    return size_bytes


cdef uint32_t keep_unchanged(
    const Columns* columns, const Generations* generations, Picked* picked, uint32_t count
) noexcept nogil:
    """Moves what is still what was picked to the front. Returns how many that are."""
    cdef uint32_t number, kept = 0
    cdef int64_t generation = 0
    for number in range(count):
        if (
            picked[number].row < columns.capacity
            and columns.where[picked[number].row] == picked[number].where
            and has_generation(generations, picked[number].where, &generation)
            and generation == picked[number].generation
        ):
            picked[kept] = picked[number]
            kept += 1
    return kept


cdef void publish_in_piece(
    Columns* columns, LogState* log, const Picked* picked, uint32_t count, uint64_t piece
) noexcept nogil:
    cdef uint64_t before, after
    cdef uint32_t number
    for number in range(count):
        before = picked[number].where
        after = PAGED_BIT | piece << WHERE_SEGMENT_SHIFT | <uint64_t>picked[number].start << OFFSET_SHIFT
        publish_word(columns, log, picked[number].row, before, after | before & BELOW_OFFSET)


cdef bint append_all(
    Columns* columns, LogState* log, const Picked* picked, uint32_t count, const uint8_t* data, Chunk* chunk
) noexcept nogil:
    """Appends the records, a chunk at a time. Returns whether there was room for all."""
    cdef uint32_t first = 0, number
    cdef uint64_t most_bytes
    log.error = 0
    while first < count:
        chunk.count, chunk.size_bytes, number, most_bytes = 0, 0, first, room_for_chunk(log)
        while number < count and add_record(
            chunk, most_bytes, picked[number].row, picked[number].where, data + picked[number].start, SEGMENT_BYTES
        ):
            number += 1
        if number == first or publish_chunk(columns, log, chunk) != APPENDED:
            return False
        first = number
    return True
