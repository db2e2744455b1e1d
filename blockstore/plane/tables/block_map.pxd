# The map of a volume, for compiled code. What it is stands in block_map.pyi.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PAGE_ENTRIES_SHIFT = 9
    PAGE_ENTRIES = 1 << PAGE_ENTRIES_SHIFT

cdef struct MapView:
    # Read without a lock while the map grows: the pointers are published before the capacity that they are good for.
    uint64_t* entries
    uint8_t* pages
    uint64_t capacity
    int fd  # of the file: a page with the header, and then the map
    # In the header: the size (store/volume.py, pack_size), and behind it when the content changed, in ns since 1970.
    uint64_t* size_word
    # As it was stored last: damage to the header changes nothing here.
    uint64_t size_bytes
    # Of the domain: its number, its key for digests, what zeros have as their digest, its key for features.
    uint64_t seed
    uint64_t zero_digest
    uint32_t domain
    uint32_t feature_key[7]
    # Counters, of this daemon (store/volume.py).
    uint64_t refaults
    uint64_t range_refaults
    uint64_t range_requests
    # These two are changed with the store lock.
    int64_t touched_blocks
    bint is_deleted
    bint has_paged_tail

cdef class BlockMap:
    cdef MapView view
    cdef uint64_t[::1] entries
    cdef uint8_t[::1] pages
    cdef uint64_t[::1] size_word

# Returns the map entry of a block; HOLE beyond the end, and where the map has no memory, which is not touched then.
cdef uint64_t entry_of(const MapView* view, uint64_t block) noexcept nogil

# Gives the pages of the map that these blocks are on memory, where they have none; with the store lock. Returns 0, or an
# errno, and then some may have it: EINVAL when the map does not cover the blocks.
cdef int give_memory(MapView* view, uint64_t first, uint64_t count) noexcept nogil

# Writes the map entries of `count` blocks from `first` on.
cdef void copy_entries(const MapView* view, uint64_t first, uint64_t count, uint64_t* entries) noexcept nogil

# Return the first block from `first` on, before `end`, whose entry has memory, is no hole, is one; `end` if there is none.
# With the store lock: memory may go without it.
cdef uint64_t next_with_memory(const MapView* view, uint64_t first, uint64_t end) noexcept nogil
cdef uint64_t next_data(const MapView* view, uint64_t first, uint64_t end) noexcept nogil
cdef uint64_t next_hole(const MapView* view, uint64_t first, uint64_t end) noexcept nogil

# Returns where the page of a block ends, or `end` if that comes before.
cdef inline uint64_t page_end(uint64_t block, uint64_t end) noexcept nogil:
    return min((block | (PAGE_ENTRIES - 1)) + 1, end)

# Counts a READ that was answered with so many blocks that are not HOLE: of one block, and of a range.
cdef void count_fault(MapView* view, uint64_t written) noexcept nogil
cdef void count_range(MapView* view, uint64_t written) noexcept nogil
