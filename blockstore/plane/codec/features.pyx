"""Features: a few numbers a block, of which similar blocks are likely to share some. See features.pyi."""

from array import array
from hashlib import blake2b

from libc.stdint cimport int64_t, uint8_t, uint32_t

from blockstore.plane.codec.layout cimport BLOCK_BYTES


cdef extern from "block_features.h" nogil:
    void features_of_block(const uint8_t* block, const uint32_t* key, uint32_t* features)

FEATURES = FEATURES_A_BLOCK
NO_FEATURE = 0


cdef void block_features(const uint8_t* block, const uint32_t* key, uint32_t* features) noexcept nogil:
    features_of_block(block, key, features)


def multipliers(seed):
    drawn = blake2b(seed.to_bytes(8, "little"), digest_size=4 * FEATURE_KEYS).digest()
    return array("I", [int.from_bytes(drawn[at : at + 4], "little") | 1 for at in range(0, len(drawn), 4)])


def find_features(
    const uint8_t[::1] blocks not None,
    const int64_t[::1] places not None,
    const uint32_t[::1] key not None,
    uint32_t[:, ::1] features not None,
):
    cdef Py_ssize_t line
    cdef Py_ssize_t count = places.shape[0]
    cdef int64_t end = blocks.shape[0] // BLOCK_BYTES
    if key.shape[0] != FEATURE_KEYS or features.shape[0] != count or features.shape[1] != FEATURES_A_BLOCK:
        raise ValueError(f"features are {FEATURES_A_BLOCK} for each of {count} blocks, by {FEATURE_KEYS} multipliers")
    for line in range(count):
        if not 0 <= places[line] < end:
            raise ValueError(f"there is no block {places[line]} among {end}")
    with nogil:
        for line in range(count):
            features_of_block(&blocks[places[line] * BLOCK_BYTES], &key[0], &features[line, 0])
