"""Encodes cold blocks anew. See recompress.pyi."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from blockstore.plane.codec.codec cimport Codec, Contexts, digest_of, encode_cold
from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    DENSE,
    DENSE_PATCHED,
    PATCH_BITS,
    encoding_of,
    size_of,
)


cdef class Recompressor:
    def __cinit__(self, int batch_blocks, *, uint32_t gain_bytes, uint32_t patch_gain_bytes, double enough_share):
        if batch_blocks < 1:
            raise ValueError(f"a batch of {batch_blocks} blocks; it must have one at least")
        self.jobs = <Job*>calloc(batch_blocks, sizeof(Job))
        if self.jobs == NULL:
            raise MemoryError("no memory for a batch of cold blocks")
        self.capacity = batch_blocks
        self.limits.gain_bytes = gain_bytes
        self.limits.patch_gain_bytes = patch_gain_bytes
        self.limits.enough_share = enough_share
        self.codec = Codec()

    def __dealloc__(self):
        free(self.jobs)

    def encode(self, batch, *, bint hard, double gain_share):
        cdef list held = list(batch)  # keeps the blocks that the jobs point at
        cdef int count = <int>len(held)
        cdef int place
        if count > self.capacity:
            raise ValueError(f"a batch of {count} blocks; there is room for {self.capacity}")
        if self.is_busy:
            raise RuntimeError("a Recompressor is for one thread at a time")
        self.is_busy = True
        try:
            for place in range(count):
                fill(&self.jobs[place], held[place])
            self.limits.gain_share = gain_share
            with nogil:
                for place in range(count):
                    encode_job(&self.codec.contexts, &self.limits, hard, &self.jobs[place], self.other)
            return [result(&self.jobs[place]) for place in range(count)]
        finally:
            self.is_busy = False


cdef int fill(Job* job, object cold) except -1:
    """Raises ValueError for a block or a reference of another size."""
    cdef object where = cold.where
    cdef bytes block = cold.block
    cdef bytes reference = cold.reference
    job.block = bytes_of_block(block)
    job.reference = bytes_of_block(reference) if reference else NULL
    job.digest = cold.digest
    job.reference_digest = cold.base_digest
    job.seed = cold.seed
    job.encoding = encoding_of(where)
    job.size_bytes = size_of(where)
    job.spared_bytes = cold.spared_bytes
    job.record_bytes = 0
    return 0


cdef const uint8_t* bytes_of_block(bytes block) except NULL:
    if PyBytes_GET_SIZE(block) != BLOCK_BYTES:
        raise ValueError(f"a block of {len(block)} bytes; it must be {BLOCK_BYTES}")
    return <const uint8_t*>PyBytes_AS_STRING(block)


cdef object result(const Job* job):
    if not job.record_bytes:
        return None
    return PyBytes_FromStringAndSize(<const char*>job.record, job.record_bytes), bool(job.becomes_patch)


cdef void encode_job(
    Contexts* contexts, const Limits* limits, bint hard, Job* job, uint8_t* other
) noexcept nogil:
    """Leaves the record that stores least in the job, and none if it is not worth it. `other` is scratch."""
    cdef bint was_patch = job.encoding & PATCH_BITS == PATCH_BITS
    cdef bint was_cold = job.encoding == DENSE or job.encoding == DENSE_PATCHED
    cdef uint32_t patch_costs = job.spared_bytes if was_patch else limits.patch_gain_bytes
    cdef int size = 0
    if digest_of(job.block, job.seed) != job.digest:
        return
    if job.reference != NULL and (hard or not was_cold) and digest_of(job.reference, job.seed) == job.reference_digest:
        size = encode_cold(contexts, job.block, job.reference, hard, job.record)
        if 0 < size < BLOCK_BYTES:
            job.record_bytes = size
            job.becomes_patch = True
    if not was_patch or job.spared_bytes:
        if not (job.record_bytes and job.record_bytes + patch_costs <= limits.enough_share * job.size_bytes):
            size = encode_cold(contexts, job.block, NULL, hard, other)
            if 0 < size < BLOCK_BYTES and (not job.record_bytes or <uint32_t>size <= job.record_bytes + patch_costs):
                memcpy(job.record, other, size)
                job.record_bytes = size
                job.becomes_patch = False
    if job.record_bytes and not is_worth(job, limits, was_patch):
        job.record_bytes = 0


cdef bint is_worth(const Job* job, const Limits* limits, bint was_patch) noexcept nogil:
    """Whether the record saves enough, beside the old one and, when the patch is given up, what only it kept."""
    cdef double before = job.size_bytes
    if job.becomes_patch != was_patch:
        before += job.spared_bytes
    return before - job.record_bytes >= max(<double>limits.gain_bytes, limits.gain_share * before)
