"""Encodes cold blocks anew, a batch at a time. See reencode.pyi.

What is read without the store lock may change meanwhile. So it is checked against digests before it is encoded, and
compared with the tables, with the lock, before anything is published. A patch's reference and the count of its patches
come before the row's word, and what the row had before is let go after it. Each is one atomic store.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from blockstore.plane.blocks.commit cimport Books, Commit, release_reference
from blockstore.plane.blocks.decode cimport READ, read_row
from blockstore.plane.codec.codec cimport RECORD_LIMIT_BYTES
from blockstore.plane.codec.features cimport FEATURE_KEYS, FEATURES_A_BLOCK, block_features
from blockstore.plane.codec.dictionary cimport DictionaryEncoder
from blockstore.plane.codec.layout cimport (
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    FIRST_ROW,
    HINT,
    OFFSET_SHIFT,
    SIZE_SHIFT,
    encoding_of,
    is_paged,
    is_patch,
    size_of,
)
from blockstore.plane.codec.recompress cimport Recompressor
from blockstore.plane.moves.cold_encoders cimport ColdWork
from blockstore.plane.moves.cold_scan cimport ColdScan, is_tried, spared_bytes
from blockstore.plane.sync.atomics cimport (
    load_8,
    load_16,
    load_32,
    load_64,
    load_pointer,
    publish_16,
    publish_32,
    publish_64,
)
from blockstore.plane.sync.epochs cimport Epochs, enter_epoch, leave_epoch
from blockstore.plane.sync.lock cimport StoreLock
from blockstore.plane.tables.free_rows cimport mark
from blockstore.plane.tables.log cimport (
    APPENDED,
    Placed,
    append_records,
    can_let_go,
    fits_head,
    is_within_limit,
    let_go_of,
)
from blockstore.plane.tables.similarity_index cimport SimilarityIndex, candidate, may_be_reference
from blockstore.plane.tables.tables cimport Columns

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    MOST_BLOCKS = 256  # their records fit in a segment

include "../sync/points.pxi"


cdef class Reencoder(ColdWork):
    def __cinit__(
        self,
        Commit commit not None,
        SimilarityIndex similarity not None,
        Epochs epochs not None,
        int most_blocks,
        *,
        uint32_t gain_bytes,
        uint32_t patch_gain_bytes,
        double enough_share,
        uint32_t described_from_bytes,
        uint32_t most_dependents,
    ):
        if not 0 < most_blocks <= MOST_BLOCKS:
            raise ValueError(f"a batch of {most_blocks} blocks; it may have 1 to {MOST_BLOCKS}")
        self.commit, self.similarity, self.epochs = commit, similarity, epochs
        self.recompressor = Recompressor(
            gain_bytes=gain_bytes, patch_gain_bytes=patch_gain_bytes, enough_share=enough_share
        )
        self.most = most_blocks
        self.described_from_bytes, self.most_dependents = described_from_bytes, most_dependents
        self.encoders = []
        self.cold = <Cold*>malloc(most_blocks * sizeof(Cold))
        self.records = <uint8_t*>malloc(most_blocks * RECORD_LIMIT_BYTES)
        self.ends = <uint64_t*>calloc(most_blocks, sizeof(uint64_t))
        self.chosen = <Cold**>calloc(most_blocks, sizeof(Cold*))
        if self.cold == NULL or self.records == NULL or self.ends == NULL or self.chosen == NULL:
            raise MemoryError("no memory for a batch of cold blocks")
        # A thread at idle priority must not be the first to touch it: a page fault takes locks of the process's memory.
        memset(self.cold, 1, most_blocks * sizeof(Cold))

    def __dealloc__(self):
        free(self.cold)
        free(self.records)
        free(self.ends)
        free(self.chosen)

    @property
    def left(self):
        return self.count - self.encoded

    @property
    def has_gained(self):
        cdef int number
        for number in range(self.encoded):
            if self.cold[number].job.record_bytes:
                return True
        return False

    def pick(self, ColdScan scan not None):
        cdef int number
        self.encoders.clear()
        with nogil:
            self.pick_rows(scan)
        return {self.cold[number].domain for number in range(self.count)}

    def describe(self, uint32_t domain, uint64_t seed, const uint32_t[::1] key not None, DictionaryEncoder encoder=None):
        if key.shape[0] != FEATURE_KEYS:
            raise ValueError(f"a key of {key.shape[0]} numbers")
        if encoder is not None:
            self.encoders.append(encoder)
        with nogil:
            self.describe_blocks(domain, seed, &key[0], encoder)

    def encode(self, int most_blocks, *, bint hard, double gain_share):
        cdef int number
        cdef int first = self.encoded
        cdef int end = min(self.count, first + max(most_blocks, 0))
        with nogil:
            for number in range(first, end):
                self.encode_next(hard, gain_share)
        return end - first

    def prepare(self, *, bint hard, double gain_share):
        cdef DictionaryEncoder encoder
        self.is_hard, self.gain_share = hard, gain_share
        if not self.is_allocated[hard]:
            self.recompressor.allocate(hard, NULL)
            self.is_allocated[hard] = True
        if self.encoders and not self.is_allocated_with_dictionary[hard]:
            encoder = self.encoders[0]  # all dictionaries have tables of one size
            self.recompressor.allocate(hard, encoder.tables)
            self.is_allocated_with_dictionary[hard] = True

    def replace(self, ColdScan scan not None, int64_t reserved_segments, StoreLock lock):
        cdef bint is_done
        with nogil:
            if lock is not None:
                lock.acquire()
            is_done = self.replace_records(scan, reserved_segments)
            if lock is not None:
                lock.release()
        return is_done

    def put_back(self, ColdScan scan not None):
        cdef int number
        self.put_back_left(scan)
        for number in range(self.encoded - 1, -1, -1):
            if self.cold[number].job.record_bytes:
                scan.put_back(self.cold[number].row)
        self.count = self.encoded = 0

    def gains(self):
        cdef int number
        return [
            (
                self.cold[number].row,
                self.cold[number].base,
                PyBytes_FromStringAndSize(
                    <const char*>self.cold[number].job.record, self.cold[number].job.record_bytes
                ),
                bool(self.cold[number].job.becomes_patch),
            )
            for number in range(self.encoded)
            if self.cold[number].job.record_bytes
        ]

    cdef void work(self, const uint8_t* is_held) noexcept nogil:
        while self.encoded < self.count and not load_8(is_held):
            self.encode_next(self.is_hard, self.gain_share)
            # Idle priority is a weight of 3 beside 1024, and not less than nothing: now and then the scheduler has a
            # thread that was woken wait for our slice of up to 4 ms. It ends with each block.
            sched_yield()

    cdef void encode_next(self, bint hard, double gain_share) noexcept nogil:
        if self.cold[self.encoded].is_described:
            self.recompressor.encode_job(&self.cold[self.encoded].job, hard, gain_share)
        self.encoded += 1

    cdef void pick_rows(self, ColdScan scan) noexcept nogil:
        cdef int slot = enter_epoch(&self.epochs.state)
        cdef uint32_t row
        cdef int taken = 0
        self.count = self.encoded = 0
        while taken < self.most:
            row = scan.take()
            if not row:
                break
            taken += 1
            if not self.is_picked(row) and self.read(&self.cold[self.count], row, scan.encodings):
                self.count += 1
        leave_epoch(&self.epochs.state, slot)

    cdef bint is_picked(self, uint32_t row) noexcept nogil:
        """Returns whether it is in the batch already: it was put back when the next rows were found, and is one."""
        cdef int number
        for number in range(self.count):
            if self.cold[number].row == row:
                return True
        return False

    cdef bint read(self, Cold* cold, uint32_t row, uint32_t encodings) noexcept nogil:
        """Returns False for a row that was freed or encoded anew since it was listed, or cannot be read: whoever reads
        it is told, and what is in the tier is cold enough."""
        cdef const Columns* columns = self.commit.books.columns
        cdef uint64_t where
        cdef uint32_t base
        if row >= load_64(&columns.capacity):
            return False
        where = load_64(&columns.where[row])
        if not where or is_paged(where):
            return False
        base = load_32(&columns.reference[row])
        cold.row, cold.where, cold.domain, cold.base = row, where, load_16(&columns.domain[row]), 0
        cold.is_described = False
        cold.dictionary, cold.job.dictionary, cold.job.alone_encoding = NULL, NULL, DENSE
        cold.job.digest = load_64(&columns.digest[row])
        cold.job.block, cold.job.reference, cold.job.reference_digest = cold.block, NULL, 0
        cold.job.encoding, cold.job.size_bytes = encoding_of(where), size_of(where)
        cold.job.spared_bytes = spared_bytes(columns, base) if is_patch(where) else 0
        cold.job.record_bytes = 0
        if not is_tried(encodings, cold.job.encoding) and not cold.job.spared_bytes:
            return False
        if read_row(&self.recompressor.codec.contexts, columns, row, cold.reference, cold.block) != READ:
            return False
        if not is_patch(where):
            if not load_16(&columns.dependents[row]):
                self.read_reference(cold, base ^ HINT)
        elif FIRST_ROW <= base < load_64(&columns.capacity):
            cold.base, cold.job.reference = base, cold.reference
            cold.job.reference_digest = load_64(&columns.digest[base])
        return cold.base or not is_patch(where)

    cdef void read_reference(self, Cold* cold, uint32_t base) noexcept nogil:
        """Lets a block be tried as a patch against a row, if that may be a reference and can be read."""
        cdef const Columns* columns = self.commit.books.columns
        cdef uint64_t digest
        if base < FIRST_ROW or base == cold.row or not may_be_reference(
            columns, base, cold.domain, self.most_dependents
        ):
            return
        digest = load_64(&columns.digest[base])
        if read_row(&self.recompressor.codec.contexts, columns, base, self.other, cold.reference) == READ:
            cold.base, cold.job.reference, cold.job.reference_digest = base, cold.reference, digest

    cdef void describe_blocks(
        self, uint32_t domain, uint64_t seed, const uint32_t* key, DictionaryEncoder encoder
    ) noexcept nogil:
        cdef int slot = enter_epoch(&self.epochs.state)
        cdef int number
        cdef Cold* cold
        for number in range(self.encoded, self.count):
            cold = &self.cold[number]
            if cold.domain == domain:
                cold.job.seed, cold.is_described = seed, True
                if encoder is not None:
                    cold.dictionary, cold.job.dictionary = encoder.dictionary.decoder, encoder.tables
                    cold.job.alone_encoding = DENSE_FIRST + encoder.slot
                if not cold.base and cold.job.size_bytes > self.described_from_bytes:
                    self.find_reference(cold, key)
        leave_epoch(&self.epochs.state, slot)

    cdef void find_reference(self, Cold* cold, const uint32_t* key) noexcept nogil:
        """Has the similarity index propose a reference."""
        cdef const Columns* columns = self.commit.books.columns
        cdef uint32_t[FEATURES_A_BLOCK] features
        cdef int hints
        if load_16(&columns.dependents[cold.row]):
            return
        block_features(cold.block, key, features)
        self.read_reference(cold, candidate(&self.similarity.table, columns, features, cold.row, &hints))

    cdef bint replace_records(self, ColdScan scan, int64_t reserved_segments) noexcept nogil:
        """Returns False, and nothing has changed in the store, when there is no room, or the records could not be
        written."""
        cdef Books* books = &self.commit.books
        cdef Placed placed
        cdef uint64_t offset
        cdef int number
        cdef int count = self.choose(scan)
        if count:
            if not can_let_go(books.log, count) or not is_within_limit(books.log, reserved_segments):
                return False
            if not fits_head(books.log, self.record_bytes) and books.log.spare < 0:
                return False
            if append_records(books.log, self.records, self.ends, count, &placed) != APPENDED:
                return False
            offset = placed.first
            for number in range(count):
                if number == placed.split:
                    offset = placed.second
                self.publish(self.chosen[number], offset)
                offset += self.chosen[number].job.record_bytes
            for number in range(count):
                let_go_of(books.log, self.chosen[number].where)
            for number in range(count):
                self.give_up_reference(self.chosen[number])
            self.replaced += count
        self.put_back_left(scan)
        self.count = self.encoded = 0
        return True

    cdef void put_back_left(self, ColdScan scan) noexcept nogil:
        cdef int number
        for number in range(self.count - 1, self.encoded - 1, -1):
            scan.put_back(self.cold[number].row)

    cdef int choose(self, ColdScan scan) noexcept nogil:
        """Lists those whose records can be published, and puts the records behind each other. The others are left
        alone: those that have changed, and those for which what has to do with their references has, or does with one
        of the others, are picked again, as things are by then."""
        cdef Cold* cold
        cdef int number
        cdef int count = 0
        self.record_bytes = 0
        for number in range(self.encoded):
            cold = &self.cold[number]
            if not cold.job.record_bytes:
                continue
            if not self.is_unchanged(cold):
                cold.job.record_bytes = 0
                continue
            if not self.may_still(cold) or self.meets_another(cold, count):
                cold.job.record_bytes = 0
                scan.put_back(cold.row)
                continue
            memcpy(self.records + self.record_bytes, cold.job.record, cold.job.record_bytes)
            self.record_bytes += cold.job.record_bytes
            self.ends[count], self.chosen[count] = self.record_bytes, cold
            count += 1
        return count

    cdef bint is_unchanged(self, const Cold* cold) noexcept nogil:
        cdef const Columns* columns = self.commit.books.columns
        return (
            cold.row < columns.capacity
            and columns.where[cold.row] == cold.where
            and columns.digest[cold.row] == cold.job.digest
            and (not is_patch(cold.where) or columns.reference[cold.row] == cold.base)
        )

    cdef bint may_still(self, const Cold* cold) noexcept nogil:
        """Returns whether what has to do with the reference is as it was, too, and with the dictionary: when records may
        need another one from now on, those that need this are being counted."""
        cdef const Columns* columns = self.commit.books.columns
        if (
            cold.dictionary != NULL
            and not cold.job.becomes_patch
            and load_pointer(&columns.dictionaries[cold.domain].current) != cold.dictionary
        ):
            return False
        # The same row may have been freed and be another block's by now.
        if cold.job.becomes_patch and columns.digest[cold.base] != cold.job.reference_digest:
            return False
        if cold.job.becomes_patch == is_patch(cold.where):
            return True
        if not cold.job.becomes_patch:
            return spared_bytes(columns, cold.base) == cold.job.spared_bytes
        return (
            may_be_reference(columns, cold.base, columns.domain[cold.row], self.most_dependents)
            and not columns.dependents[cold.row]
        )

    cdef bint meets_another(self, const Cold* cold, int count) noexcept nogil:
        """Returns whether it would become a patch against a patch, or one with patches against it."""
        cdef int number
        if not cold.job.becomes_patch:
            return False
        for number in range(count):
            if self.chosen[number].job.becomes_patch and (
                self.chosen[number].base == cold.row or self.chosen[number].row == cold.base
            ):
                return True
        return False

    cdef void publish(self, Cold* cold, uint64_t offset) noexcept nogil:
        cdef Books* books = &self.commit.books
        cdef Columns* columns = books.columns
        cdef uint64_t size_bytes = cold.job.record_bytes
        if cold.job.becomes_patch and not is_patch(cold.where):
            publish_32(&columns.reference[cold.row], cold.base)
            mark(books.changed, cold.base)
            publish_16(&columns.dependents[cold.base], columns.dependents[cold.base] + 1)
        publish_64(
            &columns.where[cold.row],
            offset << OFFSET_SHIFT
            | size_bytes << SIZE_SHIFT
            | <uint64_t>(DENSE_PATCHED if cold.job.becomes_patch else cold.job.alone_encoding),
        )
        self.saved_bytes += <int64_t>size_of(cold.where) - <int64_t>size_bytes

    cdef void give_up_reference(self, const Cold* cold) noexcept nogil:
        """Frees what a row was a patch against, if it is none any more."""
        if is_patch(cold.where) and not cold.job.becomes_patch:
            self.saved_bytes += spared_bytes(self.commit.books.columns, cold.base)
            release_reference(&self.commit.books, cold.base)
