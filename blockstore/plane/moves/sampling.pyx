"""Blocks to train a dictionary on. See sampling.pyi."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from blockstore.plane.blocks.decode cimport READ, read_row
from blockstore.plane.codec.codec cimport Codec, digest_of
from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    FIRST_ROW,
    RAW,
    encoding_of,
    is_paged,
    is_patch,
    size_of,
)
from blockstore.plane.sync.atomics cimport load_16, load_64
from blockstore.plane.sync.epochs cimport Epochs, enter_epoch, leave_epoch
from blockstore.plane.tables.tables cimport Columns, Tables


cdef class Sampler:
    cdef Tables tables
    cdef Epochs epochs
    cdef Codec codec
    cdef uint32_t minimum_bytes
    cdef uint8_t[BLOCK_BYTES] block
    cdef uint8_t[BLOCK_BYTES] reference

    def __cinit__(self, Tables tables not None, Epochs epochs not None, *, uint32_t minimum_bytes):
        self.tables, self.epochs, self.minimum_bytes = tables, epochs, minimum_bytes
        self.codec = Codec()

    def sample(
        self, uint64_t domain, uint64_t seed, uint64_t every, uint64_t first, uint8_t[::1] blocks not None
    ):
        cdef uint64_t row, capacity
        cdef uint64_t number = 0, taken = 0, most = blocks.shape[0] // BLOCK_BYTES
        if every < 1:
            raise ValueError("every 0th block")
        with nogil:
            capacity = load_64(&self.tables.columns.capacity)
            for row in range(FIRST_ROW, capacity):
                if taken == most:
                    break
                if not self.is_wanted(row, domain):
                    continue
                if number >= first and (number - first) % every == 0 and self.read(row, seed):
                    memcpy(&blocks[taken * BLOCK_BYTES], self.block, BLOCK_BYTES)
                    taken += 1
                number += 1
        return taken

    cdef bint is_wanted(self, uint64_t row, uint64_t domain) noexcept nogil:
        cdef const Columns* columns = &self.tables.columns
        cdef uint64_t where = load_64(&columns.where[row])
        return (
            where != 0
            and not is_paged(where)
            and not is_patch(where)
            and encoding_of(where) != RAW
            and size_of(where) >= self.minimum_bytes
            and load_16(&columns.domain[row]) == domain
        )

    cdef bint read(self, uint64_t row, uint64_t seed) noexcept nogil:
        """Returns False for what is damaged, or changes just now."""
        cdef int slot = enter_epoch(&self.epochs.state)
        cdef uint64_t digest = load_64(&self.tables.columns.digest[row])
        cdef bint is_read = read_row(
            &self.codec.contexts, &self.tables.columns, row, self.reference, self.block
        ) == READ
        leave_epoch(&self.epochs.state, slot)
        return is_read and digest_of(self.block, seed) == digest
