# Features for compiled code. What they are stands in features.pyi.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    FEATURES_A_BLOCK = 4
    FEATURE_KEYS = 7  # multipliers: three of words, and one of each feature

# Writes the FEATURES_A_BLOCK features of the BLOCK_BYTES at `block`. `key` is FEATURE_KEYS numbers of `multipliers`.
cdef void block_features(const uint8_t* block, const uint32_t* key, uint32_t* features) noexcept nogil
