"""Threads at idle priority. See cold_encoders.pyi."""

import os

cimport cython
from cpython.ref cimport Py_INCREF
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from blockstore.plane.sync.atomics cimport load_8, load_64, store_8, store_64
from blockstore.plane.sync.clock cimport CLOCK_MONOTONIC, CLOCK_REALTIME, SECOND_NS, now_ns, timespec

cdef extern from "<pthread.h>" nogil:
    """
    #include <limits.h>
    #include <sched.h>
    #include <signal.h>
    #ifndef SCHED_IDLE
    #define SCHED_IDLE 5 /* include/uapi/linux/sched.h */
    #endif
    """
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t* attributes)
    int pthread_attr_destroy(pthread_attr_t* attributes)
    int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size)
    int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*) noexcept nogil, void* of)
    int pthread_timedjoin_np(pthread_t thread, void** result, const timespec* deadline)
    int pthread_getcpuclockid(pthread_t thread, int* clock)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t* signals)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before)

cdef extern from "<sched.h>" nogil:
    struct sched_param:
        int sched_priority
    int SCHED_IDLE
    int sched_setscheduler(int thread, int policy, const sched_param* parameter)

cdef extern from "<semaphore.h>" nogil:
    int sem_init(sem_t* semaphore, int shared, unsigned value)
    int sem_destroy(sem_t* semaphore)
    int sem_wait(sem_t* semaphore)
    int sem_post(sem_t* semaphore)

cdef extern from "<time.h>" nogil:
    int CLOCK_THREAD_CPUTIME_ID

cdef enum:
    MOST_THREADS = 64
    # zstd's encoders have their tables in contexts, and take 20 KiB of stack. Address space; memory where it is touched.
    STACK_BYTES = 256 << 10
    DEALLOC_WAIT_S = 5  # far more than a thread takes to leave its work on a machine on which anything still runs


cdef class ColdWork:
    cdef void work(self, const uint8_t* is_held) noexcept nogil:
        pass


cdef void* run_thread(void* of) noexcept nogil:
    cdef ColdThread* thread = <ColdThread*>of
    cdef sched_param parameter
    memset(&parameter, 0, sizeof(parameter))
    if sched_setscheduler(0, SCHED_IDLE, &parameter):
        store_8(&thread.is_refused, 1)
    while True:
        while sem_wait(&thread.given) and errno == EINTR:
            pass
        if load_8(thread.is_over):
            break
        work_on_next(thread)
    store_64(&thread.cpu_ns, <uint64_t>now_ns(CLOCK_THREAD_CPUTIME_ID))
    store_8(&thread.has_ended, 1)
    return NULL


cdef void work_on_next(ColdThread* thread) noexcept nogil:
    cdef uint64_t done = thread.done_count
    cdef uint64_t wanted = thread.wanted
    cdef int64_t began_ns
    # Its owner holds a reference until it has taken it back: nothing is counted here.
    cdef void* work = thread.works[done % DEPTH]
    if not thread.is_refused:
        began_ns = now_ns(CLOCK_MONOTONIC)
        store_64(&thread.wanted, wanted - <uint64_t>began_ns)
        (<ColdWork>work).work(thread.is_held)
        store_64(&thread.wanted, wanted + <uint64_t>(now_ns(CLOCK_MONOTONIC) - began_ns))
    store_64(&thread.done_count, done + 1)


cdef int64_t wanted_ns_of(const ColdThread* thread) noexcept nogil:
    """Returns for how long it had work, with what it is at."""
    cdef int64_t wanted = <int64_t>load_64(&thread.wanted)
    return wanted if wanted >= 0 else wanted + now_ns(CLOCK_MONOTONIC)


@cython.no_gc_clear  # threads may still have what is in `works`
cdef class ColdEncoders:
    def __cinit__(self, int count):
        if not 0 < count <= MOST_THREADS:
            raise ValueError(f"{count} threads; there may be 1 to {MOST_THREADS}")
        self.crew = <Crew*>calloc(1, sizeof(Crew))
        if self.crew == NULL:
            raise MemoryError("no memory for threads at idle priority")
        self.crew.threads = <ColdThread*>calloc(count, sizeof(ColdThread))
        if self.crew.threads == NULL:
            raise MemoryError("no memory for threads at idle priority")
        self.crew.count = count
        self.works = [[] for _ in range(count)]

    def __dealloc__(self):
        if self.crew == NULL:
            return
        if self.crew.threads != NULL and not end_all(self.crew, DEALLOC_WAIT_S):
            Py_INCREF(self.works)  # a thread still has them, and the crew: they stay for good
            return
        free(self.crew.threads)
        free(self.crew)

    @property
    def count(self):
        return self.crew.count

    @property
    def is_running(self):
        return any(self.crew.threads[number].thread for number in range(self.crew.count))

    @property
    def is_ending(self):
        return bool(self.crew.is_over) and self.is_running

    @property
    def is_refused(self):
        return any(load_8(&self.crew.threads[number].is_refused) for number in range(self.crew.count))

    @property
    def given(self):
        return sum(map(len, self.works))

    def start(self):
        cdef int number, failed
        if self.is_running:
            raise ValueError("they are running")
        if self.given:
            raise ValueError(f"{self.given} pieces of work are still to be taken back")
        self.crew.is_over = self.crew.is_held = 0
        for number in range(self.crew.count):
            failed = self.start_one(&self.crew.threads[number])
            if failed:
                self.stop(0)
                raise OSError(failed, os.strerror(failed))

    def has_place(self, int thread):
        cdef const ColdThread* of = &self.crew.threads[self.checked(thread)]
        return of.thread != 0 and not self.crew.is_over and of.given_count - of.taken_back_count < DEPTH

    def give(self, int thread, ColdWork work not None):
        cdef ColdThread* to = &self.crew.threads[self.checked(thread)]
        if not self.has_place(thread):
            return False
        self.works[thread].append(work)
        to.works[to.given_count % DEPTH] = <void*>work
        to.given_count += 1
        sem_post(&to.given)
        return True

    def take_back(self, int thread):
        cdef ColdThread* of = &self.crew.threads[self.checked(thread)]
        # One that has ended takes no more.
        if of.given_count == of.taken_back_count or (of.thread and load_64(&of.done_count) == of.taken_back_count):
            return None
        of.taken_back_count += 1
        return self.works[thread].pop(0)

    def hold(self, bint is_held):
        store_8(&self.crew.is_held, is_held)

    def times_ns(self):
        return [self.times_of(&self.crew.threads[number]) for number in range(self.crew.count)]

    def stop(self, double wait_s):
        cdef bint is_over
        with nogil:
            is_over = end_all(self.crew, wait_s)
        return is_over

    cdef tuple times_of(self, const ColdThread* thread):
        cdef int64_t wanted_ns = thread.wanted_before_ns
        cdef int64_t cpu_ns = thread.cpu_before_ns
        cdef int64_t ran_ns
        if thread.thread:
            wanted_ns += wanted_ns_of(thread)
            ran_ns = now_ns(thread.clock)  # of a thread that has ended meanwhile this is anything
            cpu_ns += <int64_t>load_64(&thread.cpu_ns) if load_8(&thread.has_ended) else ran_ns
        return wanted_ns, cpu_ns

    cdef int checked(self, int thread) except -1:
        if not 0 <= thread < self.crew.count:
            raise ValueError(f"thread {thread} of {self.crew.count}")
        return thread

    cdef int start_one(self, ColdThread* thread) noexcept nogil:
        """Returns an errno, or 0."""
        cdef pthread_attr_t attributes
        cdef sigset_t all_signals
        cdef sigset_t before
        cdef int failed
        thread.given_count = thread.taken_back_count = thread.done_count = thread.wanted = thread.cpu_ns = 0
        thread.has_ended = thread.is_refused = 0
        thread.is_held, thread.is_over = &self.crew.is_held, &self.crew.is_over
        failed = pthread_attr_init(&attributes)
        if failed:
            return failed
        pthread_attr_setstacksize(&attributes, STACK_BYTES)
        sem_init(&thread.given, 0, 0)
        # A signal whose handler had to run here would wait until a core is idle.
        sigfillset(&all_signals)
        pthread_sigmask(SIG_SETMASK, &all_signals, &before)
        failed = pthread_create(&thread.thread, &attributes, run_thread, thread)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        pthread_attr_destroy(&attributes)
        if failed:
            thread.thread = 0
            sem_destroy(&thread.given)
            return failed
        pthread_getcpuclockid(thread.thread, &thread.clock)
        return 0


cdef bint end_all(Crew* crew, double wait_s) noexcept nogil:
    """Ends the threads. Returns False when one has not ended within the time."""
    cdef timespec deadline
    cdef int64_t until_ns = now_ns(CLOCK_REALTIME) + <int64_t>(wait_s * SECOND_NS)
    cdef int number
    cdef bint is_over = True
    deadline.tv_sec, deadline.tv_nsec = until_ns // SECOND_NS, until_ns % SECOND_NS
    store_8(&crew.is_held, 1)
    store_8(&crew.is_over, 1)
    for number in range(crew.count):
        if crew.threads[number].thread:
            sem_post(&crew.threads[number].given)
    for number in range(crew.count):
        if not crew.threads[number].thread:
            continue
        if pthread_timedjoin_np(crew.threads[number].thread, NULL, &deadline):
            is_over = False
            continue
        sem_destroy(&crew.threads[number].given)
        crew.threads[number].thread = 0
        crew.threads[number].wanted_before_ns += <int64_t>crew.threads[number].wanted
        crew.threads[number].cpu_before_ns += <int64_t>crew.threads[number].cpu_ns
    return is_over
