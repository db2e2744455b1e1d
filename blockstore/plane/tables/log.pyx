"""The log of records in the pool. See log.pyi."""

from array import array

from libc.errno cimport EINTR, ENOSPC, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from blockstore.plane.sync.atomics cimport load_64, store_64
from blockstore.plane.codec.layout cimport SEGMENT_SHIFT, WHERE_SEGMENT_SHIFT, is_paged, size_of

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void* bytes, size_t size, long offset)

cdef enum:
    SEGMENT_BYTES = 1 << SEGMENT_SHIFT

MOST_LET_GO = LET_GO


cdef bint write_all(LogState* log, const uint8_t* bytes, uint64_t size, uint64_t offset) noexcept nogil:
    """A write(2) gets fresh pages at half the cost of storing into the mapping, and says so when there are none."""
    cdef ssize_t written = pwrite(log.fd, bytes, size, <long>offset)
    while written < 0 and errno == EINTR:
        written = pwrite(log.fd, bytes, size, <long>offset)
    if written < 0:
        log.error = errno
    elif <uint64_t>written != size:
        log.error = ENOSPC
    return written >= 0 and <uint64_t>written == size


cdef Append append_records(
    LogState* log, const uint8_t* records, const uint64_t* ends, int count, Placed* placed
) noexcept nogil:
    cdef uint64_t size = ends[count - 1]
    cdef uint64_t head_bytes
    log.error = 0
    placed.split, placed.first, placed.second = count, log.tail, log.tail
    if fits_head(log, size):
        if not write_all(log, records, size, log.tail):
            return NOT_WRITTEN
        count_bytes(log, log.head, <int64_t>size)
        log.tail += size
        return APPENDED
    if log.spare < 0:
        return NO_SPARE
    while placed.split and ends[placed.split - 1] > log.head_end - log.tail:
        placed.split -= 1
    head_bytes = ends[placed.split - 1] if placed.split else 0
    placed.second = <uint64_t>log.spare << SEGMENT_SHIFT
    if head_bytes and not write_all(log, records, head_bytes, log.tail):
        return NOT_WRITTEN
    if not write_all(log, records + head_bytes, size - head_bytes, placed.second):
        return NOT_WRITTEN
    leave_head(log, head_bytes)
    count_bytes(log, log.head, <int64_t>(size - head_bytes))
    log.tail += size - head_bytes
    return APPENDED


cdef void leave_head(LogState* log, uint64_t head_bytes) noexcept nogil:
    """Lets the spare segment be the head, after so many bytes were appended to the old one."""
    if log.head >= 0:
        count_bytes(log, log.head, <int64_t>head_bytes)
        if not log.live_bytes[log.head]:
            note_empty(log, log.head)
    log.head, log.spare = log.spare, -1
    store_64(&log.filled, log.filled + 1)
    log.generation[log.head] = <int64_t>log.filled
    log.tail = <uint64_t>log.head << SEGMENT_SHIFT
    log.head_end = log.tail + SEGMENT_BYTES


cdef void let_go_of(LogState* log, uint64_t where) noexcept nogil:
    cdef uint64_t segment = where >> WHERE_SEGMENT_SHIFT
    if is_paged(where):
        if log.paged_count < LET_GO:
            log.paged[log.paged_count] = where
            log.paged_count += 1
    elif segment < log.segments:  # of a damaged row it may be anything
        count_bytes(log, segment, -<int64_t>size_of(where))
        if not log.live_bytes[segment]:
            note_empty(log, segment)


cdef void note_empty(LogState* log, uint64_t segment) noexcept nogil:
    if log.emptied_count < LET_GO:
        log.emptied[log.emptied_count] = <uint32_t>segment
        log.emptied_count += 1


cdef class Log:
    def __cinit__(self, int fd):
        memset(&self.state, 0, sizeof(self.state))
        self.state.fd = fd
        self.state.head = self.state.spare = -1
        self.state.paged = <uint64_t*>malloc(LET_GO * sizeof(uint64_t))
        self.state.emptied = <uint32_t*>malloc(LET_GO * sizeof(uint32_t))
        if self.state.paged == NULL or self.state.emptied == NULL:
            raise MemoryError("no memory for the log of a pool")

    def __dealloc__(self):
        free(self.state.paged)
        free(self.state.emptied)

    @property
    def head(self):
        return self.state.head

    @property
    def spare(self):
        return self.state.spare

    @property
    def tail(self):
        return self.state.tail

    @property
    def head_end(self):
        return self.state.head_end

    @property
    def filled(self):
        return load_64(&self.state.filled)

    @property
    def error(self):
        return self.state.error

    @property
    def allocated_segments(self):
        return self.state.allocated_segments

    @allocated_segments.setter
    def allocated_segments(self, int64_t count):
        self.state.allocated_segments = count

    @property
    def most_segments(self):
        return self.state.most_segments

    @most_segments.setter
    def most_segments(self, int64_t count):
        self.state.most_segments = count

    def bind(self, int64_t[::1] live_bytes not None, int64_t[::1] generation not None):
        if live_bytes.shape[0] != generation.shape[0] or <uint64_t>live_bytes.shape[0] < self.state.segments:
            raise ValueError(f"{self.state.segments} segments cannot become {live_bytes.shape[0]}")
        self.live_bytes, self.generation = live_bytes, generation
        if live_bytes.shape[0]:
            self.state.live_bytes, self.state.generation = &live_bytes[0], &generation[0]
        self.state.segments = live_bytes.shape[0]
        self.count_live_bytes()

    cdef void count_live_bytes(self) noexcept:
        cdef uint64_t segment
        self.state.total_live_bytes = 0
        for segment in range(self.state.segments):
            self.state.total_live_bytes += self.state.live_bytes[segment]

    @property
    def total_live_bytes(self):
        return self.state.total_live_bytes

    def fits_head(self, uint64_t size_bytes):
        return fits_head(&self.state, size_bytes)

    def is_within_limit(self, int64_t reserved_segments):
        return is_within_limit(&self.state, reserved_segments)

    def set_spare(self, int64_t segment):
        if self.state.spare >= 0 or not 0 <= segment < <int64_t>self.state.segments:
            raise ValueError(f"segment {segment} as the spare one, in place of {self.state.spare}")
        self.state.spare = segment
        self.state.allocated_segments += 1

    def append(self, const uint8_t[::1] records not None, const uint64_t[::1] ends not None):
        cdef Placed placed
        cdef Py_ssize_t number
        cdef uint64_t start = 0
        for number in range(ends.shape[0]):
            if not start < ends[number] <= <uint64_t>records.shape[0] or ends[number] > SEGMENT_BYTES:
                raise ValueError(f"record {number} ends at {ends[number]} of {records.shape[0]} bytes")
            start = ends[number]
        if not ends.shape[0] or self.state.emptied_count == LET_GO:
            raise ValueError("no records, or nobody has taken back what was let go")
        if append_records(&self.state, &records[0], &ends[0], <int>ends.shape[0], &placed) != APPENDED:
            return None
        return placed.split, placed.first, placed.second

    def let_go(self, const uint64_t[::1] words not None):
        cdef Py_ssize_t number
        if <uint64_t>words.shape[0] > LET_GO - max(self.state.paged_count, self.state.emptied_count):
            raise ValueError(f"{words.shape[0]} records at once, or nobody has taken back what was let go")
        with nogil:
            for number in range(words.shape[0]):
                let_go_of(&self.state, words[number])

    @property
    def has_let_go(self):
        return self.state.paged_count != 0 or self.state.emptied_count != 0

    def take_back(self):
        if not self.has_let_go:
            return None
        paged = array("Q", [self.state.paged[place] for place in range(self.state.paged_count)])
        emptied = [self.state.emptied[place] for place in range(self.state.emptied_count)]
        self.state.paged_count = self.state.emptied_count = 0
        return paged, emptied
