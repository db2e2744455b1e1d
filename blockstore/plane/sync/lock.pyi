"""The lock of a store: one thread at a time has it, and a thread that waits gets it before one that comes again.

A mutex alone is unfair: a thread that releases it and takes it again at once keeps it. So each thread acquires the
*turn* first, and gives it up when it has the lock: the thread that waits with the turn is next.

Compiled threads hold it for microseconds, Python for a step of the store, a millisecond at most, so trio's thread may
wait for it as well. A Python thread releases the interpreter's lock before it waits. Afterwards it waits for the
interpreter's while it has this one, as with each lock of Python's.
"""

from types import TracebackType

class StoreLock:
    """`with lock:` holds it. Not reentrant; the thread that acquires it releases it."""

    def __init__(self) -> None:
        """Raises MemoryError."""

    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def somebody_waits(self) -> bool:
        """Returns whether a thread has the turn and waits for the lock."""
