"""Answers READ, and WRITE of one block by write(2), straight from /dev/fuse, without the interpreter's lock
(docs/decisions.md).

The blocks are read as plane/blocks/decode.pyi says, and each is checked against its digests, which also finds a race
with a writer: it is read again, and then left to Python, which has the store lock. So is everything else: other
requests, files that lanes do not know (volumes.pyi), what is in a tier, due or damaged, READs longer than
LARGEST_READ_BYTES.

READ takes no store lock. A write(2) of one block, whose thread waits for it, is encoded here, and committed if the lock
is free: to pass it to an encoder and have that woken takes longer. All other WRITEs go to the encoders (encoders.pyi).

Work for each request is bounded, for the thread may have real-time priority. A hot path; its benchmark is
`scripts/bench fault`.
"""

from blockstore.plane.blocks.encode import Batch
from blockstore.plane.serve.encoders import Encoders
from blockstore.plane.serve.requests import Requests
from blockstore.plane.tables.tables import Tables
from blockstore.plane.tables.volumes import VolumeTable

LARGEST_READ_BYTES: int
TIMED_FAULTS: int
"""Of so many requests one is timed if it is a READ that is answered: timing all of them would make each two percent
slower. A prime, so that of VMs that fault in turn each is seen."""

class Lane:
    """Of one thread, which calls `serve`. Several may serve one descriptor, each with a pipe of its own."""

    def __init__(
        self,
        fd: int,
        pipe: tuple[int, int],
        pipe_bytes: int,
        request_bytes: int,
        tables: Tables,
        volumes: VolumeTable,
        requests: Requests,
        encoders: Encoders | None = None,
        batch: Batch | None = None,
    ) -> None:
        """`fd` is /dev/fuse, in blocking mode; `pipe` are the ends (out, in) of an empty pipe with room for
        `pipe_bytes`; `request_bytes` is what the kernel wants to have room for. All of them must stay open while
        `serve` runs. `encoders` get each WRITE that is not stored here, in a `batch` of this thread alone; without them
        Python gets all. Raises MemoryError, OSError, and ValueError when the store has as many lanes as it can have, or
        there are encoders and no batch."""

    @property
    def turns(self) -> int:
        """Requests taken from the device."""

    def serve(self, *, by_read: bool = False) -> bool:
        """Serves until the mount has ended; True then. Runs without the interpreter's lock.

        Returns False when the pipe is too small for the largest WRITE that was agreed upon: then call it again with
        `by_read`, and it takes requests by read(2), of which one can be lost if the process is killed meanwhile
        (daemon/fuse/device.py). Raises OSError, MemoryError.
        """

    def end(self) -> None:
        """No `serve` runs any more, and none will: ends the wait of `take_samples`."""

    def is_waiting(self) -> bool:
        """Is there a request in the device?"""

    def take_samples(self) -> list[tuple[int, int, int, int]] | None:
        """Waits until requests came since the last call, TIMED_FAULTS of them or so, without the interpreter's lock.
        Returns the READs that were timed: inode, offset in bytes, the asking thread (0 if it is not known, or if the
        READ was not of one block), nanoseconds. None after `end`. For one thread; when it is away for long the oldest
        256 are kept."""
