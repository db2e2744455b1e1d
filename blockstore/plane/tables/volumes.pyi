"""The volumes that lanes answer for, by number; and when a lane may still be looking at what is taken away.

Lanes look volumes up without a lock (an open-addressed table, whose slots are published with release stores and which
is replaced as a whole). Each lane has a counter that is odd while it looks. Whoever takes something away makes it
impossible to find, and then waits until each lane was seen outside once (`settle`): quiescent-state based reclamation
(McKenney and Slingwine, "Read-copy update", 1998). A lane is inside for one READ, microseconds, and waits for nothing
there.
"""

from blockstore.plane.tables.block_map import BlockMap

class VolumeTable:
    """Of one store. Its methods are called with the store lock, but for `settle`."""

    def __init__(self) -> None: ...
    def enter(self, number: int, block_map: BlockMap) -> None:
        """Lets lanes find this volume. Raises ValueError for 0 and for a number that is there, MemoryError."""

    def remove(self, number: int) -> None:
        """Hides a volume, and returns when no lane looks at it any more; one that is not there is no error.
        Without memory for another table all are hidden: Python answers for them then."""

    def settle(self) -> None:
        """Returns when each lane was outside once since the call: what could not be found by then can go."""
