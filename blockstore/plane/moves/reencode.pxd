# A batch of cold blocks on their way to smaller records, for compiled code. Who does what with it stands in reencode.pyi.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.blocks.commit cimport Commit
from blockstore.plane.codec.dictionary cimport DictionaryEncoder, ZSTD_DDict
from blockstore.plane.codec.recompress cimport Job, Recompressor
from blockstore.plane.moves.cold_encoders cimport ColdWork
from blockstore.plane.moves.cold_scan cimport ColdScan
from blockstore.plane.sync.epochs cimport Epochs
from blockstore.plane.tables.similarity_index cimport SimilarityIndex

cdef struct Cold:
    # One that was picked, and what must still be so when its new record takes the old one's place.
    Job job
    uint64_t where
    uint32_t row
    uint32_t base  # the reference of a patch, or of what may become one; 0 without
    uint32_t domain
    bint is_described  # its domain is known
    const ZSTD_DDict* dictionary  # with which it is encoded alone; NULL for none
    uint8_t block[4096]
    uint8_t reference[4096]

cdef class Reencoder(ColdWork):
    cdef Commit commit
    cdef SimilarityIndex similarity
    cdef Epochs epochs
    cdef Recompressor recompressor
    cdef int most
    cdef uint32_t described_from_bytes
    cdef uint32_t most_dependents
    cdef Cold* cold
    cdef int count
    cdef list encoders  # dictionaries that the batch is encoded with
    cdef readonly int encoded  # the first so many of them were
    cdef bint is_hard  # of `work`
    cdef double gain_share
    cdef bint[2] is_allocated  # by `hard`: what zstd needs to encode
    cdef bint[2] is_allocated_with_dictionary
    cdef uint8_t other[4096]
    # Of those that `replace` publishes: their records, one behind the other, and where each ends.
    cdef uint8_t* records
    cdef uint64_t* ends
    cdef Cold** chosen
    cdef readonly uint64_t record_bytes
    cdef readonly uint64_t replaced
    cdef readonly int64_t saved_bytes

    cdef void pick_rows(self, ColdScan scan) noexcept nogil
    cdef void encode_next(self, bint hard, double gain_share) noexcept nogil
    cdef bint read(self, Cold* cold, uint32_t row, uint32_t encodings) noexcept nogil
    cdef void read_reference(self, Cold* cold, uint32_t base) noexcept nogil
    cdef void describe_blocks(
        self, uint32_t domain, uint64_t seed, const uint32_t* key, DictionaryEncoder encoder
    ) noexcept nogil
    cdef void find_reference(self, Cold* cold, const uint32_t* key) noexcept nogil
    cdef bint is_picked(self, uint32_t row) noexcept nogil
    cdef bint is_unchanged(self, const Cold* cold) noexcept nogil
    cdef bint may_still(self, const Cold* cold) noexcept nogil
    cdef bint replace_records(self, ColdScan scan, int64_t reserved_segments) noexcept nogil
    cdef void put_back_left(self, ColdScan scan) noexcept nogil
    cdef int choose(self, ColdScan scan) noexcept nogil
    cdef void publish(self, Cold* cold, uint64_t offset) noexcept nogil
    cdef bint meets_another(self, const Cold* cold, int count) noexcept nogil
    cdef void give_up_reference(self, const Cold* cold) noexcept nogil
