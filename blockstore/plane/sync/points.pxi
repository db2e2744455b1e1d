# For each module that publishes what a killed process leaves: lets a test of death look before each of its stores. What
# atomics.h calls there is a variable of each module, so this is included in all of them.

cdef extern from "atomics.h" nogil:
    void (*at_point)() noexcept

cdef object point = None


cdef void call_point() noexcept with gil:
    point()


def call_at_points(function):
    global point, at_point
    point = function
    if function is None:
        at_point = NULL
    else:
        at_point = call_point
