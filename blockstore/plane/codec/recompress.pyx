"""Encodes cold blocks anew. See recompress.pyi."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from blockstore.plane.codec.codec cimport Codec, digest_of, encode_cold
from blockstore.plane.codec.dictionary cimport DictionaryEncoder, ZSTD_CDict
from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    DENSE,
    DENSE_FIRST,
    PATCH_BITS,
    encoding_of,
    is_dense,
    needs_dictionary,
    size_of,
)


# Of its record, what one may take instead that needs another dictionary. Few get longer: blocks that the older one was
# trained on, of which it has pieces.
cdef double LEAVING_SHARE = 1.5


cdef class Recompressor:
    def __cinit__(self, *, uint32_t gain_bytes, uint32_t patch_gain_bytes, double enough_share):
        self.limits = Limits(gain_bytes, patch_gain_bytes, enough_share)
        self.codec = Codec()

    def encode(
        self,
        bytes block not None,
        uint64_t where,
        uint64_t digest,
        uint64_t seed,
        bytes reference=None,
        uint64_t reference_digest=0,
        *,
        uint32_t spared_bytes=0,
        DictionaryEncoder encoder=None,
        bint hard,
        double gain_share,
    ):
        cdef Job job
        job.block = bytes_of_block(block)
        job.reference = bytes_of_block(reference) if reference is not None else NULL
        job.digest, job.reference_digest, job.seed = digest, reference_digest, seed
        job.encoding, job.size_bytes, job.spared_bytes = encoding_of(where), size_of(where), spared_bytes
        job.dictionary, job.alone_encoding = NULL, DENSE
        if encoder is not None:
            job.dictionary, job.alone_encoding = encoder.tables, DENSE_FIRST + encoder.slot
        self.encode_job(&job, hard, gain_share)
        if not job.record_bytes:
            return None
        return PyBytes_FromStringAndSize(<const char*>job.record, job.record_bytes), bool(job.becomes_patch)

    cdef void encode_job(self, Job* job, bint hard, double gain_share) noexcept nogil:
        cdef bint was_patch = job.encoding & PATCH_BITS == PATCH_BITS
        cdef bint was_cold = is_dense(job.encoding)
        cdef uint32_t patch_costs = job.spared_bytes if was_patch else self.limits.patch_gain_bytes
        cdef int size = 0
        job.record_bytes = 0
        if digest_of(job.block, job.seed) != job.digest:
            return
        if (
            job.reference != NULL
            and (hard or not was_cold)
            and digest_of(job.reference, job.seed) == job.reference_digest
        ):
            size = encode_cold(&self.codec.contexts, job.block, job.reference, hard, NULL, job.record)
            if 0 < size < BLOCK_BYTES:
                job.record_bytes = size
                job.becomes_patch = True
        if not was_patch or job.spared_bytes:
            if not (
                job.record_bytes and job.record_bytes + patch_costs <= self.limits.enough_share * job.size_bytes
            ):
                size = encode_cold(&self.codec.contexts, job.block, NULL, hard, job.dictionary, self.other)
                if 0 < size < BLOCK_BYTES and (
                    not job.record_bytes or <uint32_t>size <= job.record_bytes + patch_costs
                ):
                    memcpy(job.record, self.other, size)
                    job.record_bytes = size
                    job.becomes_patch = False
        if job.record_bytes and not is_worth(job, &self.limits, gain_share, was_patch):
            job.record_bytes = 0

    cdef void allocate(self, bint hard, const ZSTD_CDict* dictionary) noexcept nogil:
        cdef uint8_t[BLOCK_BYTES] block
        memset(block, 0, sizeof(block))
        # With a reference its window is larger: what zstd allocates then is enough for blocks alone.
        encode_cold(&self.codec.contexts, block, block if dictionary == NULL else NULL, hard, dictionary, self.other)


cdef const uint8_t* bytes_of_block(bytes block) except NULL:
    if PyBytes_GET_SIZE(block) != BLOCK_BYTES:
        raise ValueError(f"a block of {len(block)} bytes; it must be {BLOCK_BYTES}")
    return <const uint8_t*>PyBytes_AS_STRING(block)


cdef bint is_worth(const Job* job, const Limits* limits, double gain_share, bint was_patch) noexcept nogil:
    """Whether the record saves enough, beside the old one and, when the patch is given up, what only it kept."""
    cdef double before = job.size_bytes
    if needs_dictionary(job.encoding) and job.encoding != job.alone_encoding:
        # It alone may keep a dictionary that no other record needs, and with it another one from being trained.
        return job.record_bytes <= LEAVING_SHARE * before
    if job.becomes_patch != was_patch:
        before += job.spared_bytes
    if is_dense(job.encoding):
        return job.record_bytes < before and before - job.record_bytes >= gain_share * before
    return before - job.record_bytes >= max(<double>limits.gain_bytes, gain_share * before)
