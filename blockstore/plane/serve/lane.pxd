# A thread's worth of answering the kernel. What it is stands in lane.pyi.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.codec.codec cimport Codec
from blockstore.plane.blocks.encode cimport Batch
from blockstore.plane.serve.encoders cimport Encoders
from blockstore.plane.serve.pipes cimport Pipe
from blockstore.plane.serve.requests cimport PlaneRequest, Requests
from blockstore.plane.tables.tables cimport Tables
from blockstore.plane.tables.volumes cimport LaneState, VolumeTable

cdef enum:
    SAMPLES = 256

cdef struct Sample:
    uint64_t inode
    uint64_t offset
    uint32_t pid
    int64_t duration_ns

cdef class Lane:
    cdef int fd
    cdef Pipe pipe  # empty before each request
    cdef size_t pipe_bytes
    cdef size_t request_bytes
    cdef bint is_direct
    cdef Tables tables
    cdef VolumeTable volumes
    cdef Requests requests
    cdef Encoders encoders  # None: Python gets each WRITE
    cdef Batch batch  # of one block, with encoders
    cdef Codec codec
    cdef LaneState* state
    cdef PlaneRequest* direct  # with read(2): room for whatever comes next
    cdef uint8_t* answer  # a mapping: header, and the blocks of the largest READ
    cdef bint is_answer_large  # more of it has memory than is kept
    cdef uint64_t turn
    cdef uint64_t turn_count  # the same, for others
    cdef Sample samples[256]
    cdef uint64_t written_samples
    cdef uint64_t read_samples
    cdef uint64_t is_watched  # somebody waits for the event
    cdef uint64_t has_ended
    cdef int event
    cdef uint64_t head[1024]  # SMALL_BYTES
    cdef uint8_t reference[4096]
