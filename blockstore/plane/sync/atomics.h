/* What publishes: loads and stores that the compiler and the processor keep in order, each of a whole word.
 *
 * A process may be killed between any two stores, and what it has stored by then is the state that the next one finds
 * (docs/decisions.md). So POINT stands before each store to shared memory: there a test copies the state.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define load_acquire(from) __atomic_load_n((from), __ATOMIC_ACQUIRE)
#define publish_release(to, value) __atomic_store_n((to), (value), __ATOMIC_RELEASE)

typedef void (*point_function)(void);
static point_function at_point; /* NULL but in a test; one in each module that includes this */

#define POINT() \
    do { \
        if (__builtin_expect(at_point != NULL, 0)) \
            at_point(); \
    } while (0)

#define DEFINE_PUBLISH(bits) \
    static inline uint##bits##_t load_##bits(const uint##bits##_t* from) \
    { \
        return load_acquire(from); \
    } \
    static inline void publish_##bits(uint##bits##_t* to, uint##bits##_t value) \
    { \
        POINT(); \
        publish_release(to, value); \
    }

DEFINE_PUBLISH(8)
DEFINE_PUBLISH(16)
DEFINE_PUBLISH(32)
DEFINE_PUBLISH(64)

#undef DEFINE_PUBLISH

/* Sums that several threads make together. Nobody reads them before those threads have ended: no order is needed. */
#define DEFINE_ADD(bits) \
    static inline void add_##bits(uint##bits##_t* to, uint##bits##_t value) \
    { \
        POINT(); \
        __atomic_fetch_add(to, value, __ATOMIC_RELAXED); \
    }

DEFINE_ADD(16)
DEFINE_ADD(32)
DEFINE_ADD(64)

#undef DEFINE_ADD

/* Puts a value in the place of 0, unless another thread has done so before. Returns whether it did. */
static inline int claim_32(uint32_t* place, uint32_t value)
{
    uint32_t empty = 0;
    POINT();
    return __atomic_compare_exchange_n(place, &empty, value, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* For memory of this process alone, which ends with it: no POINT. */
static inline void store_64(uint64_t* to, uint64_t value)
{
    publish_release(to, value);
}

static inline void store_8(uint8_t* to, uint8_t value)
{
    publish_release(to, value);
}

static inline void count_64(uint64_t* to, uint64_t value) /* a counter: orders nothing */
{
    __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

static inline void store_pointer(void* to, const void* value)
{
    publish_release((const void**)to, value);
}

static inline void* load_pointer(const void* from)
{
    return load_acquire((void* const*)from);
}

/* Loads before it are done before those after it. */
static inline void acquire_fence(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

static inline uint64_t advance_64(uint64_t* place) /* the next number */
{
    return __atomic_add_fetch(place, 1, __ATOMIC_SEQ_CST);
}

static inline int claim_64(uint64_t* place, uint64_t value) /* whether it was 0, and is this now */
{
    uint64_t nothing = 0;
    return __atomic_compare_exchange_n(place, &nothing, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* Between "I am here" and the first look, and between "it is gone" and the look at who is here: of two threads that do
 * one each, one sees what the other has stored. */
static inline void full_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
