# The log of records in the pool, for compiled code. What it is stands in log.pyi.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    # Words of paged records that were let go, and segments that became empty, until Python takes them back: sixteen times
    # what a discard of 2048 blocks lets go at most, each with its reference.
    LET_GO = 65536

cdef enum Append:
    APPENDED
    NO_SPARE
    NOT_WRITTEN  # `error` says why

cdef struct LogState:
    int fd
    int error  # errno of the last append that failed
    # Records are appended to segment `head`, from `tail` to `head_end`; `spare` becomes the head when that is full. -1: none.
    int64_t head
    int64_t spare
    uint64_t tail
    uint64_t head_end
    uint64_t filled  # heads so far; read without the store lock, too
    int64_t allocated_segments
    int64_t most_segments
    # Of `segments` segments (store/state/segments.py). `live_bytes` is changed by `count_bytes` alone.
    int64_t* live_bytes
    int64_t* generation
    uint64_t segments
    int64_t total_live_bytes
    uint64_t* paged
    uint32_t* emptied
    uint64_t paged_count
    uint64_t emptied_count

cdef struct Placed:
    # The records lie one behind the other from `first` on, and those from number `split` on from `second`.
    int split
    uint64_t first
    uint64_t second

cdef class Log:
    cdef LogState state
    cdef int64_t[::1] live_bytes
    cdef int64_t[::1] generation
    cdef void count_live_bytes(self) noexcept

# Appends records that lie one behind the other and end at `ends`, together at most a segment. None is split across
# segments. Unless it returns APPENDED nothing has changed.
cdef Append append_records(
    LogState* log, const uint8_t* records, const uint64_t* ends, int count, Placed* placed
) noexcept nogil

# Counts the record at a location word no longer. There must be room for two more (`can_let_go`).
cdef void let_go_of(LogState* log, uint64_t where) noexcept nogil


cdef inline void count_bytes(LogState* log, uint64_t segment, int64_t change) noexcept nogil:
    """So many more bytes of a segment that there is are live."""
    log.live_bytes[segment] += change
    log.total_live_bytes += change


cdef inline bint can_let_go(const LogState* log, uint64_t rows) noexcept nogil:
    """Returns whether there is room to note what so many rows let go, each with its reference, and a head that is left
    empty."""
    return log.paged_count + 2 * rows <= LET_GO and log.emptied_count + 2 * rows + 1 <= LET_GO


cdef inline bint is_within_limit(const LogState* log, int64_t reserved_segments) noexcept nogil:
    """Returns whether new records may be appended while so many segments are kept free. Above the limit, because what was
    lent is wanted back, the rest of the head may be filled, so that compaction goes on."""
    return (
        log.allocated_segments > log.most_segments
        or log.allocated_segments + reserved_segments <= log.most_segments
    )


cdef inline bint fits_head(const LogState* log, uint64_t size_bytes) noexcept nogil:
    return log.tail + size_bytes <= log.head_end
