"""Requests of the kernel that lanes leave to others. See requests.pyi."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from blockstore.plane.serve.pipes cimport Pipe, Pipes, read_whole
from blockstore.plane.sync.clock cimport CLOCK_MONOTONIC, SECOND_NS, clock_gettime, timespec
from blockstore.plane.sync.lock cimport (
    init_lock,
    pthread_cond_broadcast,
    pthread_cond_destroy,
    pthread_cond_init,
    pthread_cond_signal,
    pthread_cond_timedwait,
    pthread_cond_wait,
    pthread_condattr_destroy,
    pthread_condattr_init,
    pthread_condattr_setclock,
    pthread_condattr_t,
    pthread_mutex_destroy,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from blockstore.plane.sync.mapped cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap


cdef int init_condition(pthread_cond_t* condition) noexcept nogil:
    cdef pthread_condattr_t attributes
    cdef int failed = pthread_condattr_init(&attributes)
    if failed:
        return failed
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    failed = pthread_cond_init(condition, &attributes)
    pthread_condattr_destroy(&attributes)
    return failed


cdef PlaneRequest* new_small(size_t size_bytes) noexcept nogil:
    cdef size_t room = size_bytes if size_bytes > HEAD_BYTES else HEAD_BYTES
    cdef PlaneRequest* request = <PlaneRequest*>malloc(sizeof(PlaneRequest) + room)
    if request == NULL:
        return NULL
    request.next = NULL
    request.data = <uint8_t*>(request + 1)
    request.size_bytes = size_bytes
    request.is_large = False
    request.pipe.out = -1
    request.write = NULL
    if size_bytes < HEAD_BYTES:
        memset(request.data, 0, HEAD_BYTES)
    return request


cdef uint8_t* spare_of(Buffers* buffers) noexcept nogil:
    """Returns a buffer that is kept, if there is one, and counts it as in use, or the one that is to be made."""
    cdef uint8_t* data = NULL
    pthread_mutex_lock(&buffers.lock)
    while buffers.in_use >= MAXIMUM_LARGE and not buffers.is_closed:
        pthread_cond_wait(&buffers.returned, &buffers.lock)
    buffers.in_use += 1
    if buffers.spares:
        buffers.spares -= 1
        data = buffers.spare[buffers.spares]
    pthread_mutex_unlock(&buffers.lock)
    return data


cdef void give_memory_back(Buffers* buffers, uint8_t* data) noexcept nogil:
    pthread_mutex_lock(&buffers.lock)
    buffers.in_use -= 1
    if data != NULL and buffers.spares < SPARE_LARGE and not buffers.is_closed:
        buffers.spare[buffers.spares] = data
        buffers.spares += 1
        data = NULL
    pthread_cond_signal(&buffers.returned)
    pthread_mutex_unlock(&buffers.lock)
    if data != NULL:
        munmap(data, buffers.large_bytes)


cdef uint8_t* large_data(Buffers* buffers) noexcept nogil:
    """Returns a large buffer, after waiting until one may be had; NULL without memory."""
    cdef void* data = spare_of(buffers)
    if data == NULL:
        # Takes memory page by page as it is written. What is in one that was kept is anything.
        data = mmap(NULL, buffers.large_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if data == MAP_FAILED:
        give_memory_back(buffers, NULL)
        return NULL
    return <uint8_t*>data


cdef PlaneRequest* new_large(Buffers* buffers) noexcept nogil:
    cdef PlaneRequest* request = <PlaneRequest*>calloc(1, sizeof(PlaneRequest))
    if request == NULL:
        return NULL
    request.pipe.out = -1
    request.data = large_data(buffers)
    if request.data == NULL:
        free(request)
        return NULL
    request.is_large = True
    return request


cdef PlaneRequest* new_in_pipe(Pipes pipes, Pipe* pipe, const void* head) noexcept nogil:
    cdef PlaneRequest* request = new_small(HEAD_BYTES)
    cdef Pipe empty
    if request == NULL:
        return NULL
    if not pipes.take(&empty):
        free(request)
        return NULL
    memcpy(request.data, head, HEAD_BYTES)
    request.pipe = pipe[0]
    pipe[0] = empty
    return request


cdef bint fill(Requests owner, PlaneRequest* request) noexcept nogil:
    cdef uint8_t* data
    if request.pipe.out < 0:
        return True
    data = large_data(&owner.buffers)
    if data == NULL:
        return False
    if not read_whole(&request.pipe, data + HEAD_BYTES, request.size_bytes - HEAD_BYTES):
        give_memory_back(&owner.buffers, data)
        return False
    memcpy(data, request.data, HEAD_BYTES)
    owner.pipes.give_back(&request.pipe)
    request.pipe.out = -1
    request.data, request.is_large = data, True
    return True


cdef void give_back(Buffers* buffers, PlaneRequest* request) noexcept nogil:
    if request == NULL:
        return
    if request.is_large:
        give_memory_back(buffers, request.data)
    free(request)


cdef bint push(Queue* queue, PlaneRequest* request) noexcept nogil:
    cdef bint is_closed
    pthread_mutex_lock(&queue.lock)
    while queue.count >= MAXIMUM_QUEUED and not queue.is_closed:
        pthread_cond_wait(&queue.went, &queue.lock)
    is_closed = queue.is_closed
    if not is_closed:
        request.next = NULL
        if queue.first == NULL:
            queue.first = request
        else:
            queue.last.next = request
        queue.last = request
        queue.count += 1
        pthread_cond_signal(&queue.came)
    pthread_mutex_unlock(&queue.lock)
    return not is_closed


cdef bint wait_locked(Queue* queue, int64_t timeout_ns) noexcept nogil:
    """With its lock: waits for a request. Returns whether there is one."""
    cdef timespec deadline
    cdef int failed = 0
    if timeout_ns > 0:
        clock_gettime(CLOCK_MONOTONIC, &deadline)
        deadline.tv_sec += timeout_ns / SECOND_NS
        deadline.tv_nsec += timeout_ns % SECOND_NS
        if deadline.tv_nsec >= SECOND_NS:
            deadline.tv_nsec -= SECOND_NS
            deadline.tv_sec += 1
    while queue.first == NULL and not queue.is_closed and not queue.is_woken and timeout_ns and not failed:
        if timeout_ns < 0:
            pthread_cond_wait(&queue.came, &queue.lock)
        else:
            failed = pthread_cond_timedwait(&queue.came, &queue.lock, &deadline)
    return queue.first != NULL


cdef void wake(Queue* queue) noexcept nogil:
    pthread_mutex_lock(&queue.lock)
    queue.is_woken = True
    pthread_cond_signal(&queue.came)
    pthread_mutex_unlock(&queue.lock)


cdef PlaneRequest* pop(Queue* queue, int64_t timeout_ns) noexcept nogil:
    cdef PlaneRequest* request = NULL
    pthread_mutex_lock(&queue.lock)
    if wait_locked(queue, timeout_ns):
        request = queue.first
        queue.first = request.next
        queue.count -= 1
        pthread_cond_signal(&queue.went)
    pthread_mutex_unlock(&queue.lock)
    return request


cdef int64_t in_ns(double timeout_ms):
    if timeout_ms < 0:
        return -1
    return <int64_t>(min(timeout_ms, 1e9) * 1e6)


@cython.no_gc_clear  # what __dealloc__ gives back to must be there
cdef class Request:
    def __dealloc__(self):
        if self.request != NULL:
            self.done()
            give_back(&self.owner.buffers, self.request)

    def __len__(self):
        return self.request.size_bytes

    def done(self):
        cdef Write* write = self.request.write
        if write != NULL:
            self.request.write = NULL
            self.owner.writes.finish(write)

    @property
    def opcode(self):
        return (<Head*>self.request.data).opcode

    @property
    def unique(self):
        return (<Head*>self.request.data).unique

    @property
    def inode(self):
        return (<Head*>self.request.data).inode

    @property
    def pid(self):
        return (<Head*>self.request.data).pid

    @property
    def offset(self):
        return (<Head*>self.request.data).offset

    @property
    def length(self):
        return (<Head*>self.request.data).length

    @property
    def flags(self):
        return (<Head*>self.request.data).flags

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.request.data, self.request.size_bytes, True, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


cdef class Requests:
    def __cinit__(self, size_t large_bytes, pipes=()):
        self.pipes = Pipes(pipes)
        memset(&self.buffers, 0, sizeof(self.buffers))
        memset(&self.queue, 0, sizeof(self.queue))
        self.buffers.large_bytes = large_bytes
        self.taken = 0
        if (
            init_lock(&self.buffers.lock)
            or init_lock(&self.queue.lock)
            or init_condition(&self.buffers.returned)
            or init_condition(&self.queue.came)
            or init_condition(&self.queue.went)
        ):
            raise MemoryError

    def __dealloc__(self):
        cdef PlaneRequest* request
        while True:
            request = pop(&self.queue, 0)
            if request == NULL:
                break
            if request.write != NULL:
                self.writes.finish(request.write)
            give_back(&self.buffers, request)
        self.drop_spares()
        pthread_mutex_destroy(&self.buffers.lock)
        pthread_mutex_destroy(&self.queue.lock)
        pthread_cond_destroy(&self.buffers.returned)
        pthread_cond_destroy(&self.queue.came)
        pthread_cond_destroy(&self.queue.went)

    @property
    def count(self):
        cdef uint64_t found
        with nogil:
            pthread_mutex_lock(&self.queue.lock)
            found = self.queue.count
            pthread_mutex_unlock(&self.queue.lock)
        return found

    @property
    def large_in_use(self):
        cdef int found
        with nogil:
            pthread_mutex_lock(&self.buffers.lock)
            found = self.buffers.in_use
            pthread_mutex_unlock(&self.buffers.lock)
        return found

    @property
    def spare(self):
        cdef int found
        with nogil:
            pthread_mutex_lock(&self.buffers.lock)
            found = self.buffers.spares
            pthread_mutex_unlock(&self.buffers.lock)
        return found

    @property
    def free_pipes(self):
        return len(self.pipes)

    @property
    def is_closed(self):
        cdef bint is_closed
        with nogil:
            pthread_mutex_lock(&self.queue.lock)
            is_closed = self.queue.is_closed
            pthread_mutex_unlock(&self.queue.lock)
        return bool(is_closed)

    def wait(self, double timeout_ms):
        cdef int64_t timeout_ns = in_ns(timeout_ms)
        cdef bint found
        with nogil:
            pthread_mutex_lock(&self.queue.lock)
            found = wait_locked(&self.queue, timeout_ns)
            pthread_mutex_unlock(&self.queue.lock)
        return bool(found)

    def take(self, double timeout_ms=-1):
        cdef int64_t timeout_ns = in_ns(timeout_ms)
        cdef Request taken = Request.__new__(Request)
        taken.owner = self
        with nogil:
            taken.request = pop(&self.queue, timeout_ns)
        if taken.request == NULL:
            return None
        self.taken += 1
        return taken

    def was_woken(self):
        cdef bint was_woken
        with nogil:
            pthread_mutex_lock(&self.queue.lock)
            was_woken = self.queue.is_woken
            self.queue.is_woken = False
            pthread_mutex_unlock(&self.queue.lock)
        return bool(was_woken)

    def put(self, request not None):
        cdef Py_buffer view
        cdef PlaneRequest* copy = NULL
        cdef bint is_taken = False
        PyObject_GetBuffer(request, &view, PyBUF_SIMPLE)
        try:
            if not HEADER_BYTES <= view.len <= <Py_ssize_t>self.buffers.large_bytes:
                raise ValueError(f"a request of {view.len} bytes")
            with nogil:
                copy = new_small(view.len) if view.len <= SMALL_BYTES else new_large(&self.buffers)
                if copy != NULL:
                    memcpy(copy.data, view.buf, view.len)
                    copy.size_bytes = view.len
                    is_taken = push(&self.queue, copy)
        finally:
            PyBuffer_Release(&view)
        if copy == NULL:
            raise MemoryError
        if not is_taken:
            give_back(&self.buffers, copy)
            raise BrokenPipeError("no lane serves any more")

    def trim(self):
        with nogil:
            self.drop_spares()

    def close(self):
        with nogil:
            pthread_mutex_lock(&self.queue.lock)
            self.queue.is_closed = True
            pthread_cond_broadcast(&self.queue.came)
            pthread_cond_broadcast(&self.queue.went)
            pthread_mutex_unlock(&self.queue.lock)
            # Then: who waits for a buffer gets one now, and must find the queue closed.
            pthread_mutex_lock(&self.buffers.lock)
            self.buffers.is_closed = True
            pthread_cond_broadcast(&self.buffers.returned)
            pthread_mutex_unlock(&self.buffers.lock)

    cdef void drop_spares(self) noexcept nogil:
        cdef uint8_t* data
        while True:
            data = NULL
            pthread_mutex_lock(&self.buffers.lock)
            if self.buffers.spares:
                self.buffers.spares -= 1
                data = self.buffers.spare[self.buffers.spares]
            pthread_mutex_unlock(&self.buffers.lock)
            if data == NULL:
                return
            munmap(data, self.buffers.large_bytes)
