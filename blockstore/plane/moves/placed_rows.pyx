"""Finds the rows whose records lie in some places. See placed_rows.pyi."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc

from blockstore.plane.codec.layout cimport FIRST_ROW, OFFSET_SHIFT, SEGMENT_BYTES, SEGMENT_SHIFT, WHERE_SEGMENT_SHIFT
from blockstore.plane.moves.sorting cimport Keyed, sort_by_key
from blockstore.plane.tables.tables cimport Tables

cdef enum:
    LEAST_BITS = 4
    SLOTS_A_PLACE = 4
    FIRST_ROOM = 1024  # rows: those of a segment, as a rule


cdef class PlacedRows:
    def __cinit__(self, Tables tables not None):
        self.tables = tables
        self.begin(())

    def __dealloc__(self):
        free(self.places.slots)
        free(self.listed.rows)
        free(self.found)

    @property
    def left(self):
        return self.listed.end - self.listed.next

    def numbers(self):
        return [self.listed.rows[number] for number in range(self.listed.next, self.listed.end)]

    def begin(self, places):
        cdef PlaceTable table = empty_table(len(places))
        cdef PlaceSlot* slot
        cdef uint32_t rank
        if table.slots == NULL:
            raise MemoryError(f"no memory to look for the rows of {len(places)} places")
        free(self.places.slots)
        free(self.listed.rows)
        free(self.found)
        self.places, self.listed = table, Listed(NULL, 0, 0)
        self.found, self.found_count, self.found_room, self.scanned = NULL, 0, 0, FIRST_ROW
        for rank, place in enumerate(places):
            slot = slot_of_place(&self.places, place)
            if slot.place == NO_PLACE:
                slot[0] = PlaceSlot(place, rank)
                self.places.low_bits |= <uint64_t>1 << (slot.place & 63)

    def scan(self, uint64_t next_row, uint64_t most_rows):
        cdef uint64_t end = min(next_row, self.tables.columns.capacity)
        cdef uint64_t stop = min(self.scanned + min(most_rows, end), end)
        cdef bint is_done
        with nogil:
            is_done = self.look_at(self.scanned, stop)
        if not is_done:
            raise MemoryError("no memory to list the rows of some places")
        self.scanned = max(self.scanned, stop)
        return self.scanned < end

    cdef bint look_at(self, uint64_t first, uint64_t end) noexcept nogil:
        """Returns False, and nothing was noted, when there is no memory."""
        cdef const uint64_t* where = self.tables.columns.where
        cdef uint64_t row, place, count_before = self.found_count, low_bits = self.places.low_bits
        cdef uint32_t rank
        for row in range(first, end):
            place = where[row] >> WHERE_SEGMENT_SHIFT
            if not low_bits >> (place & 63) & 1 or not where[row]:  # as with most rows, if places are few
                continue
            rank = rank_of_place(&self.places, place)
            if rank != NO_RANK and not self.note(row, where[row], rank):
                self.found_count = count_before
                return False
        return True

    cdef bint note(self, uint64_t row, uint64_t word, uint32_t rank) noexcept nogil:
        cdef uint64_t room
        cdef Keyed* found
        if self.found_count == self.found_room:
            room = max(2 * self.found_room, <uint64_t>FIRST_ROOM)
            found = <Keyed*>realloc(self.found, room * sizeof(Keyed))
            if found == NULL:
                return False
            self.found, self.found_room = found, room
        self.found[self.found_count] = Keyed(
            <uint64_t>rank << SEGMENT_SHIFT | (word >> OFFSET_SHIFT & (SEGMENT_BYTES - 1)), row
        )
        self.found_count += 1
        return True

    def sort(self):
        cdef bint is_done
        with nogil:
            is_done = self.list_in_order()
        if not is_done:
            raise MemoryError(f"no memory to sort {self.found_count} rows")

    cdef bint list_in_order(self) noexcept nogil:
        """Returns False, and nothing has changed, when there is no memory."""
        cdef uint64_t number
        cdef uint32_t* rows = <uint32_t*>malloc(max(self.found_count, <uint64_t>1) * sizeof(uint32_t))
        if rows == NULL or not sort_by_key(self.found, <uint32_t>self.found_count):
            free(rows)
            return False
        for number in range(self.found_count):
            rows[number] = <uint32_t>self.found[number].number
        free(self.listed.rows)
        self.listed = Listed(rows, 0, self.found_count)
        free(self.found)
        self.found, self.found_count, self.found_room = NULL, 0, 0
        return True

    def leave_out(self, uint64_t place):
        cdef PlaceSlot* slot = slot_of_place(&self.places, place)
        if slot.place != NO_PLACE:
            slot.rank = NO_RANK


cdef PlaceTable empty_table(uint64_t places) noexcept nogil:
    """Returns a table with room for so many places; without memory, its slots are NULL."""
    cdef int bits = LEAST_BITS
    cdef uint64_t number
    cdef PlaceTable table
    while (<uint64_t>1 << bits) < SLOTS_A_PLACE * places:
        bits += 1
    table.low_bits, table.mask, table.shift = 0, (<uint64_t>1 << bits) - 1, 64 - bits
    table.slots = <PlaceSlot*>malloc((table.mask + 1) * sizeof(PlaceSlot))
    if table.slots != NULL:
        for number in range(table.mask + 1):
            table.slots[number] = PlaceSlot(NO_PLACE, NO_RANK)
    return table
