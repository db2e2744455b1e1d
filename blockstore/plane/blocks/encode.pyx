"""Encoding of a batch of blocks. See encode.pyi."""

from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from blockstore.plane.sync.atomics cimport load_16, load_64
from blockstore.plane.tables.block_map cimport MapView
from blockstore.plane.codec.codec cimport RECORD_LIMIT_BYTES, Codec, digest_of, encode_hot
from blockstore.plane.tables.content_index cimport ContentIndex, Probe, next_row, prefetch, probe_of
from blockstore.plane.blocks.decode cimport READ, read_row
from blockstore.plane.sync.epochs cimport Epochs, enter_epoch, leave_epoch
from blockstore.plane.codec.features cimport FEATURE_KEYS, block_features
from blockstore.plane.codec.layout cimport BLOCK_BYTES, BLOCK_SHIFT, COMPRESSED, HINT, PATCHED, RAW, ZERO
from blockstore.plane.tables.similarity_index cimport SimilarityIndex, candidate, may_be_reference
from blockstore.plane.tables.tables cimport Columns, Tables


cdef class Batch:
    def __cinit__(
        self,
        int most_blocks,
        Tables tables not None,
        ContentIndex index not None,
        SimilarityIndex similarity not None,
        Epochs epochs not None,
        *,
        int raw_from_bytes,
        int patch_from_bytes,
        int lone_hint_from_bytes,
        int patch_gain_bytes,
        int most_dependents,
        bint patching,
    ):
        cdef uint32_t places = 2
        if not 0 < most_blocks <= 1 << 16:
            raise ValueError(f"a batch of {most_blocks} blocks")
        while places < 2 * <uint32_t>most_blocks:
            places *= 2
        self.policy = Policy(
            raw_from_bytes, patch_from_bytes, lone_hint_from_bytes, patch_gain_bytes, most_dependents, patching
        )
        self.tables, self.index, self.similarity, self.epochs = tables, index, similarity, epochs
        self.most = most_blocks
        self.codec = Codec()
        self.seen_mask = places - 1
        self.block = <Block*>calloc(most_blocks, sizeof(Block))
        self.content = <Content*>calloc(most_blocks, sizeof(Content))
        self.record_buffer = <uint8_t*>malloc(most_blocks * BLOCK_BYTES + RECORD_LIMIT_BYTES)
        self.record_ends = <uint64_t*>calloc(most_blocks, sizeof(uint64_t))
        self.old_entries = <uint64_t*>calloc(most_blocks, sizeof(uint64_t))
        self.rows = <uint32_t*>calloc(most_blocks, sizeof(uint32_t))
        self.seen = <int32_t*>calloc(places, sizeof(int32_t))
        self.base = <uint8_t*>malloc(2 * BLOCK_BYTES + RECORD_LIMIT_BYTES)
        self.pieces = <Py_buffer*>calloc(most_blocks, sizeof(Py_buffer))
        if (
            self.block == NULL
            or self.content == NULL
            or self.record_buffer == NULL
            or self.record_ends == NULL
            or self.old_entries == NULL
            or self.rows == NULL
            or self.seen == NULL
            or self.base == NULL
            or self.pieces == NULL
        ):
            raise MemoryError(f"no memory to encode {most_blocks} blocks")
        self.other = self.base + BLOCK_BYTES
        self.patch = self.other + BLOCK_BYTES

    def __dealloc__(self):
        if self.pieces != NULL:
            self.clear()
        free(self.block)
        free(self.content)
        free(self.record_buffer)
        free(self.record_ends)
        free(self.old_entries)
        free(self.rows)
        free(self.seen)
        free(self.base)
        free(self.pieces)

    def load(
        self, pieces, uint32_t domain, uint64_t seed, uint64_t zero_digest,
        const uint32_t[::1] key not None,
    ):
        cdef Py_ssize_t start
        if key.shape[0] != FEATURE_KEYS:
            raise ValueError(f"a key of {key.shape[0]} numbers")
        self.clear()
        self.domain, self.seed, self.zero_digest = domain, seed, zero_digest
        memcpy(self.key, &key[0], sizeof(self.key))
        for piece in pieces:
            if self.held == self.most:
                raise ValueError(f"more than {self.most} blocks")
            PyObject_GetBuffer(piece, &self.pieces[self.held], PyBUF_SIMPLE)
            self.held += 1
            length = self.pieces[self.held - 1].len
            if not length or length & (BLOCK_BYTES - 1) or self.blocks + (length >> BLOCK_SHIFT) > self.most:
                raise ValueError(f"{length} bytes for a batch of {self.most} blocks that has {self.blocks}")
            for start in range(0, length, BLOCK_BYTES):
                self.block[self.blocks].bytes = <const uint8_t*>self.pieces[self.held - 1].buf + start
                self.blocks += 1
        if not self.blocks:
            raise ValueError("nothing to encode")

    def encode(self):
        with nogil:
            self.encode_without_lock()

    def encode_again(self):
        self.encode_all()

    def is_valid(self):
        return self.is_current()

    def records(self):
        return PyMemoryView_FromMemory(<char*>self.record_buffer, self.record_bytes, PyBUF_READ)

    def ends(self):
        return PyMemoryView_FromMemory(<char*>self.record_ends, self.contents * sizeof(uint64_t), PyBUF_READ).cast("Q")

    def clear(self):
        self.blocks = self.contents = self.featured = self.published = 0
        self.record_bytes = 0
        while self.held:
            self.held -= 1
            PyBuffer_Release(&self.pieces[self.held])

    cdef void load_blocks(self, const MapView* view, const uint8_t* blocks, int count) noexcept nogil:
        cdef int number
        self.domain, self.seed, self.zero_digest = view.domain, view.seed, view.zero_digest
        memcpy(self.key, view.feature_key, sizeof(self.key))
        for number in range(count):
            self.block[number].bytes = blocks + <size_t>number * BLOCK_BYTES
        self.blocks = count

    cdef void encode_without_lock(self) noexcept nogil:
        cdef int slot = enter_epoch(&self.epochs.state)
        self.encode_all()
        leave_epoch(&self.epochs.state, slot)

    cdef void encode_all(self) noexcept nogil:
        cdef int number
        self.contents = self.featured = self.published = 0
        self.record_bytes = 0
        memset(self.seen, 0, (self.seen_mask + 1) * sizeof(int32_t))
        for number in range(self.blocks):
            self.block[number].digest = digest_of(self.block[number].bytes, self.seed)
            prefetch(&self.index.slots, self.block[number].digest)
        for number in range(self.blocks):
            self.encode_block(number)

    cdef void encode_block(self, int number) noexcept nogil:
        cdef Block* block = &self.block[number]
        block.where = 0
        block.content = -1
        if block.digest == self.zero_digest and is_zero(block.bytes):
            block.row = ZERO
            return
        block.row = self.find(block.bytes, block.digest, &block.where)
        if block.row:
            return
        block.content = self.find_in_batch(number)
        if block.content < 0:
            block.content = self.contents
            self.add_content(number)

    cdef uint32_t find(self, const uint8_t* block, uint64_t digest, uint64_t* where) noexcept nogil:
        """Returns the row of this domain that has this content, and its location word; 0 when there is none that is
        here: no write waits for a tier, and nothing new may be tied to damage."""
        cdef const Columns* columns = &self.tables.columns
        cdef Probe probe = probe_of(&self.index.slots, digest)
        cdef uint32_t row = next_row(&self.index.slots, columns, &probe, digest, self.domain)
        while row:
            where[0] = load_64(&columns.where[row])
            if (
                where[0]
                and read_row(&self.codec.contexts, columns, row, self.other, self.base) == READ
                and not memcmp(self.base, block, BLOCK_BYTES)
            ):
                return row
            row = next_row(&self.index.slots, columns, &probe, digest, self.domain)
        return 0

    cdef int32_t find_in_batch(self, int number) noexcept nogil:
        """Returns which content of the batch this block has. One that is the first with its content is entered, and -1
        returned."""
        cdef uint32_t place = <uint32_t>self.block[number].digest & self.seen_mask
        cdef int32_t content
        while self.seen[place]:
            content = self.seen[place] - 1
            if self.content[content].digest == self.block[number].digest and not memcmp(
                self.block[self.content[content].block].bytes, self.block[number].bytes, BLOCK_BYTES
            ):
                return content
            place = (place + 1) & self.seen_mask
        self.seen[place] = self.contents + 1
        return -1

    cdef void add_content(self, int number) noexcept nogil:
        cdef Content* content = &self.content[self.contents]
        cdef const uint8_t* block = self.block[number].bytes
        cdef uint8_t* record = self.record_buffer + self.record_bytes
        content.digest = self.block[number].digest
        content.block = number
        content.encoding = COMPRESSED
        content.reference = 0
        content.is_featured = False
        content.size_bytes = encode_hot(&self.codec.contexts, block, NULL, record)
        if content.size_bytes >= <uint32_t>self.policy.raw_from_bytes or not content.size_bytes:
            memcpy(record, block, BLOCK_BYTES)
            content.size_bytes = BLOCK_BYTES
            content.encoding = RAW
        elif self.policy.patching and content.size_bytes > <uint32_t>self.policy.patch_from_bytes:
            self.try_patch(content, block, record)
        self.featured += content.is_featured
        self.record_bytes += content.size_bytes
        self.record_ends[self.contents] = self.record_bytes
        self.contents += 1

    cdef void try_patch(self, Content* content, const uint8_t* block, uint8_t* record) noexcept nogil:
        """Replaces the record by a patch where that is smaller."""
        cdef int hints
        cdef int size
        cdef uint64_t where
        cdef uint64_t digest
        cdef uint32_t alike
        cdef const Columns* columns = &self.tables.columns
        block_features(block, self.key, content.features)
        content.is_featured = True
        alike = candidate(&self.similarity.table, columns, content.features, 0, &hints)
        if not alike or not self.may_be_reference(alike):
            return
        # Not good enough for LZ4, it may be for zstd, when both are cold (densify.py).
        content.reference = alike | HINT
        if hints == 1 and content.size_bytes < <uint32_t>self.policy.lone_hint_from_bytes:
            return
        digest = load_64(&columns.digest[alike])
        where = load_64(&columns.where[alike])
        if (
            read_row(&self.codec.contexts, columns, alike, self.other, self.base) != READ
            or digest_of(self.base, self.seed) != digest
        ):
            return
        size = encode_hot(&self.codec.contexts, block, self.base, self.patch)
        if not 0 < size < <int>content.size_bytes - self.policy.patch_gain_bytes:
            return
        memcpy(record, self.patch, size)
        content.size_bytes = size
        content.encoding = PATCHED
        content.reference = alike
        content.reference_where = where
        content.reference_digest = digest
        content.is_featured = False  # a patch is no reference

    cdef bint may_be_reference(self, uint32_t row) noexcept nogil:
        return may_be_reference(&self.tables.columns, row, self.domain, self.policy.most_dependents)

    cdef bint is_current(self) noexcept nogil:
        cdef const Columns* columns = &self.tables.columns
        cdef int number
        cdef Block* block
        cdef Content* content
        cdef uint32_t base
        for number in range(self.blocks):
            block = &self.block[number]
            if block.row > ZERO and not (
                block.row < columns.capacity
                and load_64(&columns.where[block.row]) == block.where
                and load_64(&columns.digest[block.row]) == block.digest
                and load_16(&columns.domain[block.row]) == self.domain
            ):
                return False
        for number in range(self.contents):
            content = &self.content[number]
            if content.encoding == PATCHED:
                base = content.reference
                if (
                    load_64(&columns.where[base]) != content.reference_where
                    or load_64(&columns.digest[base]) != content.reference_digest
                    or not self.may_be_reference(base)
                ):
                    return False
            block = &self.block[content.block]
            if self.find(block.bytes, block.digest, &block.where):
                return False  # somebody has stored it meanwhile
        return True


cdef bint is_zero(const uint8_t* block) noexcept nogil:
    return not block[0] and not memcmp(block, block + 1, BLOCK_BYTES - 1)
