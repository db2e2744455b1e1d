"""The queue of WRITE requests. See write_queue.pyi."""

from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

from blockstore.plane.sync.lock cimport (
    init_lock,
    pthread_cond_broadcast,
    pthread_cond_destroy,
    pthread_cond_init,
    pthread_cond_signal,
    pthread_cond_wait,
    pthread_mutex_destroy,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)


cdef class WriteQueue:
    def __cinit__(self):
        self.first = self.last = NULL
        self.length = self.handed_length = 0
        self.passes_on = self.holds = self.is_handing = self.has_ended = self.is_ready = False
        if init_lock(&self.mutex):
            raise MemoryError("no lock for a queue of writes")
        if pthread_cond_init(&self.changed, NULL):
            pthread_mutex_destroy(&self.mutex)
            raise MemoryError("no condition for a queue of writes")
        self.is_ready = True

    def __dealloc__(self):
        if self.is_ready:
            pthread_cond_destroy(&self.changed)
            pthread_mutex_destroy(&self.mutex)

    @property
    def count(self):
        return self.locked_look(&self.length)

    @property
    def handed(self):
        return self.locked_look(&self.handed_length)

    def steer(self, *, bint passes_on, bint holds):
        if self.passes_on == passes_on and self.holds == holds:
            return
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.passes_on, self.holds = passes_on, holds
            pthread_cond_broadcast(&self.changed)
            pthread_mutex_unlock(&self.mutex)

    def end(self):
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.has_ended = True
            pthread_cond_broadcast(&self.changed)
            pthread_mutex_unlock(&self.mutex)

    def push(self, uint64_t volume, uint64_t start, uint64_t end):
        cdef bint begins = False
        cdef Write* write = self.enter(NULL, volume, start, end, &begins)
        if write == NULL:
            raise MemoryError("no memory for a write in the queue")
        return <uintptr_t>write

    def start(self, uint64_t volume, uint64_t start, uint64_t end):
        cdef bint begins = True
        cdef Write* write = self.enter(NULL, volume, start, end, &begins)
        if write == NULL:
            raise MemoryError("no memory for a write in the queue")
        return <uintptr_t>write, begins

    def give_up(self, uintptr_t number):
        self.put_back(<Write*>number)

    def pop(self):
        cdef Write* write
        with nogil:
            pthread_mutex_lock(&self.mutex)
            write = self.next()
            pthread_mutex_unlock(&self.mutex)
        return None if write == NULL else (<uintptr_t>write, write.state == HANDED)

    def hand_back(self, uintptr_t number):
        self.hand(<Write*>number)
        self.was_handed()

    def done(self, uintptr_t number):
        self.finish(<Write*>number)

    cdef Write* enter(self, void* request, uint64_t volume, uint64_t start, uint64_t end, bint* begins) noexcept nogil:
        """Appends a write. Returns NULL when there is no memory for it. Where `begins` is set the caller takes it if it
        may begin at once, which `begins` says afterwards; if not, the write may be gone when this returns."""
        cdef Write* write = new_write(request, volume, start, end)
        if write == NULL:
            return NULL
        pthread_mutex_lock(&self.mutex)
        self.append(write)
        if begins[0]:
            begins[0] = not (self.handed_length or self.holds or self.passes_on or has_one_before(write))
        if begins[0]:
            write.state = TAKEN
        else:
            pthread_cond_signal(&self.changed)
        pthread_mutex_unlock(&self.mutex)
        return write

    cdef void put_back(self, Write* write) noexcept nogil:
        """A write that was taken is for somebody else, in its place."""
        pthread_mutex_lock(&self.mutex)
        write.state = QUEUED
        pthread_cond_signal(&self.changed)
        pthread_mutex_unlock(&self.mutex)

    cdef Write* take(self) noexcept nogil:
        """Waits for a write that may begin, and returns it: TAKEN by the caller, or HANDED to Python by the caller, who
        calls `was_handed`. Returns NULL at the end."""
        cdef Write* write = NULL
        pthread_mutex_lock(&self.mutex)
        while not self.has_ended:
            # One at a time on its way to Python, or a later one of the same bytes could be there first.
            write = NULL if self.is_handing else self.next()
            if write != NULL:
                self.is_handing = write.state == HANDED
                break
            pthread_cond_wait(&self.changed, &self.mutex)
        pthread_mutex_unlock(&self.mutex)
        return write

    cdef void hand(self, Write* write) noexcept nogil:
        """A write that was taken is Python's now, when no other is on its way there. The caller calls `was_handed`."""
        pthread_mutex_lock(&self.mutex)
        while self.is_handing:
            pthread_cond_wait(&self.changed, &self.mutex)
        self.is_handing = True
        write.state = HANDED
        self.handed_length += 1
        pthread_mutex_unlock(&self.mutex)

    cdef void was_handed(self) noexcept nogil:
        """Python has the write that was on its way."""
        pthread_mutex_lock(&self.mutex)
        self.is_handing = False
        pthread_cond_broadcast(&self.changed)
        pthread_mutex_unlock(&self.mutex)

    cdef void finish(self, Write* write) noexcept nogil:
        """A write is done, or was given up. Frees it."""
        pthread_mutex_lock(&self.mutex)
        self.handed_length -= write.state == HANDED
        self.length -= 1
        if write.before == NULL:
            self.first = write.after
        else:
            write.before.after = write.after
        if write.after == NULL:
            self.last = write.before
        else:
            write.after.before = write.before
        if self.first != NULL:
            pthread_cond_broadcast(&self.changed)
        pthread_mutex_unlock(&self.mutex)
        free(write)

    cdef int locked_look(self, const int* counter) noexcept:
        """Returns a counter that changes with the queue's own lock."""
        cdef int found
        with nogil:
            pthread_mutex_lock(&self.mutex)
            found = counter[0]
            pthread_mutex_unlock(&self.mutex)
        return found

    cdef void append(self, Write* write) noexcept nogil:
        write.before = self.last
        if self.last == NULL:
            self.first = write
        else:
            self.last.after = write
        self.last = write
        self.length += 1

    cdef Write* next(self) noexcept nogil:
        """Returns the first that may begin, with the queue's lock; NULL when there is none."""
        cdef Write* write = self.first
        if (self.handed_length or self.holds) and not self.passes_on:
            return NULL
        while write != NULL:
            if write.state == QUEUED and not has_one_before(write):
                write.state = HANDED if self.passes_on else TAKEN
                self.handed_length += write.state == HANDED
                return write
            write = write.after
        return NULL


cdef Write* new_write(void* request, uint64_t volume, uint64_t start, uint64_t end) noexcept nogil:
    cdef Write* write = <Write*>malloc(sizeof(Write))
    if write != NULL:
        write.request, write.volume, write.start, write.end = request, volume, start, end
        write.state = QUEUED
        write.before = write.after = NULL
    return write


cdef bint has_one_before(const Write* write) noexcept nogil:
    """Returns whether an earlier write that is not done writes some of the same bytes. Those that Python has do not
    count: Python gets this one, too, and keeps the order."""
    cdef const Write* other = write.before
    while other != NULL:
        if (
            other.state != HANDED
            and other.volume == write.volume
            and other.start < write.end
            and write.start < other.end
        ):
            return True
        other = other.before
    return False
