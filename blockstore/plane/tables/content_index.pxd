# The content index for compiled code. How it is built stands in content_index.pyx, what it promises in content_index.pyi.
#
#     cdef Probe probe = probe_of(&index.slots, digest)
#     cdef uint32_t row = next_row(&index.slots, &tables.columns, &probe, digest, domain)
#     while row: ... row = next_row(...)

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from blockstore.plane.sync.atomics cimport load_16, load_32, load_64
from blockstore.plane.tables.tables cimport Columns, Tables

cdef extern from *:
    """
    static inline uint64_t bs_scaled(uint64_t digest, uint64_t length)
    {
        return (uint64_t)((unsigned __int128)digest * length >> 64);
    }
    static inline void bs_prefetch(const void *address) { __builtin_prefetch(address); }
    """
    uint64_t bs_scaled(uint64_t digest, uint64_t length) nogil
    void bs_prefetch(const void* address) nogil

cdef enum:
    # The most slots that are looked at for a digest. At a load of 0.8 the longest run of slots in use is some 650
    # with 4 million rows, and 960 with 2^32; only digests that were damaged or made up run longer.
    PROBE_LIMIT = 1024

cdef struct Slots:
    uint32_t* rows
    # How many slots have memory. All fields below give slots before this one. It and the three lengths are read without
    # the store lock; `rows` is written once, before there are such readers.
    uint64_t mapped
    # A digest up to `last_old` is at home in `old_length` slots, the others in `new_length`; the two differ only while
    # the index grows. Homes are in the order of digests.
    uint64_t old_length
    uint64_t new_length
    uint64_t last_old
    # While it grows: no digest up to `last_old` is at home in this slot or behind it.
    uint64_t boundary
    # Slots that are not empty.
    uint64_t used

cdef struct Probe:
    uint64_t slot
    uint64_t end


cdef inline uint64_t home_of(const Slots* slots, uint64_t digest) noexcept nogil:
    return bs_scaled(
        digest, load_64(&slots.old_length) if digest <= load_64(&slots.last_old) else load_64(&slots.new_length)
    )


cdef inline void prefetch(const Slots* slots, uint64_t digest) noexcept nogil:
    bs_prefetch(&slots.rows[home_of(slots, digest)])


cdef inline Probe probe_of(const Slots* slots, uint64_t digest) noexcept nogil:
    cdef Probe probe
    probe.slot = home_of(slots, digest)
    probe.end = min(probe.slot + PROBE_LIMIT, load_64(&slots.mapped))
    return probe


cdef inline uint32_t next_row(
    const Slots* slots, const Columns* columns, Probe* probe, uint64_t digest, uint16_t domain
) noexcept nogil:
    """Returns the next live row of the domain with this digest, 0 when there is none.

    Without the store lock it may miss one, or return one that is freed meanwhile: who commits under the lock looks again.
    """
    cdef uint32_t row
    while probe.slot < probe.end:
        row = load_32(&slots.rows[probe.slot])
        if row == 0:
            probe.end = 0
            return 0
        probe.slot += 1
        if (
            row < load_64(&columns.capacity)
            and load_64(&columns.digest[row]) == digest
            and load_64(&columns.where[row]) != 0
            and load_16(&columns.domain[row]) == domain
        ):
            return row
    return 0


cdef bint insert(Slots* slots, uint64_t digest, uint32_t row) noexcept nogil

cdef class ContentIndex:
    cdef Slots slots
    cdef Tables tables
    cdef object array
    cdef uint32_t[::1] view
    # The length that it is to have; 0 while it does not grow.
    cdef uint64_t target
    # Slots that are to be moved for what was entered.
    cdef long long owed
    # Returns whether `reserve` for so many has nothing to do.
    cdef bint has_room(self, uint64_t entries) noexcept nogil
    # Moves a part, 0.2 ms at worst, if the index grows and so many more entries have to wait for that.
    cdef void move_for(self, uint64_t entries) noexcept nogil
    # So many were entered: while the index grows, slots have to be moved for them.
    cdef void charge(self, uint64_t entries) noexcept nogil
    cdef bint has_memory(self) noexcept nogil
    cdef bint owes(self, uint64_t entries) noexcept nogil
    cdef uint64_t wanted_length(self, uint64_t rows)
    cdef bint lacks_room(self, uint64_t entries, double load) noexcept nogil
    cdef bint can_do_without(self, uint64_t entries, uint64_t live) except -1
    cdef void bind(self)
    cdef int allocate(self, uint64_t length, uint64_t step) except -1
    cdef int reset(self) except -1
    cdef int move_or_raise(self) except -1
    cdef bint move(self) noexcept nogil
