"""Finds digests among many others. See digest_lookup.pyi."""

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from blockstore.plane.tables.content_index cimport bs_prefetch

cdef enum:
    DIGEST_BYTES = 16
    LEAST_SLOTS_SHIFT = 4
    # Digests ahead, of which the slot is asked of memory.
    AHEAD = 16


cdef class DigestLookup:
    cdef const uint8_t[::1] digests
    cdef uint32_t* slots  # the number of a digest, counted from 1; 0 is free
    cdef uint64_t count
    cdef int shift  # of a product of 64 bits, so that the slot is left
    cdef uint64_t[2] key

    def __cinit__(self, const uint8_t[::1] digests not None, bytes key not None):
        cdef int slots_shift = LEAST_SLOTS_SHIFT
        if digests.shape[0] % DIGEST_BYTES or len(key) != DIGEST_BYTES:
            raise ValueError(f"{digests.shape[0]} bytes of digests, and a key of {len(key)}")
        self.digests, self.count = digests, digests.shape[0] // DIGEST_BYTES
        if self.count >= UINT32_MAX:
            raise ValueError(f"{self.count} digests")
        memcpy(self.key, <const char*>key, DIGEST_BYTES)
        while (<uint64_t>1 << slots_shift) < self.count + self.count // 2:
            slots_shift += 1
        self.shift = 64 - slots_shift
        self.slots = <uint32_t*>calloc(<uint64_t>1 << slots_shift, sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError(f"no memory to look for {self.count} digests")
        with nogil:
            self.enter_all()

    def __dealloc__(self):
        free(self.slots)

    def __len__(self):
        return self.count

    def find(self, const uint8_t[::1] digests not None):
        cdef Py_ssize_t number
        cdef uint64_t slot
        if digests.shape[0] % DIGEST_BYTES:
            raise ValueError(f"{digests.shape[0]} bytes of digests")
        found = []
        for number in range(digests.shape[0] // DIGEST_BYTES):
            slot = self.slot_of(&digests[number * DIGEST_BYTES])
            if self.slots[slot]:
                found.append((number, self.slots[slot] - 1))
        return found

    cdef void enter_all(self) noexcept nogil:
        cdef uint64_t number, slot
        for number in range(self.count):
            if number + AHEAD < self.count:
                bs_prefetch(&self.slots[self.first_slot(self.at(number + AHEAD))])
            slot = self.slot_of(self.at(number))
            if not self.slots[slot]:
                self.slots[slot] = <uint32_t>(number + 1)

    cdef inline const uint8_t* at(self, uint64_t number) noexcept nogil:
        return &self.digests[number * DIGEST_BYTES]

    cdef inline uint64_t first_slot(self, const uint8_t* digest) noexcept nogil:
        """Returns where the search for a digest begins (multiply-shift hashing of two words)."""
        cdef uint64_t[2] words
        memcpy(words, digest, DIGEST_BYTES)
        return (words[0] * (self.key[0] | 1) + words[1] * (self.key[1] | 1)) >> self.shift

    cdef uint64_t slot_of(self, const uint8_t* digest) noexcept nogil:
        """Returns the slot that has this digest, or the free one where it would be. A third of the slots are free."""
        cdef uint64_t slot = self.first_slot(digest), mask = (<uint64_t>1 << 64 - self.shift) - 1
        while self.slots[slot] and memcmp(self.at(self.slots[slot] - 1), digest, DIGEST_BYTES):
            slot = slot + 1 & mask
        return slot
