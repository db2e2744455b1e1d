"""The volumes that lanes answer for. See volumes.pyi."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from blockstore.plane.sync.atomics cimport full_fence, load_64, load_pointer, store_64, store_pointer
from blockstore.plane.tables.block_map cimport BlockMap, MapView

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)

cdef extern from "<stdlib.h>" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from "<string.h>" nogil:
    void* memset(void* place, int byte, size_t size)

cdef extern from *:
    """
    #define MULTIPLIER UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t MULTIPLIER

cdef enum:
    FIRST_SLOTS = 64
    LOOK_US = 20  # how often `settle` looks: about as long as a lane is inside


cdef inline uint64_t place_of(const Slots* table, uint64_t number) noexcept nogil:
    return (number * MULTIPLIER >> 32) & table.mask


cdef MapView* find(VolumeTable table, uint64_t number) noexcept nogil:
    cdef const Slots* slots = <const Slots*>load_pointer(&table.slots)
    cdef uint64_t place = place_of(slots, number)
    cdef uint64_t found
    if not number:
        return NULL
    while True:
        found = load_64(&slots.slots[place].number)
        if found == number:
            return <MapView*>load_pointer(&slots.slots[place].view)
        if not found:
            return NULL
        place = (place + 1) & slots.mask


cdef void insert(Slots* slots, uint64_t number, MapView* view) noexcept nogil:
    cdef uint64_t place = place_of(slots, number)
    while slots.slots[place].number:
        place = (place + 1) & slots.mask
    store_pointer(&slots.slots[place].view, view)
    store_64(&slots.slots[place].number, number)


cdef Slots* new_slots(uint64_t count) noexcept nogil:
    cdef Slots* slots = <Slots*>calloc(1, sizeof(Slots) + count * sizeof(Slot))
    if slots != NULL:
        slots.mask = count - 1
    return slots


cdef void come_in(LaneState* lane) noexcept nogil:
    store_64(&lane.turns, lane.turns + 1)
    full_fence()


cdef void go_out(LaneState* lane) noexcept nogil:
    store_64(&lane.turns, lane.turns + 1)


cdef class VolumeTable:
    def __cinit__(self):
        self.maps = {}
        self.slots = new_slots(FIRST_SLOTS)
        self.lanes = <LaneState*>aligned_alloc(64, MAXIMUM_LANES * sizeof(LaneState))
        if self.slots == NULL or self.lanes == NULL:
            raise MemoryError
        memset(self.lanes, 0, MAXIMUM_LANES * sizeof(LaneState))

    def __dealloc__(self):
        free(self.slots)
        free(self.lanes)

    def enter(self, uint64_t number, BlockMap block_map not None):
        if not number or number in self.maps:
            raise ValueError(f"{number} is not the number of a new volume")
        self.maps[number] = block_map
        if 2 * <uint64_t>len(self.maps) > self.slots.mask:
            try:
                self.rebuild()
            except MemoryError:
                del self.maps[number]
                raise
        else:
            insert(self.slots, number, &block_map.view)

    def remove(self, uint64_t number):
        if number not in self.maps:
            return
        block_map = self.maps.pop(number)  # not freed before no lane looks at it
        try:
            self.rebuild()
        except MemoryError:
            self.hide_all()

    def settle(self):
        with nogil:
            self.settle_now()

    def hide_all(self):
        """Without memory for a smaller table: from now on lanes ask Python for all volumes."""
        cdef uint64_t place
        for place in range(self.slots.mask + 1):
            store_64(&self.slots.slots[place].number, 0)
        self.maps.clear()
        with nogil:
            self.settle_now()

    cdef int rebuild(self) except -1:
        cdef uint64_t count = FIRST_SLOTS
        cdef Slots* old = self.slots
        cdef Slots* slots
        while 2 * <uint64_t>len(self.maps) >= count:
            count *= 2
        slots = new_slots(count)
        if slots == NULL:
            raise MemoryError
        for number, block_map in self.maps.items():
            insert(slots, number, &(<BlockMap>block_map).view)
        store_pointer(&self.slots, slots)
        with nogil:
            self.settle_now()
        free(old)
        return 0

    cdef void settle_now(self) noexcept nogil:
        cdef int number
        cdef uint64_t seen
        full_fence()
        for number in range(MAXIMUM_LANES):
            seen = load_64(&self.lanes[number].turns)
            if seen & 1:
                while load_64(&self.lanes[number].turns) == seen:
                    usleep(LOOK_US)

    cdef LaneState* enter_lane(self) except NULL:
        cdef int number
        for number in range(MAXIMUM_LANES):
            if not self.lanes[number].is_used:
                self.lanes[number].is_used = 1
                return &self.lanes[number]
        raise ValueError(f"a store has at most {MAXIMUM_LANES} lanes")

    cdef void leave_lane(self, LaneState* lane) noexcept:
        lane.is_used = 0
