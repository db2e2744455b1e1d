"""The content index, growing a part at a time. What it promises stands in content_index.pyi.

A digest's home is `digest * length / 2^64`: homes are in the order of digests, and a row is in the first slot from its
home on that was empty (linear probing). So the index can get any greater length in place, from its end to its
beginning: the digests of the last few thousand slots are entered anew at their homes in the greater length, which are
behind those of all other digests, and so on until slot 0. Meanwhile one digest divides those that are at home in the old
length from those in the new one. Moving with an unchanged length is how stale slots are dropped.

A part begins behind an empty slot and ends before one. So no run reaches into it or out of it, and what is entered anew
is all that has its home there.
"""

from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from blockstore.errors import OutOfRoom
from blockstore.plane.sync.atomics cimport claim_32, load_32, publish_32, publish_64, store_64
from blockstore.plane.codec.layout cimport FIRST_ROW
from blockstore.plane.tables.tables cimport Columns, Tables

cdef extern from *:
    """
    /* The greatest digest with a home before this slot, which is not the first. */
    static inline uint64_t bs_last_before(uint64_t slot, uint64_t length)
    {
        return (uint64_t)((((unsigned __int128)slot << 64) - 1) / length);
    }
    """
    uint64_t bs_last_before(uint64_t slot, uint64_t length) nogil

cdef enum:
    FIRST = 8192
    PAGE_SLOTS = 1024
    # Slots moved at once, 0.2 ms at worst: each is a row whose digest has to be looked up in memory.
    MOVED_SLOTS = 4096
    # 256 KiB of memory at once, which the kernel clears in some 50 us.
    ALLOCATED_SLOTS = 65536
    # Entered between BEGIN and MOST; all slots are moved meanwhile: 1 / (0.68 - 0.62).
    MOVED_AN_ENTRY = 17
    BATCH = 64

cdef double BEGIN = 0.62
cdef double MOST = 0.68
cdef double LARGEST = 0.8
cdef double AFTER = 0.52

FIRST_SLOTS = FIRST
MOST_LOAD = MOST
LARGEST_LOAD = LARGEST


cdef bint insert(Slots* slots, uint64_t digest, uint32_t row) noexcept nogil:
    """Enters a row, under the store lock. Returns False when it had to be left out."""
    cdef Probe probe = probe_of(slots, digest)
    while probe.slot < probe.end:
        if slots.rows[probe.slot] == 0:
            publish_32(&slots.rows[probe.slot], row)
            slots.used += 1
            return True
        if slots.rows[probe.slot] == row:  # a stale slot, which is right again
            return True
        probe.slot += 1
    return False


cdef long long move_part(Slots* slots, const Columns* columns, uint64_t new_length) noexcept nogil:
    """Lets the last part of the old length have the new one; the last one has slot 0 in it. Returns how many slots it
    had, -1 when there is no memory, and then nothing has changed."""
    cdef Slots before
    cdef uint32_t row
    cdef uint64_t slot, home, count = 0
    cdef uint64_t start = slots.boundary - MOVED_SLOTS if slots.boundary > MOVED_SLOTS else 0
    cdef uint64_t end = slots.boundary
    while start and slots.rows[start - 1]:
        start -= 1
    while end < slots.mapped and slots.rows[end]:
        end += 1
    cdef uint32_t* rows = <uint32_t*>malloc((end - start + 1) * sizeof(uint32_t))
    if rows == NULL:
        return -1
    for slot in range(start, end):
        row = slots.rows[slot]
        if row:
            slots.used -= 1
            publish_32(&slots.rows[slot], 0)
            if row < columns.capacity:
                bs_prefetch(&columns.digest[row])
                bs_prefetch(&columns.where[row])
                rows[count] = row
                count += 1
    before = slots[0]
    publish_64(&slots.new_length, new_length)
    publish_64(&slots.last_old, bs_last_before(start, slots.old_length) if start else 0)
    slots.boundary = start
    if start == 0:
        publish_64(&slots.old_length, new_length)
    for slot in range(count):
        row = rows[slot]
        home = home_of(&before, columns.digest[row])
        if columns.where[row] and start <= home and home < end:  # else its row was freed, and may be another's
            insert(slots, columns.digest[row], row)
    free(rows)
    return <long long>(end - start)


cdef bint claim(Slots* slots, uint64_t digest, uint32_t row) noexcept nogil:
    """Enters a row that is in no slot yet, beside other threads that do so: each takes slots that are empty, and none
    becomes empty again. So no slot from the home of a row to its own is empty, whoever comes first, and it is found.
    Returns False when it had to be left out."""
    cdef Probe probe = probe_of(slots, digest)
    while probe.slot < probe.end:
        if load_32(&slots.rows[probe.slot]) == 0 and claim_32(&slots.rows[probe.slot], row):
            return True
        probe.slot += 1
    return False


cdef uint64_t claim_all(Slots* slots, const Columns* columns, uint64_t first, uint64_t last) noexcept nogil:
    """Enters the live rows of a range. The slot of each is asked for some rows before it is needed. Returns how many
    were entered."""
    cdef uint64_t row, end, entered = 0
    while first < last:
        end = min(first + BATCH, last)
        for row in range(first, end):
            if columns.where[row]:
                prefetch(slots, columns.digest[row])
        for row in range(first, end):
            if columns.where[row]:
                entered += claim(slots, columns.digest[row], <uint32_t>row)
        first = end
    return entered


cdef uint64_t count_live(const Columns* columns) noexcept nogil:
    cdef uint64_t row, live = 0
    for row in range(FIRST_ROW, columns.capacity):
        live += columns.where[row] != 0
    return live


def whole(work, total):
    return [work(0, total)]


cdef class ContentIndex:
    def __cinit__(self, array not None, Tables tables not None):
        self.array = array
        self.tables = tables
        self.bind()
        if self.slots.mapped < FIRST:
            self.allocate(FIRST - PROBE_LIMIT, FIRST)
        self.reset()

    @property
    def size_bytes(self):
        return self.slots.mapped * sizeof(uint32_t)

    @property
    def used(self):
        return self.slots.used

    @property
    def length(self):
        return self.slots.new_length

    @property
    def is_growing(self):
        return self.target != 0

    def reserve(self, uint64_t entries, uint64_t live):
        while not self.has_room(entries):
            if not self.target:
                self.target = max(self.wanted_length(entries + live), self.slots.old_length)
                self.slots.boundary = self.slots.old_length
                self.owed = 0
            if not self.has_memory():
                try:
                    self.allocate(self.target, ALLOCATED_SLOTS)
                    self.owed = 0  # what was entered before it could be moved
                except OutOfRoom:
                    self.target = 0
                    if not self.can_do_without(entries, live):
                        raise
                    return
            else:
                while self.target and not self.has_room(entries):
                    self.move_or_raise()
                if not self.target:
                    live = self.slots.used
            if not self.lacks_room(entries, MOST):
                return

    def rebuild(self, share=whole):
        cdef uint64_t live
        with nogil:
            live = count_live(&self.tables.columns)
        try:
            self.allocate(self.wanted_length(live), UINT32_MAX)
        except OutOfRoom:
            if live > LARGEST * (self.slots.mapped - PROBE_LIMIT):
                raise
        self.reset()
        share(self.clear_part, self.slots.mapped)
        self.slots.used = sum(share(self.enter_part, self.tables.columns.capacity))

    def clear_part(self, uint64_t first, uint64_t end):
        end = min(end, self.slots.mapped)
        if first < end:
            with nogil:
                memset(&self.slots.rows[first], 0, (end - first) * sizeof(uint32_t))

    def enter_part(self, uint64_t first, uint64_t end):
        cdef uint64_t entered
        with nogil:
            entered = claim_all(
                &self.slots, &self.tables.columns, max(first, <uint64_t>FIRST_ROW), min(end, self.tables.columns.capacity)
            )
        return entered

    def found(self, const uint64_t[::1] digests not None, uint16_t domain):
        cdef Probe probe
        cdef Py_ssize_t place
        places = []
        for place in range(digests.shape[0]):
            prefetch(&self.slots, digests[place])
        for place in range(digests.shape[0]):
            probe = probe_of(&self.slots, digests[place])
            if next_row(&self.slots, &self.tables.columns, &probe, digests[place], domain):
                places.append(place)
        return places

    def find(self, uint64_t digest, uint16_t domain):
        cdef Probe probe = probe_of(&self.slots, digest)
        cdef uint32_t row = next_row(&self.slots, &self.tables.columns, &probe, digest, domain)
        rows = []
        while row:
            rows.append(row)
            row = next_row(&self.slots, &self.tables.columns, &probe, digest, domain)
        return rows

    def enter(self, const uint64_t[::1] digests not None, const uint32_t[::1] rows not None):
        cdef Py_ssize_t place
        if digests.shape[0] != rows.shape[0]:
            raise ValueError(f"{digests.shape[0]} digests of {rows.shape[0]} rows")
        for place in range(rows.shape[0]):
            prefetch(&self.slots, digests[place])
        for place in range(rows.shape[0]):
            insert(&self.slots, digests[place], rows[place])
        self.charge(rows.shape[0])

    def close(self):
        memset(&self.slots, 0, sizeof(self.slots))
        self.view = None
        self.array.close()

    cdef bint has_room(self, uint64_t entries) noexcept nogil:
        if not self.target:
            return not self.lacks_room(entries, BEGIN)
        return self.has_memory() and not self.owes(entries) and not self.lacks_room(entries, MOST)

    cdef void move_for(self, uint64_t entries) noexcept nogil:
        if self.target and self.has_memory() and self.owes(entries):
            self.move()

    cdef void charge(self, uint64_t entries) noexcept nogil:
        if self.target:
            self.owed += <long long>(entries * MOVED_AN_ENTRY)

    cdef bint has_memory(self) noexcept nogil:
        """Returns whether there is memory for the length that the index is to have."""
        return self.slots.mapped >= self.target + PROBE_LIMIT

    cdef bint owes(self, uint64_t entries) noexcept nogil:
        """Returns whether slots have to be moved before so many more are entered."""
        return self.owed + <long long>(entries * MOVED_AN_ENTRY) > 0

    cdef uint64_t wanted_length(self, uint64_t rows):
        """Returns the least length for so many rows: whole pages, with those behind the last home."""
        cdef uint64_t slots = <uint64_t>(rows / AFTER) + 1 + PROBE_LIMIT
        return (slots + PAGE_SLOTS - 1) // PAGE_SLOTS * PAGE_SLOTS - PROBE_LIMIT

    cdef bint lacks_room(self, uint64_t entries, double load) noexcept nogil:
        return self.slots.used + entries > load * self.slots.old_length

    cdef bint can_do_without(self, uint64_t entries, uint64_t live) except -1:
        """There is no memory for what is wanted: returns whether what there is will do."""
        cdef uint64_t usable = self.slots.mapped - PROBE_LIMIT
        if not self.lacks_room(entries, LARGEST):
            return True
        if live + entries > LARGEST * usable:
            return False
        self.target = usable
        while self.target:
            self.move_or_raise()
        return not self.lacks_room(entries, LARGEST)

    cdef void bind(self):
        self.view = self.array.items
        cdef uint32_t* rows = &self.view[0] if self.view.shape[0] else NULL
        if self.slots.rows != rows:  # the array does not move
            self.slots.rows = rows
        store_64(&self.slots.mapped, self.view.shape[0])

    cdef int allocate(self, uint64_t length, uint64_t step) except -1:
        """Gives so many more slots memory, up to those for `length`. Raises OutOfRoom, and then nothing has changed."""
        cdef uint64_t slots = min(length + PROBE_LIMIT, self.slots.mapped + step)
        if slots > self.slots.mapped:
            self.array.grow(slots)
            self.bind()
        return 0

    cdef int reset(self) except -1:
        self.target = self.owed = 0
        self.slots.used = 0
        self.slots.old_length = self.slots.new_length = self.slots.boundary = self.slots.mapped - PROBE_LIMIT
        self.slots.last_old = UINT64_MAX
        return 0

    cdef int move_or_raise(self) except -1:
        if not self.move():
            raise MemoryError("no memory to move a part of the content index")
        return 0

    cdef bint move(self) noexcept nogil:
        """Moves a part. Returns False when there is no memory for that."""
        cdef long long moved = move_part(&self.slots, &self.tables.columns, self.target)
        if moved < 0:
            return False
        self.owed -= moved
        if self.slots.boundary == 0:
            publish_64(&self.slots.last_old, UINT64_MAX)
            self.target = 0
        return True
