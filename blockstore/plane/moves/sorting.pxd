# Sorts numbers by a key, for compiled code.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef enum:
    # Two passes for the records of sixteen segments. The counts of a pass take 16 KiB, half of a core's nearest cache.
    DIGIT_BITS = 12
    DIGITS = 1 << DIGIT_BITS

cdef struct Keyed:
    uint64_t key
    uint64_t number


cdef inline bint sort_by_key(Keyed* items, uint32_t count) noexcept nogil:
    """Sorts by the keys, digit by digit from the lowest (radix sort); those of one key stay in their order. Takes as much
    memory again. Returns False, and nothing has changed, when there is none."""
    cdef uint32_t[DIGITS] starts
    cdef Keyed* source = items
    cdef Keyed* target
    cdef uint64_t greatest = 0
    cdef uint32_t number, total, before
    cdef int digit, shift = 0
    if not count:
        return True
    cdef Keyed* other = <Keyed*>malloc(count * sizeof(Keyed))
    if other == NULL:
        return False
    target = other
    for number in range(count):
        greatest = max(greatest, items[number].key)
    while shift < 64 and greatest >> shift:
        memset(starts, 0, sizeof(starts))
        for number in range(count):
            starts[source[number].key >> shift & (DIGITS - 1)] += 1
        total = 0
        for digit in range(DIGITS):
            before = total
            total += starts[digit]
            starts[digit] = before
        for number in range(count):
            digit = <int>(source[number].key >> shift & (DIGITS - 1))
            target[starts[digit]] = source[number]
            starts[digit] += 1
        source, target = target, source
        shift += DIGIT_BITS
    if source != items:
        memcpy(items, source, count * sizeof(Keyed))
    free(other)
    return True
