# Threads at idle priority, for compiled code. What they are stands in cold_encoders.pyi.

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass

cdef class ColdWork:
    # Works until it is done or `is_held` is not 0, at which it looks every millisecond at least. Takes no lock, calls no
    # malloc, enters no epoch, and touches no memory but its own: the thread may stand still in the midst of it for seconds.
    cdef void work(self, const uint8_t* is_held) noexcept nogil

cdef enum:
    DEPTH = 2  # pieces of work given to a thread: one under way, one that it finds when it is done

cdef struct ColdThread:
    pthread_t thread
    sem_t given  # posted for each piece of work, and once at the end
    int clock  # of the processor time that it takes
    void* works[DEPTH]
    uint64_t given_count  # these two are of the thread that gives
    uint64_t taken_back_count
    uint64_t done_count  # these four are of the thread itself, and others read them
    uint64_t wanted  # ns in which it had work; while it has, its bits are of a number below 0: that, less when it began
    uint64_t cpu_ns  # when it has ended
    uint8_t has_ended
    uint8_t is_refused  # the kernel does not let it have idle priority
    int64_t wanted_before_ns  # until it was started for the last time
    int64_t cpu_before_ns
    const uint8_t* is_held
    const uint8_t* is_over

cdef struct Crew:
    ColdThread* threads
    int count
    uint8_t is_held
    uint8_t is_over

cdef class ColdEncoders:
    cdef Crew* crew
    cdef list works  # of each thread, those that were given and not taken back
    cdef tuple times_of(self, const ColdThread* thread)
    cdef int checked(self, int thread) except -1
    cdef int start_one(self, ColdThread* thread) noexcept nogil
