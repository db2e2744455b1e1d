# The volumes that lanes answer for. What it is stands in volumes.pyi.

from libc.stdint cimport uint64_t

from blockstore.plane.tables.block_map cimport BlockMap, MapView

cdef enum:
    MAXIMUM_LANES = 64  # one for each core of a large host

cdef struct Slot:
    uint64_t number  # 0: no volume
    MapView* view

cdef struct Slots:
    uint64_t mask
    Slot slots[1]  # as many as the mask says

cdef struct LaneState:
    # Odd while the lane looks at volumes and tables; a cache line of its own, for it changes with each READ.
    uint64_t turns
    uint64_t is_used
    uint64_t padding[6]

cdef class VolumeTable:
    cdef Slots* slots
    cdef LaneState* lanes
    cdef dict maps
    cdef LaneState* enter_lane(self) except NULL
    cdef void leave_lane(self, LaneState* lane) noexcept
    cdef void settle_now(self) noexcept nogil
    cdef int rebuild(self) except -1

# Between `come_in` and `go_out` of a lane what `find` returns stays valid, and no record of a live row is punched. Not
# to be inside while waiting for anything.
cdef void come_in(LaneState* lane) noexcept nogil
cdef void go_out(LaneState* lane) noexcept nogil

# Returns the map of a volume; NULL if there is none with this number.
cdef MapView* find(VolumeTable table, uint64_t number) noexcept nogil
