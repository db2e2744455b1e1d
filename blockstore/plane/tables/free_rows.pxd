# Which rows are free, and whose counts change, for compiled code. What they are stands in free_rows.pyi.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from blockstore.plane.codec.layout cimport FIRST_ROW

cdef struct FreeStack:
    # Free rows below `next_row`; all from there up to `capacity` were never used. As many places as there are rows: to free
    # a row cannot fail.
    uint32_t* rows
    uint64_t count
    uint64_t next_row
    uint64_t capacity

cdef struct Marks:
    # By row; no marks while nobody compares.
    uint8_t* marks
    uint64_t length

cdef class FreeRows:
    cdef FreeStack stack
    cdef int check_taken(self, const uint32_t[::1] rows) except -1

cdef class ChangedRows:
    cdef Marks state
    cdef uint8_t[::1] view


cdef inline uint64_t rows_left(const FreeStack* stack) noexcept nogil:
    """Returns how many rows can be taken."""
    return stack.count + stack.capacity - stack.next_row


cdef inline uint64_t rows_in_use(const FreeStack* stack) noexcept nogil:
    return stack.next_row - FIRST_ROW - stack.count


cdef inline uint32_t take_row(FreeStack* stack) noexcept nogil:
    """Takes one of the rows that are left, that which was freed last if any was."""
    if stack.count:
        stack.count -= 1
        return stack.rows[stack.count]
    stack.next_row += 1
    return <uint32_t>(stack.next_row - 1)


cdef inline void free_row(FreeStack* stack, uint32_t row) noexcept nogil:
    if stack.count < stack.capacity:  # a row that damage has freed twice is lost until the next start
        stack.rows[stack.count] = row
        stack.count += 1


cdef inline void mark(Marks* state, uint64_t row) noexcept nogil:
    if row < state.length:
        state.marks[row] = 1
