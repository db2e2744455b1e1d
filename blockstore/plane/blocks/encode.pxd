# A batch of blocks on their way into the store, for compiled code. Who does what with it stands in encode.pyi.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.tables.block_map cimport MapView
from blockstore.plane.codec.codec cimport Codec
from blockstore.plane.tables.content_index cimport ContentIndex
from blockstore.plane.sync.epochs cimport Epochs
from blockstore.plane.codec.features cimport FEATURES_A_BLOCK
from blockstore.plane.tables.similarity_index cimport SimilarityIndex
from blockstore.plane.tables.tables cimport Tables

cdef struct Policy:
    int raw_from_bytes
    int patch_from_bytes
    int lone_hint_from_bytes
    int patch_gain_bytes
    int most_dependents
    bint patching

cdef struct Block:
    const uint8_t* bytes
    uint64_t digest
    uint32_t row  # ZERO, or that of the same content; 0 for content that is not stored
    int32_t content  # which of the batch's contents it has, if `row` is 0
    uint64_t where  # of `row` when it was compared

cdef struct Content:
    # One that needs a new row.
    uint64_t digest
    uint32_t size_bytes
    uint32_t encoding
    uint32_t reference  # of the row: that of a patch, or a hint
    int32_t block  # the first that has it
    uint64_t reference_where  # of a patch's reference when it was read
    uint64_t reference_digest
    bint is_featured
    uint32_t features[4]

cdef class Batch:
    cdef Policy policy
    cdef Tables tables
    cdef ContentIndex index
    cdef SimilarityIndex similarity
    cdef Codec codec
    cdef Epochs epochs
    cdef int most
    cdef readonly int blocks
    cdef readonly int contents
    cdef readonly int featured
    cdef Block* block
    cdef Content* content
    cdef uint8_t* record_buffer
    cdef readonly uint64_t record_bytes
    cdef uint64_t* record_ends
    # Of the blocks that these replace, when they are published.
    cdef uint64_t* old_entries
    cdef int published
    cdef uint32_t* rows
    # Content of the batch by digest: open addressing, one more than the number of a content.
    cdef int32_t* seen
    cdef uint32_t seen_mask
    cdef uint8_t* base
    cdef uint8_t* other
    cdef uint8_t* patch
    cdef Py_buffer* pieces
    cdef int held
    cdef readonly uint32_t domain
    cdef uint64_t seed
    cdef uint64_t zero_digest
    cdef uint32_t key[7]

    # Takes whole blocks, at most `most`, that stay where they are until the batch is committed or loaded again.
    cdef void load_blocks(self, const MapView* view, const uint8_t* blocks, int count) noexcept nogil
    # Takes no lock: inside of the epochs.
    cdef void encode_without_lock(self) noexcept nogil
    # With the store lock, or inside of the epochs.
    cdef void encode_all(self) noexcept nogil
    cdef void encode_block(self, int number) noexcept nogil
    cdef void add_content(self, int number) noexcept nogil
    cdef void try_patch(self, Content* content, const uint8_t* block, uint8_t* record) noexcept nogil
    cdef uint32_t find(self, const uint8_t* block, uint64_t digest, uint64_t* where) noexcept nogil
    cdef int32_t find_in_batch(self, int number) noexcept nogil
    cdef bint may_be_reference(self, uint32_t row) noexcept nogil
    cdef bint is_current(self) noexcept nogil
