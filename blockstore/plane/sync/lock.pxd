# The lock of a store, for compiled code. What it promises stands in lock.pyi.

from libc.stdint cimport uint8_t

from blockstore.plane.sync.clock cimport timespec

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_trylock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_condattr_init(pthread_condattr_t* attributes)
    int pthread_condattr_setclock(pthread_condattr_t* attributes, int clock)
    int pthread_condattr_destroy(pthread_condattr_t* attributes)
    ctypedef struct pthread_cond_t:
        pass
    int pthread_cond_init(pthread_cond_t* condition, const pthread_condattr_t* attributes)
    int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex)
    int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* deadline)
    int pthread_cond_signal(pthread_cond_t* condition)
    int pthread_cond_broadcast(pthread_cond_t* condition)
    int pthread_cond_destroy(pthread_cond_t* condition)

# Makes a lock whose holder inherits the priority of a lane that waits for it. Returns an errno, or 0.
cdef int init_lock(pthread_mutex_t* lock) noexcept nogil

cdef class StoreLock:
    cdef pthread_mutex_t turn
    cdef pthread_mutex_t itself
    cdef uint8_t is_waited_for  # by the thread that has the turn
    cdef bint is_made

    # Waits without the interpreter's lock, or by a thread that has none; the thread that acquires it releases it.
    cdef bint try_to_acquire(self) noexcept nogil
    cdef void acquire(self) noexcept nogil
    cdef void release(self) noexcept nogil
