"""WRITE requests on their way to the encoders.

Encoders take them in the order in which they came, and several at once. One that writes bytes that an earlier one also
writes waits until that one is done: the kernel lets a page that write(2) has filled be changed through a mapping, and
writes it back, while the request of write(2) is under way (fs/fuse/file.c, fuse_fill_write_pages), and the bytes that
were written back last must stay.

What the encoders cannot do, for there is no room, or a record is in the tier, is *handed* to Python. Until Python is
done with all that was handed, further ones wait here. While those that Python has wait themselves, further ones are
passed on as well, since Python knows which of them may wait (daemon/lane/jobs.py, parked_writes.py); and while
Python is at such of which it has a copy only, further ones are held (`steer`).

The queue has a lock of its own, held for as long as comparing with those before it takes. Lanes push no more than the
kernel has requests under way: `MAXIMUM_BACKGROUND` of write-back (relay.py) and one for each thread in write(2).
"""

class WriteQueue:
    @property
    def count(self) -> int:
        """Writes that are queued, with an encoder, or handed to Python."""
    @property
    def handed(self) -> int:
        """Writes that Python has and is not done with."""
    def steer(self, *, passes_on: bool, holds: bool) -> None:
        """Says whether further writes are passed on to Python, and, if not, whether they are held back."""
    def end(self) -> None:
        """Wakes all who wait in `take`, for good."""
    def push(self, volume: int, start: int, end: int) -> int:
        """Enters a write without a request, and returns its number. For tests. Raises MemoryError."""
    def start(self, volume: int, start: int, end: int) -> tuple[int, bool]:
        """Enters a write, and returns its number and whether it begins at once: not when others are before it, or
        Python has some. For tests. Raises MemoryError."""
    def give_up(self, number: int) -> None:
        """Leaves a write that was started or popped to the next `pop`. For tests."""
    def pop(self) -> tuple[int, bool] | None:
        """Returns the number of the next write, and whether it is to be handed to Python; None when there is none that
        may begin. Does not wait. For tests."""
    def hand_back(self, number: int) -> None:
        """Hands a write that was popped to Python. For tests."""
    def done(self, number: int) -> None:
        """Ends a write that was popped. For tests."""
