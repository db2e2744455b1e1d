"""The tables of a store as typed pointers. See tables.pyi."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from blockstore.plane.codec.dictionary cimport Dictionary
from blockstore.plane.sync.atomics cimport load_pointer, store_64, store_pointer
from blockstore.plane.sync.mapped cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

cdef enum:
    DICTIONARIES_BYTES = MAXIMUM_DOMAINS * sizeof(DomainDictionaries)  # of addresses; they take memory page by page


cdef void point_at(void* place, const void* column) noexcept nogil:
    """Stores where a column is, once: it does not move, and who has loaded a capacity above 0 reads the pointer plainly."""
    if load_pointer(place) != column:
        store_pointer(place, column)


cdef class Tables:
    def __cinit__(self):
        memset(&self.columns, 0, sizeof(self.columns))
        cdef void* base = mmap(
            NULL, DICTIONARIES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        if base == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.dictionaries = <DomainDictionaries*>base
        self.columns.dictionaries = self.dictionaries
        self.held = {}

    def __dealloc__(self):
        if self.dictionaries != NULL:
            munmap(self.dictionaries, DICTIONARIES_BYTES)

    @property
    def capacity(self):
        return self.columns.capacity

    @property
    def pool_bytes(self):
        return self.columns.pool_bytes

    def bind_rows(
        self,
        uint64_t[::1] where not None,
        uint64_t[::1] digest not None,
        uint32_t[::1] reference not None,
        uint16_t[::1] domain not None,
        uint32_t[::1] count not None,
        uint16_t[::1] dependents not None,
    ):
        cdef uint64_t capacity = min(
            where.shape[0], digest.shape[0], reference.shape[0], domain.shape[0], count.shape[0], dependents.shape[0]
        )
        if capacity < self.columns.capacity:
            raise ValueError(f"tables of {self.columns.capacity} rows cannot have {capacity}")
        if capacity:
            point_at(&self.columns.where, &where[0])
            point_at(&self.columns.digest, &digest[0])
            point_at(&self.columns.reference, &reference[0])
            point_at(&self.columns.domain, &domain[0])
            point_at(&self.columns.count, &count[0])
            point_at(&self.columns.dependents, &dependents[0])
        store_64(&self.columns.capacity, capacity)
        self.where, self.digest, self.reference = where, digest, reference
        self.domain, self.count, self.dependents = domain, count, dependents

    def bind_pool(self, const uint8_t[::1] pool not None):
        if <uint64_t>pool.shape[0] < self.columns.pool_bytes:
            raise ValueError(f"a pool of {self.columns.pool_bytes} bytes cannot have {pool.shape[0]}")
        store_pointer(&self.columns.pool, &pool[0] if pool.shape[0] else NULL)
        store_64(&self.columns.pool_bytes, pool.shape[0])
        self.pool = pool

    def bind_dictionary(self, uint16_t domain, int slot, Dictionary dictionary, *, bint is_known=True):
        cdef DomainDictionaries* place = &self.dictionaries[domain]
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot {slot} of {SLOTS}")
        if place.current == place.decoders[slot]:
            store_pointer(&place.current, NULL)
        if dictionary is None:
            store_64(&place.known, place.known | 1 << slot if is_known else place.known & ~<uint64_t>(1 << slot))
            store_pointer(&place.decoders[slot], NULL)
            self.held.pop((domain, slot), None)
            return
        self.held[domain, slot] = dictionary
        store_pointer(&place.decoders[slot], dictionary.decoder)
        store_64(&place.known, place.known | 1 << slot)

    def let_encode(self, uint16_t domain, int slot):
        cdef DomainDictionaries* place = &self.dictionaries[domain]
        if not 0 <= slot < SLOTS or place.decoders[slot] == NULL:
            raise ValueError(f"domain {domain} has no dictionary in slot {slot}")
        store_pointer(&place.current, place.decoders[slot])

    def dictionary(self, uint16_t domain, int slot):
        return self.held.get((domain, slot))

    def unbind(self):
        memset(&self.columns, 0, sizeof(self.columns))
        self.where = self.digest = None
        self.reference = self.count = None
        self.domain = self.dependents = None
        self.pool = None
