"""From rows and map entries back to blocks. See decode.pyi."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from blockstore.errors import CorruptBlock
from blockstore.plane.sync.atomics cimport acquire_fence, load_32, load_64, load_pointer
from blockstore.plane.tables.block_map cimport BlockMap, MapView, entry_of
from blockstore.plane.codec.codec cimport (
    RECORD_LIMIT_BYTES,
    Codec,
    Contexts,
    decode_record,
    digest_of,
    encode_hot,
)
from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    CHECK_SHIFT,
    COMPRESSED,
    DUE,
    HOLE,
    ID_MASK,
    ZERO_ENTRY,
    encoding_of,
    is_paged,
    is_patch,
    needs_dictionary,
    offset_of,
    size_of,
)
from blockstore.plane.codec.dictionary cimport ZSTD_DDict
from blockstore.plane.tables.tables cimport Columns, Tables, decoder_of

cdef struct SizesAlone:
    uint64_t each_bytes
    uint64_t once_bytes
    uint64_t stored_bytes


cdef Status read_record(
    Contexts* contexts, const Columns* columns, uint64_t row, uint64_t where, const uint8_t* reference, uint8_t* block
) noexcept nogil:
    cdef uint64_t offset = offset_of(where)
    cdef uint64_t size = size_of(where)
    cdef uint64_t pool_bytes = load_64(&columns.pool_bytes)
    cdef const ZSTD_DDict* dictionary = NULL
    cdef const uint8_t* pool = <const uint8_t*>load_pointer(&columns.pool)
    if is_paged(where):
        return IN_TIER
    if size > pool_bytes or offset > pool_bytes - size:
        return DAMAGED_RECORD
    if needs_dictionary(encoding_of(where)):
        dictionary = decoder_of(columns, row, where)
    if decode_record(contexts, pool + offset, size, encoding_of(where), reference, dictionary, block):
        return DAMAGED_RECORD
    return READ


cdef Status read_row(
    Contexts* contexts, const Columns* columns, uint64_t row, uint8_t* reference, uint8_t* block
) noexcept nogil:
    cdef uint64_t where, where_of_reference, base
    cdef Status status
    if row >= load_64(&columns.capacity):
        return NO_ROW
    where = load_64(&columns.where[row])
    if not is_patch(where):
        return read_record(contexts, columns, row, where, NULL, block)
    base = load_32(&columns.reference[row])
    if base >= load_64(&columns.capacity):
        return NO_REFERENCE
    where_of_reference = load_64(&columns.where[base])
    if is_patch(where_of_reference):
        return NO_REFERENCE
    status = read_record(contexts, columns, base, where_of_reference, NULL, reference)
    return status if status != READ else read_record(contexts, columns, row, where, reference, block)


cdef Status read_entry(
    Contexts* contexts, const Columns* columns, uint64_t entry, uint64_t seed, uint8_t* reference, uint8_t* block
) noexcept nogil:
    cdef uint64_t row = entry & ID_MASK
    cdef uint64_t digest
    cdef Status status
    if row == DUE:
        return AT_ANOTHER_HOST
    status = read_row(contexts, columns, row, reference, block)
    if status != READ:
        return status
    digest = digest_of(block, seed)
    if digest != load_64(&columns.digest[row]) or (digest ^ entry) >> CHECK_SHIFT:
        return OTHER_CONTENT
    return READ


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
) noexcept nogil:
    cdef uint64_t number, entry
    cdef uint8_t* block
    for number in range(count):
        entry = entry_of(block_map, first + number)
        block = blocks + number * BLOCK_BYTES
        if entry == HOLE or entry == ZERO_ENTRY:
            memset(block, 0, BLOCK_BYTES)
        elif read_entry(contexts, columns, entry, seed, reference, block) != READ:
            return number
        written[0] += entry != HOLE
    return count


cdef Status read_settled(
    Contexts* contexts,
    const Columns* columns,
    const MapView* block_map,
    uint64_t number,
    uint8_t* reference,
    uint8_t* block,
    uint64_t* written,
) noexcept nogil:
    cdef uint64_t entry
    cdef int attempt
    cdef Status status = OTHER_CONTENT
    for attempt in range(ATTEMPTS):
        entry = entry_of(block_map, number)
        if entry == HOLE or entry == ZERO_ENTRY:
            memset(block, 0, BLOCK_BYTES)
            status = READ
        else:
            status = read_entry(contexts, columns, entry, block_map.seed, reference, block)
        acquire_fence()
        # Another entry by now: its row may have been given to another content, whose digest has the same upper half.
        if entry_of(block_map, number) != entry:
            status = OTHER_CONTENT
        elif status == READ:
            written[0] += entry != HOLE
            return READ
        elif status == IN_TIER or status == AT_ANOTHER_HOST:
            return status
    return status


cdef uint64_t read_unlocked(
    Contexts* contexts,
    const Columns* columns,
    const MapView* block_map,
    uint64_t first,
    uint64_t count,
    uint8_t* reference,
    uint8_t* blocks,
    uint64_t* written,
) noexcept nogil:
    cdef uint64_t number
    for number in range(count):
        if read_settled(
            contexts, columns, block_map, first + number, reference, blocks + number * BLOCK_BYTES, written
        ) != READ:
            return number
    return count


cdef int size_alone(Contexts* contexts, const Columns* columns, uint64_t row, uint8_t* reference) noexcept nogil:
    """Returns the bytes of a row's block as an LZ4 record that is no patch; -1 when it cannot be read."""
    cdef uint8_t[BLOCK_BYTES] block
    cdef uint8_t[RECORD_LIMIT_BYTES] record
    cdef uint64_t where = load_64(&columns.where[row])
    if encoding_of(where) == COMPRESSED:
        return size_of(where)
    if read_row(contexts, columns, row, reference, block) != READ:
        return -1
    return encode_hot(contexts, block, NULL, record)


cdef uint64_t add_sizes(
    Contexts* contexts,
    const Columns* columns,
    uint64_t first,
    uint64_t end,
    int step_bytes,
    int raw_from_bytes,
    uint8_t* reference,
    SizesAlone* sizes,
) noexcept nogil:
    """Returns the first row that cannot be read, `end` if all can."""
    cdef uint64_t row
    cdef int size_bytes, in_steps
    for row in range(first, end):
        size_bytes = size_alone(contexts, columns, row, reference)
        if size_bytes < 0:
            return row
        in_steps = min((size_bytes + step_bytes - 1) // step_bytes * step_bytes, <int>BLOCK_BYTES)
        sizes.each_bytes += <uint64_t>in_steps * load_32(&columns.count[row])
        sizes.once_bytes += in_steps
        sizes.stored_bytes += BLOCK_BYTES if size_bytes >= raw_from_bytes else size_bytes
    return end


cdef class Reader:
    def __cinit__(self, Tables tables not None):
        self.tables = tables
        self.codec = Codec()
        self.written = 0

    def read(
        self, BlockMap block_map not None, uint64_t first, Py_ssize_t count, uint64_t seed, buffer, Py_ssize_t at
    ):
        cdef Py_buffer target
        cdef uint8_t* blocks
        cdef uint64_t done
        cdef uint64_t written = 0
        PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE)
        try:
            if at < 0 or at > target.len or not 0 <= count <= (target.len - at) // BLOCK_BYTES:
                raise ValueError(f"{count} blocks from byte {at} do not fit into a buffer of {target.len} bytes")
            blocks = <uint8_t*>target.buf + at
            if count == 1:
                # With the interpreter's lock: a fault would wait longer to get it back than it takes to decode a block.
                done = read_blocks(
                    &self.codec.contexts, &self.tables.columns, &block_map.view, first, 1, seed,
                    self.reference, blocks, &written
                )
            else:
                with nogil:
                    done = read_blocks(
                        &self.codec.contexts, &self.tables.columns, &block_map.view, first, count, seed,
                        self.reference, blocks, &written
                    )
        finally:
            PyBuffer_Release(&target)
        self.written = written
        return done

    def entry(self, uint64_t entry, uint64_t seed):
        block = PyBytes_FromStringAndSize(NULL, BLOCK_BYTES)
        cdef uint8_t* target = <uint8_t*>PyBytes_AS_STRING(block)
        cdef Status status = read_entry(
            &self.codec.contexts, &self.tables.columns, entry, seed, self.reference, target
        )
        return block if status == READ else None

    def row(self, uint64_t row):
        block = PyBytes_FromStringAndSize(NULL, BLOCK_BYTES)
        cdef uint8_t* target = <uint8_t*>PyBytes_AS_STRING(block)
        cdef Status status = read_row(&self.codec.contexts, &self.tables.columns, row, self.reference, target)
        return block if status == READ else None

    def sum_alone(self, uint64_t first, uint64_t end, int step_bytes, int raw_from_bytes):
        cdef SizesAlone sizes = SizesAlone(0, 0, 0)
        cdef const Columns* columns = &self.tables.columns
        cdef uint64_t reached
        if end > columns.capacity or step_bytes < 1:
            raise ValueError(f"rows {first} to {end} of {columns.capacity}, in steps of {step_bytes} bytes")
        with nogil:
            reached = add_sizes(
                &self.codec.contexts, columns, first, end, step_bytes, raw_from_bytes, self.reference, &sizes
            )
        if reached < end:
            raise CorruptBlock(reached, "its record cannot be decoded")
        return sizes.each_bytes, sizes.once_bytes, sizes.stored_bytes
