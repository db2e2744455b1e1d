"""Chooses what is to be moved next. See choice.pyi."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from blockstore.plane.moves.sorting cimport Keyed, sort_by_key
from blockstore.plane.tables.log cimport Log, LogState

cdef struct Choice:
    # The least keys that were offered, in ascending order; of equal ones those that came first.
    Keyed* items
    uint64_t count
    uint64_t most

cdef struct Memory:
    # What segments have, `segments` of them.
    const uint8_t* has_memory
    const uint8_t* is_retired
    uint64_t segments


def emptiest(
    Log log not None, const uint8_t[::1] has_memory not None, const uint8_t[::1] is_retired not None,
    int64_t most_live_bytes, uint64_t most,
):
    cdef Memory memory = memory_of(log, has_memory, is_retired)
    cdef Choice choice = room_for_choice(min(most, memory.segments))
    cdef const int64_t* live_bytes = log.state.live_bytes
    cdef uint64_t segment
    with nogil:
        for segment in range(memory.segments):
            if live_bytes[segment] <= most_live_bytes and is_full(&log.state, &memory, segment):
                offer(&choice, max(live_bytes[segment], 0), segment)
    return take_numbers(&choice)


def coldest(
    Log log not None, const uint8_t[::1] has_memory not None, const uint8_t[::1] is_retired not None,
    const int64_t[::1] read_at not None, uint64_t most,
):
    cdef Memory memory = memory_of(log, has_memory, is_retired)
    cdef Choice choice
    cdef const int64_t* generation = log.state.generation
    cdef uint64_t segment
    memory.segments = min(memory.segments, <uint64_t>read_at.shape[0])
    choice = room_for_choice(min(most, memory.segments))
    with nogil:
        for segment in range(memory.segments):
            if is_full(&log.state, &memory, segment):
                offer(&choice, max(generation[segment], read_at[segment], 0), segment)
    return take_numbers(&choice)


def warmest(int64_t[::1] heat not None, int64_t least, uint64_t most):
    cdef Choice choice = room_for_choice(min(most, <uint64_t>heat.shape[0]))
    cdef Py_ssize_t piece
    with nogil:
        for piece in range(heat.shape[0]):
            if heat[piece] >= least:
                offer(&choice, UINT64_MAX - max(heat[piece], 0), piece)
            heat[piece] //= 2
    return take_numbers(&choice)


def sparse(
    const int64_t[::1] lengths not None, const int64_t[::1] live_bytes not None, unfit, double share, uint64_t most_bytes
):
    cdef uint64_t pieces = min(lengths.shape[0], live_bytes.shape[0]), number, count = 0
    cdef Keyed* items = allocate(pieces)
    cdef bint is_sorted
    with nogil:
        for number in range(pieces):
            if lengths[number] > 0 and live_bytes[number] < share * lengths[number]:
                items[count] = Keyed(max(live_bytes[number], 0), number)
                count += 1
        is_sorted = sort_by_key(items, <uint32_t>count)
    try:
        if not is_sorted:
            raise MemoryError(f"no memory to sort {count} pieces")
        return first_numbers(items, count, unfit, most_bytes)
    finally:
        free(items)


cdef list first_numbers(const Keyed* items, uint64_t count, object unfit, uint64_t most_bytes):
    """Returns numbers in order, without those that are unfit, as far as their keys are so many bytes together."""
    cdef uint64_t place, size_bytes = 0
    cdef list numbers = []
    for place in range(count):
        if items[place].number in unfit:
            continue
        size_bytes += items[place].key
        if size_bytes > most_bytes:
            break
        numbers.append(items[place].number)
    return numbers


cdef Memory memory_of(Log log, const uint8_t[::1] has_memory, const uint8_t[::1] is_retired) noexcept:
    cdef Memory memory
    memory.segments = min(log.state.segments, <uint64_t>min(has_memory.shape[0], is_retired.shape[0]))
    memory.has_memory = &has_memory[0] if memory.segments else NULL
    memory.is_retired = &is_retired[0] if memory.segments else NULL
    return memory


cdef inline bint is_full(const LogState* log, const Memory* memory, uint64_t segment) noexcept nogil:
    return (
        memory.has_memory[segment]
        and not memory.is_retired[segment]
        and <int64_t>segment != log.head
        and <int64_t>segment != log.spare
    )


cdef Keyed* allocate(uint64_t count) except NULL:
    cdef Keyed* items = <Keyed*>malloc(max(count, <uint64_t>1) * sizeof(Keyed))
    if items == NULL:
        raise MemoryError(f"no memory to choose from {count}")
    return items


cdef Choice room_for_choice(uint64_t most) except *:
    return Choice(allocate(most), 0, most)


cdef void offer(Choice* choice, uint64_t key, uint64_t number) noexcept nogil:
    """Takes a number if its key is less than the greatest so far, or there are not enough yet."""
    cdef uint64_t place
    if choice.count == choice.most:
        if not choice.most or key >= choice.items[choice.count - 1].key:
            return
        choice.count -= 1
    place = choice.count
    choice.count += 1
    while place and choice.items[place - 1].key > key:
        choice.items[place] = choice.items[place - 1]
        place -= 1
    choice.items[place] = Keyed(key, number)


cdef list take_numbers(Choice* choice):
    """Returns what was chosen, and frees the choice."""
    try:
        return [choice.items[place].number for place in range(choice.count)]
    finally:
        free(choice.items)
