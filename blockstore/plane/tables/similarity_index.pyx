"""The similarity index. See similarity_index.pyi."""

from array import array

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from blockstore.errors import OutOfRoom
from blockstore.plane.sync.atomics cimport load_8, load_32, load_64, publish_8, publish_32, publish_64
from blockstore.plane.codec.features cimport FEATURES_A_BLOCK
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum:
    FIRST = 8192
    A_ROW = 2
    # Slots by which the table grows in one step: 320 KiB of memory, which the kernel clears in some 60 us.
    STEP_SLOTS = 65536
    # Slots for each row that is entered while it grows: it is done long before it is too small again.
    SLOTS_AN_ENTRY = 64

FIRST_SLOTS = FIRST
SLOTS_PER_ROW = A_ROW


cdef uint32_t candidate(
    const HintTable* table, const Columns* columns, const uint32_t* features, uint32_t own, int* hints
) noexcept nogil:
    cdef uint32_t rows[FEATURES_A_BLOCK]
    cdef uint32_t row
    cdef uint32_t best = 0
    cdef uint64_t slot
    cdef uint64_t slots = load_64(&table.slots)
    cdef int one, other, votes
    hints[0] = 0
    if not slots:
        return 0
    for one in range(FEATURES_A_BLOCK):
        rows[one] = 0
        slot = slot_of(slots, features[one])
        row = load_32(&table.rows[slot])
        if not features[one] or not row or row == own or row >= load_64(&columns.capacity):
            continue
        if load_8(&table.tags[slot]) == tag_of(
            features[one], load_64(&columns.digest[row])
        ):
            rows[one] = row
    for one in range(FEATURES_A_BLOCK):
        if rows[one]:
            votes = 0
            for other in range(FEATURES_A_BLOCK):
                votes += rows[other] == rows[one]
            if votes > hints[0]:
                hints[0] = votes
                best = rows[one]
    return best


cdef void enter_features(HintTable* table, const uint32_t* features, uint64_t digest, uint32_t row) noexcept nogil:
    cdef uint64_t slot
    cdef int number
    for number in range(FEATURES_A_BLOCK):
        slot = slot_of(table.slots, features[number])
        publish_32(&table.rows[slot], row)
        publish_8(&table.tags[slot], tag_of(features[number], digest))


cdef void divide(HintTable* table, uint64_t slots) noexcept nogil:
    """Lets the table have so many slots, which have memory, at most twice as many as it has. A new one begins as a copy
    of that from which it takes half of the features."""
    cdef uint64_t half = bs_power_of_two(table.slots)
    memcpy(
        table.rows + table.slots, table.rows + (table.slots - half), (slots - table.slots) * sizeof(uint32_t)
    )
    memcpy(table.tags + table.slots, table.tags + (table.slots - half), slots - table.slots)
    publish_64(&table.slots, slots)


cdef class SimilarityIndex:
    def __cinit__(self, rows not None, tags not None, Tables tables not None, uint32_t most_dependents):
        self.row_array, self.tag_array, self.tables = rows, tags, tables
        self.most_dependents = most_dependents
        self.entered = self.target = 0
        rows.grow(FIRST)
        tags.grow(FIRST)
        self.bind()
        self.table.slots = min(rows.capacity, tags.capacity)

    @property
    def size_bytes(self):
        if not self.table.slots:
            return 0
        return self.row_view.shape[0] * sizeof(uint32_t) + self.tag_view.shape[0]

    @property
    def slots(self):
        return self.table.slots

    def reserve(self, uint64_t entries, uint64_t live):
        cdef uint64_t least = self.least_slots(entries, live)
        cdef uint64_t wanted
        if least > self.table.slots and least > self.target:
            self.target = 2 * bs_power_of_two(self.table.slots)
            while self.target < least:
                self.target *= 2
        wanted = self.wanted_slots(entries, least)
        try:
            while self.table.slots < wanted:
                if self.mapped <= self.table.slots:
                    self.allocate()
                self.divide_up_to(wanted)
        except OutOfRoom:
            if least > self.table.slots:
                raise

    def candidates(self, const uint32_t[:, ::1] features not None, uint32_t domain, own=None):
        cdef Py_ssize_t line
        cdef Py_ssize_t count = features.shape[0]
        cdef const uint32_t[::1] own_rows = own
        cdef int votes
        cdef uint32_t row
        if features.shape[1] != FEATURES_A_BLOCK or (own_rows is not None and own_rows.shape[0] != count):
            raise ValueError(f"features are {FEATURES_A_BLOCK} for each block, and of one row each")
        best, hints = array("I", bytes(4 * count)), array("I", bytes(4 * count))
        cdef uint32_t[::1] best_view = best
        cdef uint32_t[::1] hints_view = hints
        with nogil:
            for line in range(count):
                row = candidate(
                    &self.table,
                    &self.tables.columns,
                    &features[line, 0],
                    own_rows[line] if own_rows is not None else 0,
                    &votes,
                )
                hints_view[line] = votes
                if row and may_be_reference(&self.tables.columns, row, domain, self.most_dependents):
                    best_view[line] = row
        return best, hints

    def enter(self, const uint32_t[:, ::1] features not None, const uint32_t[::1] rows not None):
        cdef Py_ssize_t line
        if features.shape[1] != FEATURES_A_BLOCK or features.shape[0] != rows.shape[0]:
            raise ValueError(f"features are {FEATURES_A_BLOCK} for each of {rows.shape[0]} rows")
        for line in range(rows.shape[0]):
            if rows[line] >= self.tables.columns.capacity:
                raise ValueError(f"there is no row {rows[line]}")
        if not self.table.slots:
            raise ValueError("the index is closed")
        with nogil:
            for line in range(rows.shape[0]):
                enter_features(
                    &self.table, &features[line, 0], self.tables.columns.digest[rows[line]], rows[line]
                )
        self.entered += rows.shape[0]

    def close(self):
        memset(&self.table, 0, sizeof(self.table))
        self.mapped = self.target = 0
        self.row_view = None
        self.tag_view = None
        self.row_array.close()
        self.tag_array.close()

    cdef bint make_room(self, uint64_t entries, uint64_t live) noexcept nogil:
        cdef uint64_t least = self.least_slots(entries, live)
        cdef uint64_t wanted = self.wanted_slots(entries, least)
        if max(least, wanted) > max(self.mapped, self.table.slots):
            return False
        self.divide_up_to(wanted)
        return least <= self.table.slots

    cdef uint64_t least_slots(self, uint64_t entries, uint64_t live) noexcept nogil:
        """Returns how many slots there have to be for so many more rows."""
        return (min(self.entered, live) + entries) * A_ROW

    cdef uint64_t wanted_slots(self, uint64_t entries, uint64_t least) noexcept nogil:
        """Returns how many slots the table is to have when so many rows were entered."""
        return min(self.target, max(least, self.table.slots + entries * SLOTS_AN_ENTRY))

    cdef void divide_up_to(self, uint64_t slots) noexcept nogil:
        """Lets the table have so many slots, or as many as there is memory for, a step at a time."""
        slots = min(slots, self.mapped)
        while self.table.slots < slots:
            divide(&self.table, min(slots, self.table.slots + STEP_SLOTS, 2 * bs_power_of_two(self.table.slots)))

    cdef int allocate(self) except -1:
        """Gives another STEP_SLOTS slots memory, if the target is not nearer. Raises OutOfRoom."""
        memory = min(self.target, self.table.slots + STEP_SLOTS)
        self.row_array.grow(memory)
        self.tag_array.grow(memory)
        self.bind()
        return 0

    cdef void bind(self):
        self.row_view, self.tag_view = self.row_array.items, self.tag_array.items
        self.mapped = min(self.row_view.shape[0], self.tag_view.shape[0])
        if self.table.rows != &self.row_view[0] or self.table.tags != &self.tag_view[0]:  # the arrays do not move
            self.table.rows, self.table.tags = &self.row_view[0], &self.tag_view[0]
