"""Encoders: threads that answer WRITE without the interpreter's lock.

Lanes push what the kernel sends; an encoder takes it from the queue (write_queue.pyi), stores it a slice at a time
(commit.pyi), and answers. Whole blocks only: a write of parts of blocks, and what finds no room or no record, goes to
Python by the queue that lanes use for everything unusual (requests.pyi).

With ordinary priority an encoder on the faulting core would keep a lane from it for a time slice of the scheduler. So
encoders have less weight and short slices (sched_setattr(2), `sched_runtime` of SCHED_OTHER, Linux 6.12; older kernels
ignore it): 4087 us as the 99th percentile of faults became 482, and 39 with a lane at real-time priority.
"""

from collections.abc import Callable, Sequence

from blockstore.plane.blocks.commit import Commit
from blockstore.plane.blocks.encode import Batch
from blockstore.plane.serve.requests import Requests
from blockstore.plane.serve.write_queue import WriteQueue
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.volumes import VolumeTable

class Encoders:
    """Of one mount; `serve` is called by as many threads as shall encode."""

    def __init__(
        self,
        fd: int,
        volumes: VolumeTable,
        requests: Requests,
        commit: Commit,
        lock: StoreLock,
        reserved_segments: int,
        bounds_us: Sequence[int],
    ) -> None:
        """Answers go to `fd`; so many segments of the pool are kept free; times are counted in classes with these
        bounds, of which there are at most 23. Raises ValueError for more."""
    @property
    def queue(self) -> WriteQueue:
        """Where writes wait."""
    @property
    def turns(self) -> int:
        """Writes that were answered here."""
    @property
    def latency(self) -> tuple[list[int], int]:
        """How many writes took as long as each class says, from the lane to the answer, and all of their time in us."""
    def serve(self, batch: Batch, slice_blocks: int, ask: Callable[[int, int, memoryview, Batch], bool]) -> None:
        """Encodes until the queue has ended. `batch` is of the calling thread alone, and takes `slice_blocks`.

        `ask(inode, offset, data, batch)` is called with the interpreter's lock, and without the store lock, when commit
        needs Python: it stores these whole blocks, which the batch has encoded, and returns True. When it returns False
        or raises, Python gets the whole write. `data` and what is in the batch are valid during the call only.
        """

def take_little(nice: int, slice_ns: int) -> None:
    """Gives the calling thread this nice value, and slices of so many nanoseconds. Raises OSError when the kernel
    refuses."""

def give_way() -> None:
    """Lets threads go first that wait for this core, and returns at once if there are none. Without the interpreter's
    lock (sched_yield(2))."""
