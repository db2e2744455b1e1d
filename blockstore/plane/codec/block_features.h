/* The arithmetic of features (features.pyx), in C for one thing that Cython cannot say: the same loop compiled for two
 * instruction sets, one of which is chosen while it runs. x86-64 alone has no 32-bit multiplication of vectors.
 */
#pragma once

#include <stdint.h>
#include <string.h>

enum {
    FEATURES_A_BLOCK = 4,
    FEATURE_WORDS = 512,      /* 64-bit words of a block */
    FEATURE_PAIRS = 256,      /* steps of 16 bytes */
    FEATURE_WINDOW_WORDS = 3, /* multipliers of words; those of features follow */
};

static inline __attribute__((always_inline)) void features_by_any(
    const uint8_t* block, const uint32_t* key, uint32_t* features)
{
    uint32_t even[FEATURE_PAIRS], odd[FEATURE_PAIRS], hashes[FEATURE_PAIRS];
    uint32_t largest[FEATURES_A_BLOCK] = {0, 0, 0, 0};

    for (int pair = 0; pair < FEATURE_PAIRS; pair++) {
        uint64_t words[2];
        memcpy(words, block + 16 * pair, sizeof(words)); /* a block may lie anywhere */
        even[pair] = (uint32_t)(words[0] * UINT64_C(0x9E3779B97F4A7C15) >> 32);
        odd[pair] = (uint32_t)(words[1] * UINT64_C(0x9E3779B97F4A7C15) >> 32);
    }
    for (int pair = 0; pair < FEATURE_PAIRS - 1; pair++) {
        uint32_t hash = even[pair] * key[0] + odd[pair] * key[1] + even[pair + 1] * key[2];
        hashes[pair] = hash ^ hash >> 15;
    }
    hashes[FEATURE_PAIRS - 1] = hashes[0]; /* there is no window here; once more the first changes no maximum */
    for (int pair = 0; pair < FEATURE_PAIRS; pair++) {
        for (int feature = 0; feature < FEATURES_A_BLOCK; feature++) {
            uint32_t permuted = hashes[pair] * key[FEATURE_WINDOW_WORDS + feature];
            largest[feature] = permuted > largest[feature] ? permuted : largest[feature];
        }
    }
    memcpy(features, largest, sizeof(largest));
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Not target_clones: its resolvers run before a sanitizer is ready. */
static __attribute__((target("avx2"))) void features_by_avx2(
    const uint8_t* block, const uint32_t* key, uint32_t* features)
{
    features_by_any(block, key, features);
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}
#else
#define features_by_avx2 features_by_any

static int has_avx2(void)
{
    return 0;
}
#endif

static inline void features_of_block(const uint8_t* block, const uint32_t* key, uint32_t* features)
{
    if (has_avx2())
        features_by_avx2(block, key, features);
    else
        features_by_any(block, key, features);
}
