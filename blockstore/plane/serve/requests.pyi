"""Requests of the kernel that lanes leave to others: a queue, and the memory that the requests lie in.

A lane pushes without the interpreter's lock, Python takes. All limits stand in requests.pxd. A lane that meets one
waits, and does not read the device meanwhile.
"""

from collections.abc import Sequence

class Request:
    """One request; a read-only buffer of its bytes. Its memory goes back when it and all views of it are gone."""

    @property
    def opcode(self) -> int: ...
    @property
    def unique(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def pid(self) -> int:
        """The thread that asks, in this PID name space; 0 if it is in another, and for the kernel."""

    @property
    def offset(self) -> int:
        """Of READ and WRITE, as are `length` and `flags`."""

    @property
    def length(self) -> int: ...
    @property
    def flags(self) -> int: ...
    def __len__(self) -> int: ...
    def done(self) -> None:
        """Lets writes go on that wait behind this one (write_queue.pyi): it was answered, or there is a copy. Happens
        at the end of the request by itself, but what an exception refers to may live for long. Idempotent."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class Requests:
    """The queue. Any thread may use it."""

    taken: int
    """How many were taken."""

    def __init__(self, large_bytes: int, pipes: Sequence[tuple[int, int]] = ()) -> None:
        """`large_bytes` is what the largest request takes; `pipes` are for WRITEs that wait to be copied (pipes.pyi).
        Raises MemoryError, and ValueError for too many pipes."""

    @property
    def free_pipes(self) -> int:
        """How many of the pipes are in use by no WRITE."""

    @property
    def count(self) -> int:
        """How many wait."""

    @property
    def large_in_use(self) -> int:
        """How many large buffers are not given back."""

    @property
    def spare(self) -> int:
        """How many large buffers are kept for the next WRITEs."""

    @property
    def is_closed(self) -> bool:
        """Will none come any more?"""

    def wait(self, timeout_ms: float) -> bool:
        """Waits until a request can be taken, for so long at most. Returns whether one can."""

    def was_woken(self) -> bool:
        """Returns whether encoders have woken the thread that waits here since the last call: a segment is full, or
        something was let go (encoders.pyi)."""

    def take(self, timeout_ms: float = -1) -> Request | None:
        """Returns the oldest one, waits for so long (for ever, if negative) for it. None when none came, or none will
        come any more, or the caller was woken. Waits without the interpreter's lock."""

    def put(self, request: bytes | bytearray | memoryview) -> None:
        """Appends a copy of a request, as a lane would. Raises ValueError for less than a header or more than
        `large_bytes`, MemoryError, and BrokenPipeError when closed."""

    def trim(self) -> None:
        """Gives the memory of spare buffers back: a burst of writes is over."""

    def close(self) -> None:
        """None will come any more: ends all waits. What waits can still be taken."""
