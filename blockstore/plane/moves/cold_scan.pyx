"""Rows that a pass of re-encoding is to try. See cold_scan.pyi.

Rows change while they are looked at: what is found is only a list of those to look at again. Any word may be damaged.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from blockstore.plane.codec.layout cimport (
    FIRST_ROW,
    WHERE_SEGMENT_SHIFT,
    encoding_of,
    is_paged,
    is_patch,
    needs_dictionary,
    size_of,
)
from blockstore.plane.moves.cold_segments cimport ColdSegments, is_cold
from blockstore.plane.sync.atomics cimport load_16, load_32, load_64, load_pointer
from blockstore.plane.tables.content_index cimport bs_prefetch
from blockstore.plane.tables.tables cimport Columns, Tables, decoder_of

cdef enum:
    # Rows ahead, of which the reference is asked of memory.
    AHEAD_ROWS = 16


cdef uint32_t spared_bytes(const Columns* columns, uint32_t reference) noexcept nogil:
    cdef uint64_t where
    if reference < FIRST_ROW or reference >= load_64(&columns.capacity):
        return 0
    if load_32(&columns.count[reference]) or load_16(&columns.dependents[reference]) != 1:
        return 0
    where = load_64(&columns.where[reference])
    return 0 if is_paged(where) else size_of(where)


cdef bint leaves_dictionary(const Columns* columns, uint64_t row, uint64_t where) noexcept nogil:
    """Whether the record needs a dictionary with which nothing is encoded any more."""
    return (
        needs_dictionary(encoding_of(where))
        and columns.dictionaries != NULL
        and load_pointer(&columns.dictionaries[load_16(&columns.domain[row])].current)
        != <void*>decoder_of(columns, row, where)
    )


cdef class ColdScan:
    def __cinit__(
        self,
        Tables tables not None,
        ColdSegments segments not None,
        uint64_t rows_a_step,
        *,
        uint32_t minimum_bytes,
        double lone_share,
    ):
        if not 0 < rows_a_step <= 1 << 24:
            raise ValueError(f"{rows_a_step} rows a step")
        self.rows = <uint32_t*>malloc(rows_a_step * sizeof(uint32_t))
        if self.rows == NULL:
            raise MemoryError(f"no memory for a list of {rows_a_step} rows")
        self.tables, self.segments = tables, segments
        self.rows_a_step, self.minimum_bytes, self.lone_share = rows_a_step, minimum_bytes, lone_share
        self.begin(0)

    def __dealloc__(self):
        free(self.rows)

    @property
    def pending(self):
        return self.end - self.first

    def begin(self, uint32_t encodings):
        self.encodings = encodings
        self.scanned = FIRST_ROW
        self.first = self.end = 0

    def step(self):
        cdef uint64_t capacity = load_64(&self.tables.columns.capacity)
        if self.first != self.end:
            raise ValueError(f"{self.end - self.first} rows are still to be taken")
        if self.scanned >= capacity:
            return False
        with nogil:
            self.look(min(self.scanned + self.rows_a_step, capacity))
        return True

    def numbers(self):
        return [self.rows[place] for place in range(self.first, self.end)]

    cdef void look(self, uint64_t end) noexcept nogil:
        cdef const Columns* columns = &self.tables.columns
        cdef uint64_t row
        cdef uint32_t reference
        self.first = self.end = 0
        for row in range(self.scanned, end):
            if row + AHEAD_ROWS < end and is_patch(load_64(&columns.where[row + AHEAD_ROWS])):
                reference = load_32(&columns.reference[row + AHEAD_ROWS])
                if reference < columns.capacity:
                    bs_prefetch(&columns.count[reference])
                    bs_prefetch(&columns.dependents[reference])
            if self.is_wanted(columns, row):
                self.rows[self.end] = <uint32_t>row
                self.end += 1
        self.scanned = end

    cdef bint is_wanted(self, const Columns* columns, uint64_t row) noexcept nogil:
        cdef uint64_t where = load_64(&columns.where[row])
        cdef uint32_t spared
        if is_paged(where) or (size_of(where) < self.minimum_bytes and not leaves_dictionary(columns, row, where)):
            return False
        # A limit that was raised since has made segments that are not cold.
        if is_tried(self.encodings, encoding_of(where)) and is_cold(self.segments, where >> WHERE_SEGMENT_SHIFT):
            return True
        if not is_patch(where):
            return False
        spared = spared_bytes(columns, load_32(&columns.reference[row]))
        return spared and size_of(where) >= self.lone_share * spared

    cdef uint32_t take(self) noexcept nogil:
        if self.first == self.end:
            return 0
        self.first += 1
        return self.rows[self.first - 1]

    cdef void put_back(self, uint32_t row) noexcept nogil:
        if self.first:
            self.first -= 1
            self.rows[self.first] = row
        elif self.end < self.rows_a_step:
            self.rows[self.end] = row
            self.end += 1
