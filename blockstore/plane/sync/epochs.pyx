"""Epochs. See epochs.pyi."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from blockstore.plane.sync.atomics cimport advance_64, claim_64, full_fence, load_64, store_64

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef int enter_epoch(EpochState* state) noexcept nogil:
    cdef int slot
    while True:
        for slot in range(SLOTS):
            if not load_64(&state.slots[slot].entered) and claim_64(
                &state.slots[slot].entered, load_64(&state.now)
            ):
                full_fence()
                return slot
        sched_yield()


cdef void leave_epoch(EpochState* state, int slot) noexcept nogil:
    store_64(&state.slots[slot].entered, 0)


cdef class Epochs:
    def __cinit__(self):
        memset(&self.state, 0, sizeof(self.state))
        self.state.now = 1

    def enter(self):
        cdef int slot
        with nogil:
            slot = enter_epoch(&self.state)
        return slot

    def leave(self, int slot):
        if not 0 <= slot < SLOTS or not load_64(&self.state.slots[slot].entered):
            raise ValueError(f"no thread is inside with slot {slot}")
        leave_epoch(&self.state, slot)

    def retire(self):
        return advance_64(&self.state.now)

    def is_over(self, uint64_t epoch):
        cdef int slot
        cdef uint64_t entered
        full_fence()
        for slot in range(SLOTS):
            entered = load_64(&self.state.slots[slot].entered)
            if entered and entered < epoch:
                return False
        return True
