"""The map of a volume as typed pointers. See block_map.pyi."""

from array import array

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.errno cimport EINTR, EINVAL
from libc.string cimport memchr, memcpy, memset

from blockstore.plane.sync.atomics cimport count_64, load_64, load_8, load_pointer, store_64, store_8, store_pointer
from blockstore.plane.codec.features cimport FEATURE_KEYS
from blockstore.plane.codec.layout cimport HOLE

cdef extern from "<fcntl.h>" nogil:
    int posix_fallocate(int fd, long offset, long length)

cdef enum:
    PAGE_BYTES = 8 << PAGE_ENTRIES_SHIFT


cdef uint64_t entry_of(const MapView* view, uint64_t block) noexcept nogil:
    cdef const uint8_t* pages
    cdef const uint64_t* entries
    if block >= load_64(&view.capacity):
        return HOLE
    pages = <const uint8_t*>load_pointer(&view.pages)
    if not load_8(&pages[block >> PAGE_ENTRIES_SHIFT]):
        return HOLE
    entries = <const uint64_t*>load_pointer(&view.entries)
    return load_64(&entries[block])


cdef int give_memory(MapView* view, uint64_t first, uint64_t count) noexcept nogil:
    cdef uint64_t page, stop, end
    cdef int error
    if not count or first > view.capacity or count > view.capacity - first:
        return EINVAL
    page, end = first >> PAGE_ENTRIES_SHIFT, (first + count - 1 >> PAGE_ENTRIES_SHIFT) + 1
    while page < end:
        stop = page
        while stop < end and not view.pages[stop]:
            stop += 1
        if stop > page:
            error = allocate_pages(view.fd, page, stop - page)
            if error:
                return error
            mark_pages(view, page, stop)
        page = stop + 1
    return 0


cdef int allocate_pages(int fd, uint64_t page, uint64_t pages) noexcept nogil:
    """Returns 0, or an errno, and then nothing has changed."""
    cdef int error = EINTR
    while error == EINTR:
        error = posix_fallocate(fd, <long>((page + 1) * PAGE_BYTES), <long>(pages * PAGE_BYTES))  # behind the header
    return error


cdef void mark_pages(MapView* view, uint64_t page, uint64_t stop) noexcept nogil:
    while page < stop:
        store_8(&view.pages[page], 1)
        page += 1


cdef void copy_entries(const MapView* view, uint64_t first, uint64_t count, uint64_t* entries) noexcept nogil:
    cdef uint64_t number
    for number in range(count):
        entries[number] = entry_of(view, first + number)


cdef uint64_t next_with_memory(const MapView* view, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t limit = min(end, view.capacity)
    cdef uint64_t page = first >> PAGE_ENTRIES_SHIFT
    cdef const uint8_t* found = NULL
    if first < limit:
        found = <const uint8_t*>memchr(&view.pages[page], 1, (limit - 1 >> PAGE_ENTRIES_SHIFT) + 1 - page)
    if found == NULL:
        return end
    return max(first, <uint64_t>(found - view.pages) << PAGE_ENTRIES_SHIFT)


cdef uint64_t next_data(const MapView* view, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t limit = min(end, view.capacity)
    cdef uint64_t block, stop
    first = next_with_memory(view, first, limit)
    while first < limit:
        stop = page_end(first, limit)
        for block in range(first, stop):
            if view.entries[block] != HOLE:
                return block
        first = next_with_memory(view, stop, limit)
    return end


cdef uint64_t next_hole(const MapView* view, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t limit = min(end, view.capacity)
    cdef uint64_t block, stop
    while first < limit and view.pages[first >> PAGE_ENTRIES_SHIFT]:
        stop = page_end(first, limit)
        for block in range(first, stop):
            if view.entries[block] == HOLE:
                return block
        first = stop
    return min(first, end)


cdef void count_fault(MapView* view, uint64_t written) noexcept nogil:
    count_64(&view.refaults, written)


cdef void count_range(MapView* view, uint64_t written) noexcept nogil:
    if written:
        count_64(&view.range_refaults, written)
        count_64(&view.range_requests, 1)


cdef class BlockMap:
    def __cinit__(
        self, uint64_t seed=0, *, uint32_t domain=0, uint64_t zero_digest=0, const uint32_t[::1] feature_key=None
    ):
        memset(&self.view, 0, sizeof(self.view))
        self.view.fd = -1
        self.view.seed, self.view.domain, self.view.zero_digest = seed, domain, zero_digest
        if feature_key is not None:
            if feature_key.shape[0] != FEATURE_KEYS:
                raise ValueError(f"a key of {feature_key.shape[0]} numbers")
            memcpy(self.view.feature_key, &feature_key[0], sizeof(self.view.feature_key))

    @property
    def size_bytes(self):
        return load_64(&self.view.size_bytes)

    @size_bytes.setter
    def size_bytes(self, uint64_t size_bytes):
        store_64(&self.view.size_bytes, size_bytes)

    @property
    def touched_blocks(self):
        return self.view.touched_blocks

    @touched_blocks.setter
    def touched_blocks(self, int64_t blocks):
        self.view.touched_blocks = blocks

    @property
    def is_deleted(self):
        return bool(self.view.is_deleted)

    @is_deleted.setter
    def is_deleted(self, bint is_deleted):
        self.view.is_deleted = is_deleted

    @property
    def has_paged_tail(self):
        return bool(self.view.has_paged_tail)

    @has_paged_tail.setter
    def has_paged_tail(self, bint has_paged_tail):
        self.view.has_paged_tail = has_paged_tail

    @property
    def refaults(self):
        return load_64(&self.view.refaults)

    @property
    def range_refaults(self):
        return load_64(&self.view.range_refaults)

    @property
    def range_requests(self):
        return load_64(&self.view.range_requests)

    def copy(self, uint64_t first, uint64_t count):
        cdef uint64_t[::1] entries
        result = array("Q", bytes(count * sizeof(uint64_t)))
        if not count:
            return result
        entries = result
        with nogil:
            copy_entries(&self.view, first, count, &entries[0])
        return result

    def next_data(self, uint64_t first, uint64_t end):
        cdef uint64_t block
        with nogil:
            block = next_data(&self.view, first, end)
        return block

    def next_hole(self, uint64_t first, uint64_t end):
        cdef uint64_t block
        with nogil:
            block = next_hole(&self.view, first, end)
        return block

    def count_fault(self, uint64_t written):
        count_fault(&self.view, written)

    def count_range(self, uint64_t written):
        count_range(&self.view, written)

    def forget_reads(self):
        store_64(&self.view.refaults, 0)
        store_64(&self.view.range_refaults, 0)
        store_64(&self.view.range_requests, 0)

    def bind(
        self,
        uint64_t[::1] entries not None,
        uint8_t[::1] pages not None,
        uint64_t[::1] size_word=None,
        int fd=-1,
    ):
        cdef uint64_t capacity = min(<uint64_t>entries.shape[0], <uint64_t>pages.shape[0] << PAGE_ENTRIES_SHIFT)
        if capacity < self.view.capacity:
            raise ValueError(f"a map of {self.view.capacity} entries cannot have {capacity}")
        if capacity:
            store_pointer(&self.view.pages, &pages[0])
            store_pointer(&self.view.entries, &entries[0])
        if size_word is not None and size_word.shape[0] == 2:
            store_pointer(&self.view.size_word, &size_word[0])
        store_64(&self.view.capacity, capacity)
        self.view.fd = fd
        self.entries, self.pages, self.size_word = entries, pages, size_word

    def give_memory(self, uint64_t first, uint64_t count):
        cdef int error
        with nogil:
            error = give_memory(&self.view, first, count)
        return error

    def unbind(self):
        self.view.fd = -1
        store_64(&self.view.capacity, 0)
        store_pointer(&self.view.size_word, NULL)
        store_pointer(&self.view.entries, NULL)
        store_pointer(&self.view.pages, NULL)
        self.entries = None
        self.pages = None
        self.size_word = None
