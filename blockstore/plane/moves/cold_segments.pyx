"""The segments that a pass of re-encoding looks at. See cold_segments.pyi.

With the interpreter's lock, though a large pool takes some 50 us: the caller has the store lock, for which lanes and
encoders wait, and would keep it while he waits for the other one.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

cdef enum:
    NOT_FULL = -1


cdef class ColdSegments:
    def __cinit__(self):
        self.count = 0
        self.generation = NULL
        self.cold = NULL

    def __dealloc__(self):
        free(self.generation)
        free(self.cold)

    def look(
        self,
        const int64_t[::1] generation not None,
        const uint8_t[::1] has_memory not None,
        const uint8_t[::1] is_retired not None,
        int64_t head,
        int64_t spare,
    ):
        cdef int64_t segment
        if not generation.shape[0] == has_memory.shape[0] == is_retired.shape[0]:
            raise ValueError(
                f"columns of {generation.shape[0]}, {has_memory.shape[0]} and {is_retired.shape[0]} segments"
            )
        self.make_room(generation.shape[0])
        for segment in range(generation.shape[0]):
            self.generation[segment] = generation[segment] if (has_memory[segment] != 0) & (
                is_retired[segment] == 0
            ) else NOT_FULL
        for segment in (head, spare):
            if 0 <= segment < generation.shape[0]:
                self.generation[segment] = NOT_FULL
        self.choose(False)

    def note_full(self, int64_t[::1] full_generation not None, double[::1] full_since_s not None, double now_s):
        cdef uint64_t segment
        cdef int64_t generation
        self.refuse_shorter(full_generation.shape[0])
        self.refuse_shorter(full_since_s.shape[0])
        for segment in range(self.count):
            generation = self.generation[segment]
            if full_generation[segment] != generation and generation != NOT_FULL:
                full_generation[segment], full_since_s[segment] = generation, now_s

    def choose_first(
        self, const int64_t[::1] first_look not None, const double[::1] full_since_s not None, double latest_s
    ):
        cdef uint64_t segment
        cdef int64_t generation
        cdef uint64_t chosen = 0
        self.refuse_shorter(first_look.shape[0])
        self.refuse_shorter(full_since_s.shape[0])
        for segment in range(self.count):
            generation = self.generation[segment]
            self.cold[segment] = (
                first_look[segment] != generation and generation != NOT_FULL and full_since_s[segment] <= latest_s
            )
            chosen += self.cold[segment]
        return chosen

    def choose_second(
        self,
        const int64_t[::1] first_look not None,
        const int64_t[::1] second_look not None,
        const double[::1] full_since_s not None,
        double latest_s,
        uint64_t most,
    ):
        cdef uint64_t segment
        cdef int64_t generation
        cdef uint64_t chosen = 0
        self.refuse_shorter(first_look.shape[0])
        self.refuse_shorter(second_look.shape[0])
        self.refuse_shorter(full_since_s.shape[0])
        for segment in range(self.count):
            generation = self.generation[segment]
            self.cold[segment] = (
                second_look[segment] != generation
                and first_look[segment] == generation
                and generation != NOT_FULL
                and full_since_s[segment] <= latest_s
                and chosen < most
            )
            chosen += self.cold[segment]
        return chosen

    def choose_all(self):
        self.choose(True)

    def finish(self, int64_t[::1] looked not None):
        cdef uint64_t segment
        self.refuse_shorter(looked.shape[0])
        for segment in range(self.count):
            if self.cold[segment]:
                looked[segment] = self.generation[segment]

    def numbers(self):
        return [segment for segment in range(self.count) if self.cold[segment]]

    cdef void choose(self, bint is_cold) noexcept nogil:
        """Lets all segments be chosen, or none."""
        if self.count:
            memset(self.cold, is_cold, self.count)

    cdef int make_room(self, uint64_t count) except -1:
        cdef int64_t* generation
        cdef uint8_t* cold
        if count > self.count:
            generation = <int64_t*>realloc(self.generation, count * sizeof(int64_t))
            if generation == NULL:
                raise MemoryError(f"no memory to look at {count} segments")
            self.generation = generation
            cold = <uint8_t*>realloc(self.cold, count)
            if cold == NULL:
                raise MemoryError(f"no memory to look at {count} segments")
            self.cold = cold
        self.count = count
        return 0

    cdef int refuse_shorter(self, Py_ssize_t length) except -1:
        if length < 0 or <uint64_t>length < self.count:
            raise ValueError(f"a column of {length} segments, of which {self.count} were looked at")
        return 0
