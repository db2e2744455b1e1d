"""Threads at idle priority (SCHED_IDLE), which work on what they are given: they run where no other thread wants to.

Such a thread may stand still for seconds wherever it is, so it must have nothing that others wait for. It is no thread
of Python's and never has the interpreter's lock; it has no lock of the store, is in no epoch (sync/epochs.pyi), and
calls no malloc, for the daemon has one heap with one lock. It only works on memory that is its own meanwhile. Whoever
gives it work picks that before, and publishes what came of it afterwards, at ordinary priority; both sides meet in
atomic words and a semaphore, at which neither can keep the other waiting.

It stays at idle priority until it ends: without privileges no thread comes back from there (sched(7)).
"""

class ColdWork:
    """What a thread can be given: compiled, with a `work` of its own (cold_encoders.pxd says what that may do)."""

class ColdEncoders:
    """A number of such threads. All methods are for one thread, and none of them waits but `stop`."""

    def __init__(self, count: int) -> None:
        """Starts no thread yet. Raises ValueError for less than 1 or more than 64, and MemoryError."""
    @property
    def count(self) -> int:
        """How many threads it has, or will have."""
    @property
    def is_running(self) -> bool:
        """Were threads started, and not stopped since?"""
    @property
    def is_ending(self) -> bool:
        """Were they told to stop, and have not all ended? They are given nothing any more; call `stop` again."""
    @property
    def is_refused(self) -> bool:
        """Does the kernel not let a thread have idle priority? Such a thread works on nothing: what it is given comes
        back as it was. It tells when it has run for the first time."""
    @property
    def given(self) -> int:
        """Pieces of work that were given and not taken back."""
    def start(self) -> None:
        """Starts the threads. Raises OSError when the kernel lets us have no more; those that there are end then, and
        `stop` says when they have."""
    def has_place(self, thread: int) -> bool:
        """Returns whether a thread could be given one more."""
    def give(self, thread: int, work: ColdWork) -> bool:
        """Gives a thread a piece of work, which is not to be touched until it is taken back. Returns False, and it is
        not given, when the thread has two, or is not running, or is to end."""
    def take_back(self, thread: int) -> ColdWork | None:
        """Returns the oldest piece of work with which a thread is done, or which it has left since it is held; None
        while there is none."""
    def hold(self, is_held: bool) -> None:
        """Has the threads leave what they are at within a millisecond of processor time, and whatever they are given,
        until they are no more held."""
    def times_ns(self) -> list[tuple[int, int]]:
        """Returns for how long each thread had work, ever, and how much processor time it took. The difference is how
        long it waited for a core."""
    def stop(self, wait_s: float) -> bool:
        """Has the threads leave what they are at, and end. Returns whether all have ended within the time; if not, it
        may be called again. What was given can be taken back afterwards."""
