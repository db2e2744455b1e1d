# The similarity index for compiled code. What it is stands in similarity_index.pyi.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from blockstore.plane.sync.atomics cimport load_16, load_32, load_64
from blockstore.plane.codec.layout cimport ENCODING_MASK, FREE, encoding_of, is_paged, is_patch
from blockstore.plane.tables.tables cimport Columns, Tables

cdef extern from *:
    """
    static inline uint64_t bs_power_of_two(uint64_t number) /* the greatest that is not above it; 0 for 0 */
    {
        return number ? UINT64_C(1) << (63 - __builtin_clzll(number)) : 0;
    }
    """
    uint64_t bs_power_of_two(uint64_t number) nogil

cdef struct HintTable:
    # By slot: the last row that had a feature at home there, and its tag. `slots` of them are in use: one word, so that
    # a reader without the store lock sees the table before or after a step of its growth. The pointers are written once.
    uint32_t* rows
    uint8_t* tags
    uint64_t slots

cdef class SimilarityIndex:
    cdef HintTable table
    cdef Tables tables
    cdef object row_array
    cdef object tag_array
    cdef uint32_t[::1] row_view
    cdef uint8_t[::1] tag_view
    cdef readonly uint64_t entered
    cdef uint32_t most_dependents
    cdef uint64_t target  # how many slots it is growing to, or has
    cdef uint64_t mapped  # slots that have memory
    # Lets the table grow as far as so many entries want it to. Returns whether there is room for them; False when there
    # has to be memory for more slots first, which `reserve` sees to.
    cdef bint make_room(self, uint64_t entries, uint64_t live) noexcept nogil
    cdef uint64_t least_slots(self, uint64_t entries, uint64_t live) noexcept nogil
    cdef uint64_t wanted_slots(self, uint64_t entries, uint64_t least) noexcept nogil
    cdef void divide_up_to(self, uint64_t slots) noexcept nogil
    cdef int allocate(self) except -1
    cdef void bind(self)


cdef inline uint64_t slot_of(uint64_t slots, uint32_t feature) noexcept nogil:
    """Returns the slot in which a feature is at home, which is below `slots` if that is not 0.

    Linear hashing (Litwin, VLDB 1980): of a table that is half-way to twice as many slots, those before the part that
    was not divided yet are told apart by one more bit.
    """
    cdef uint64_t half = bs_power_of_two(slots)
    cdef uint64_t slot = feature & (half - 1)
    return feature & (2 * half - 1) if slot < slots - half else slot


cdef inline uint8_t tag_of(uint32_t feature, uint64_t digest) noexcept nogil:
    """Returns 8 bits that depend on all of a feature (features are maxima: their own upper bits are mostly ones), and on
    the digest of the row that has it."""
    return <uint8_t>((feature * <uint32_t>0x9E3779B1) >> 24) ^ <uint8_t>digest


cdef inline bint may_be_reference(
    const Columns* columns, uint32_t row, uint32_t domain, uint32_t most_dependents
) noexcept nogil:
    """Returns whether a new patch of the domain may be against this row: it is there, no patch itself, and not in the
    tier, for which no write waits; and map entries point at it, because nothing new may keep a row that only patches
    need."""
    cdef uint64_t where
    if row >= load_64(&columns.capacity):
        return False
    where = load_64(&columns.where[row])
    return (
        encoding_of(where) != FREE
        and not is_patch(where)
        and not is_paged(where)
        and load_16(&columns.domain[row]) == domain
        and load_16(&columns.dependents[row]) < most_dependents
        and load_32(&columns.count[row]) != 0
    )

# Returns the row that most of a block's features hint at, the first of several, and how many do; 0 where none does. Hints
# at the row `own`, if it is not 0, do not count. The row may be anything by now: ask `may_be_reference`.
cdef uint32_t candidate(
    const HintTable* table, const Columns* columns, const uint32_t* features, uint32_t own, int* hints
) noexcept nogil

# Lets a row, whose digest this is, have these features from now on. With the store lock.
cdef void enter_features(HintTable* table, const uint32_t* features, uint64_t digest, uint32_t row) noexcept nogil
