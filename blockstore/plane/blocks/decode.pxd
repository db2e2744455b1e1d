# From rows and map entries back to blocks, for compiled code. The Python face stands in decode.pyi.

from libc.stdint cimport uint8_t, uint64_t

from blockstore.plane.tables.block_map cimport MapView
from blockstore.plane.codec.codec cimport Codec, Contexts
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum Status:
    READ
    IN_TIER  # the record, or that of its reference
    AT_ANOTHER_HOST  # a block that is DUE
    # Damage, or a race with a writer: what reads without the store lock reads again.
    NO_ROW
    NO_REFERENCE
    DAMAGED_RECORD
    OTHER_CONTENT  # than the digest of the row or the map entry says

cdef class Reader:
    cdef readonly Codec codec
    cdef readonly uint64_t written
    cdef Tables tables
    cdef uint8_t reference[4096]

# The functions write BLOCK_BYTES to `block`, of any content when the status is not READ, and need as much in `reference`.
# Each word of a table is read once, and every id and place that it has is checked: nothing that a damaged word says makes
# them read or write outside the tables, the pool and the blocks.

# The block of a row, not checked against its digest.
cdef Status read_row(
    Contexts* contexts, const Columns* columns, uint64_t row, uint8_t* reference, uint8_t* block
) noexcept nogil

# The block of a map entry that is neither HOLE nor ZERO, checked against both digests.
cdef Status read_entry(
    Contexts* contexts, const Columns* columns, uint64_t entry, uint64_t seed, uint8_t* reference, uint8_t* block
) noexcept nogil

# Up to `count` blocks of a volume. Returns how many could be read, and adds to `written` those that are not HOLE.
cdef uint64_t read_blocks(
    Contexts* contexts,
    const Columns* columns,
    const MapView* block_map,
    uint64_t first,
    uint64_t count,
    uint64_t seed,
    uint8_t* reference,
    uint8_t* blocks,
    uint64_t* written,
) noexcept nogil

cdef enum:
    ATTEMPTS = 3  # of a block that a writer may be changing; then whoever has the store lock looks

# The same for a thread without the store lock, which reads a block again when it meets a writer. What it returns was
# current at a moment of the call.
cdef uint64_t read_unlocked(
    Contexts* contexts,
    const Columns* columns,
    const MapView* block_map,
    uint64_t first,
    uint64_t count,
    uint8_t* reference,
    uint8_t* blocks,
    uint64_t* written,
) noexcept nogil
