# Epochs, for compiled code. What they are stands in epochs.pyi.

from libc.stdint cimport uint64_t

cdef enum:
    # Threads that may be inside at once: lanes, encoders and Python's, a dozen. One that finds no slot yields its core until
    # another has left, which none delays by a wait of its own.
    SLOTS = 64

cdef struct Slot:
    uint64_t entered  # the epoch in which its thread has entered; 0 for none
    uint64_t padding[7]  # a cache line each

cdef struct EpochState:
    uint64_t now
    Slot slots[SLOTS]

cdef class Epochs:
    cdef EpochState state

# Enters. Returns the slot with which the thread leaves.
cdef int enter_epoch(EpochState* state) noexcept nogil
cdef void leave_epoch(EpochState* state, int slot) noexcept nogil
