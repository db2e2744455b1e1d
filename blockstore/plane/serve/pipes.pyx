"""Pipes for WRITEs that nobody has copied yet. See pipes.pyi."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t

from blockstore.plane.sync.lock cimport (
    init_lock,
    pthread_mutex_destroy,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buffer, size_t size)


cdef class Pipes:
    def __cinit__(self, pipes):
        self.free_count = 0
        self.is_ready = False
        if len(pipes) > MAXIMUM_PIPES:
            raise ValueError(f"{len(pipes)} pipes; at most {MAXIMUM_PIPES} are kept")
        if init_lock(&self.mutex):
            raise MemoryError("no lock for pipes")
        self.is_ready = True
        for out, into in pipes:
            self.free_pipes[self.free_count] = Pipe(out, into)
            self.free_count += 1

    def __dealloc__(self):
        if self.is_ready:
            pthread_mutex_destroy(&self.mutex)

    def __len__(self):
        cdef int found
        with nogil:
            pthread_mutex_lock(&self.mutex)
            found = self.free_count
            pthread_mutex_unlock(&self.mutex)
        return found

    cdef bint take(self, Pipe* pipe) noexcept nogil:
        cdef bint is_there
        pthread_mutex_lock(&self.mutex)
        is_there = self.free_count > 0
        if is_there:
            self.free_count -= 1
            pipe[0] = self.free_pipes[self.free_count]
        pthread_mutex_unlock(&self.mutex)
        return is_there

    cdef void give_back(self, const Pipe* pipe) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.free_pipes[self.free_count] = pipe[0]
        self.free_count += 1
        pthread_mutex_unlock(&self.mutex)


cdef bint read_whole(const Pipe* pipe, uint8_t* target, size_t size_bytes) noexcept nogil:
    cdef ssize_t taken
    while size_bytes:
        taken = read(pipe.out, target, size_bytes)
        if taken < 0 and errno == EINTR:
            continue
        if taken <= 0:
            return False
        target += taken
        size_bytes -= taken
    return True
