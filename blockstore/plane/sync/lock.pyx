"""The lock of a store. See lock.pyi."""

from blockstore.plane.sync.atomics cimport load_8, publish_8

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutexattr_t:
        pass
    int PTHREAD_PRIO_INHERIT
    int pthread_mutexattr_init(pthread_mutexattr_t* attributes)
    int pthread_mutexattr_setprotocol(pthread_mutexattr_t* attributes, int protocol)
    int pthread_mutexattr_destroy(pthread_mutexattr_t* attributes)


cdef int init_lock(pthread_mutex_t* lock) noexcept nogil:
    # Whoever holds it runs at a lane's priority while a lane waits for it, or an encoder could come between.
    cdef pthread_mutexattr_t attributes
    cdef int failed = pthread_mutexattr_init(&attributes)
    if failed:
        return failed
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT)
    failed = pthread_mutex_init(lock, &attributes)
    pthread_mutexattr_destroy(&attributes)
    return failed


cdef class StoreLock:
    def __cinit__(self):
        self.is_waited_for = 0
        self.is_made = False
        if pthread_mutex_init(&self.turn, NULL):
            raise MemoryError("no memory for the lock of a store")
        if pthread_mutex_init(&self.itself, NULL):
            pthread_mutex_destroy(&self.turn)
            raise MemoryError("no memory for the lock of a store")
        self.is_made = True

    def __dealloc__(self):
        if self.is_made:
            pthread_mutex_destroy(&self.itself)
            pthread_mutex_destroy(&self.turn)

    def __enter__(self):
        if not self.try_to_acquire():
            with nogil:
                self.acquire()

    def __exit__(self, kind, error, traceback):
        self.release()

    def somebody_waits(self):
        return load_8(&self.is_waited_for) != 0

    cdef bint try_to_acquire(self) noexcept nogil:
        cdef bint is_acquired
        if pthread_mutex_trylock(&self.turn):
            return False
        is_acquired = not pthread_mutex_trylock(&self.itself)
        pthread_mutex_unlock(&self.turn)
        return is_acquired

    cdef void acquire(self) noexcept nogil:
        if self.try_to_acquire():
            return
        pthread_mutex_lock(&self.turn)
        publish_8(&self.is_waited_for, 1)
        pthread_mutex_lock(&self.itself)
        publish_8(&self.is_waited_for, 0)
        pthread_mutex_unlock(&self.turn)

    cdef void release(self) noexcept nogil:
        pthread_mutex_unlock(&self.itself)
