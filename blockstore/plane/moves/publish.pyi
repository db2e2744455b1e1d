"""What changes the words of rows whose records move.

A record is copied to its new place before the row's word names it, and given up after that. Each word is one atomic
store, so that a process killed between any two leaves each row at a record that is there. For other modules of the
plane (publish.pxd); Python has nothing to call here.
"""

from collections.abc import Callable

def call_at_points(function: Callable[[], None] | None) -> None:
    """For the test of death at any instruction: calls this before each store to shared memory in this module."""
