"""Which rows are free, and whose counts change. See free_rows.pyi."""

from array import array

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from blockstore.errors import OutOfRoom
from blockstore.plane.codec.layout cimport FIRST_ROW
from blockstore.plane.sync.atomics cimport publish_64, store_64
from blockstore.plane.tables.tables cimport Tables


cdef class FreeRows:
    def __cinit__(self):
        self.stack = FreeStack(NULL, 0, FIRST_ROW, 0)

    def __dealloc__(self):
        free(self.stack.rows)

    @property
    def next_row(self):
        return self.stack.next_row

    @property
    def in_use(self):
        return rows_in_use(&self.stack)

    @property
    def left(self):
        return rows_left(&self.stack)

    def __len__(self):
        return self.stack.count

    def numbers(self):
        return [self.stack.rows[place] for place in range(self.stack.count)]

    def grow(self, uint64_t capacity):
        cdef uint32_t* rows
        if not self.stack.next_row <= capacity <= UINT32_MAX or capacity < self.stack.capacity:
            raise ValueError(f"{self.stack.capacity} rows cannot become {capacity}")
        rows = <uint32_t*>realloc(self.stack.rows, capacity * sizeof(uint32_t))
        if rows == NULL:
            raise OutOfRoom(f"there is no memory for a list of {capacity} rows that may become free")
        self.stack.rows, self.stack.capacity = rows, capacity

    def reset(self, uint64_t next_row, const uint32_t[::1] rows not None):
        if not FIRST_ROW <= next_row <= self.stack.capacity or <uint64_t>rows.shape[0] > next_row - FIRST_ROW:
            raise ValueError(f"{rows.shape[0]} free rows below {next_row}, of {self.stack.capacity}")
        self.stack.next_row, self.stack.count = next_row, 0
        self.give_back(rows)

    def take(self, uint64_t count):
        if count > rows_left(&self.stack):
            raise ValueError(f"{count} rows of {rows_left(&self.stack)} that are left")
        return array("I", [take_row(&self.stack) for _ in range(count)])

    def give_back(self, const uint32_t[::1] rows not None):
        cdef Py_ssize_t place
        self.check_taken(rows)
        for place in range(rows.shape[0]):
            free_row(&self.stack, rows[place])

    def clear(self, Tables tables not None, const uint32_t[::1] rows not None):
        cdef Py_ssize_t place
        if self.stack.next_row > tables.columns.capacity:
            raise ValueError(f"rows of another store, of which there are {tables.columns.capacity}")
        self.check_taken(rows)
        for place in range(rows.shape[0]):
            publish_64(&tables.columns.where[rows[place]], 0)
        for place in range(rows.shape[0]):
            free_row(&self.stack, rows[place])

    cdef int check_taken(self, const uint32_t[::1] rows) except -1:
        cdef Py_ssize_t place
        for place in range(rows.shape[0]):
            if not FIRST_ROW <= rows[place] < self.stack.next_row:
                raise ValueError(f"row {rows[place]} was never taken")
        return 0


cdef class ChangedRows:
    def __cinit__(self):
        self.state = Marks(NULL, 0)

    def watch(self, uint8_t[::1] marks):
        store_64(&self.state.length, 0)
        if marks is None:
            return  # and keeps the array: a thread with the store lock may be about to mark in it
        self.view = marks
        if marks.shape[0]:
            self.state.marks = &self.view[0]
            store_64(&self.state.length, marks.shape[0])
