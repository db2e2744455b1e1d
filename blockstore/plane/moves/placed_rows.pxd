# Rows whose records lie in given places, for compiled code. What they are stands in placed_rows.pyi.

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t

from blockstore.plane.codec.layout cimport WHERE_SEGMENT_SHIFT
from blockstore.plane.moves.sorting cimport Keyed
from blockstore.plane.tables.tables cimport Tables

cdef extern from *:
    """
    #define NO_PLACE UINT64_MAX /* words name less than 2^28 */
    #define NO_RANK UINT32_MAX
    #define PLACE_MIX UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t NO_PLACE
    const uint32_t NO_RANK
    const uint64_t PLACE_MIX

cdef struct PlaceSlot:
    uint64_t place  # NO_PLACE: free
    uint32_t rank  # which of the places that were given it is; NO_RANK: left out since

cdef struct PlaceTable:
    # By a hash of the place, a fourth of the slots in use at most: as a rule the first one answers.
    PlaceSlot* slots
    uint64_t mask
    uint64_t low_bits  # a bit for what the lowest six bits of places are
    int shift

cdef struct Listed:
    # Rows in order; those from `next` on were not taken yet.
    uint32_t* rows
    uint64_t next
    uint64_t end

cdef class PlacedRows:
    cdef Tables tables
    cdef PlaceTable places
    cdef Listed listed
    # Of those that were found since `begin`, until they are sorted.
    cdef Keyed* found
    cdef uint64_t found_count
    cdef uint64_t found_room
    cdef uint64_t scanned
    cdef bint look_at(self, uint64_t first, uint64_t end) noexcept nogil
    cdef bint note(self, uint64_t row, uint64_t word, uint32_t rank) noexcept nogil
    cdef bint list_in_order(self) noexcept nogil


cdef inline PlaceSlot* slot_of_place(const PlaceTable* table, uint64_t place) noexcept nogil:
    """Returns the slot of a place, or the free one that it would have."""
    cdef uint64_t number = place * PLACE_MIX >> table.shift
    while table.slots[number].place != place and table.slots[number].place != NO_PLACE:
        number = (number + 1) & table.mask
    return &table.slots[number]


cdef inline uint32_t rank_of_place(const PlaceTable* table, uint64_t place) noexcept nogil:
    """Returns which of the places this is; NO_RANK for another one."""
    cdef const PlaceSlot* slot = slot_of_place(table, place)
    return NO_RANK if slot.place == NO_PLACE else slot.rank


cdef inline bint is_placed(const PlaceTable* table, uint64_t where) noexcept nogil:
    """Returns whether the record at a location word lies in one of the places. A free row's word is 0, as is segment 0."""
    return where != 0 and rank_of_place(table, where >> WHERE_SEGMENT_SHIFT) != NO_RANK
