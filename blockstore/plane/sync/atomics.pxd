# Loads and stores of words that threads without the store lock look at: see atomics.h. Every module of the plane takes
# them from here. `load_` acquires; `publish_` releases, and has a POINT before it. `add_` orders nothing: it is for sums
# that are read when all who add have ended. `claim_` fills a place that is 0, and returns False when it no longer is.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint8_t load_8(const uint8_t* place)
    uint16_t load_16(const uint16_t* place)
    uint32_t load_32(const uint32_t* place)
    uint64_t load_64(const uint64_t* place)
    void publish_8(uint8_t* place, uint8_t value)
    void publish_16(uint16_t* place, uint16_t value)
    void publish_32(uint32_t* place, uint32_t value)
    void publish_64(uint64_t* place, uint64_t value)
    void add_16(uint16_t* to, uint16_t value)
    void add_32(uint32_t* to, uint32_t value)
    void add_64(uint64_t* to, uint64_t value)
    bint claim_32(uint32_t* place, uint32_t value)
    void POINT()
    # Of memory that ends with this process: they have no POINT. `count_64` orders nothing; the others release and acquire.
    void store_8(uint8_t* place, uint8_t value)
    void store_64(uint64_t* place, uint64_t value)
    void count_64(uint64_t* place, uint64_t value)
    void store_pointer(void* place, const void* value)
    void* load_pointer(const void* place)
    void acquire_fence()
    uint64_t advance_64(uint64_t* place)
    bint claim_64(uint64_t* place, uint64_t value)
    void full_fence()
