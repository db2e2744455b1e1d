"""The tables of a store as typed pointers. See tables.pyi."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from blockstore.plane.sync.atomics cimport load_pointer, store_64, store_pointer


cdef void point_at(void* place, const void* column) noexcept nogil:
    """Stores where a column is, once: it does not move, and who has loaded a capacity above 0 reads the pointer plainly."""
    if load_pointer(place) != column:
        store_pointer(place, column)


cdef class Tables:
    def __cinit__(self):
        memset(&self.columns, 0, sizeof(self.columns))

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

    def unbind(self):
        memset(&self.columns, 0, sizeof(self.columns))
        self.where = self.digest = None
        self.reference = self.count = None
        self.domain = self.dependents = None
        self.pool = None
