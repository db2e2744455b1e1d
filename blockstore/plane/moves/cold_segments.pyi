"""The segments that a pass of re-encoding looks at, and their generations when it began.

Chosen by columns of the table of segments (store/state/segments.py), of which none is kept. What is old enough, and how
many there may be, the caller says (store/moves/densify.py). For one thread at a time, which has the store lock.
"""

from blockstore.plane.buffers import Bytes, F64s, I64s

class ColdSegments:
    """None at first. `count` segments were looked at last."""

    count: int

    def look(self, generation: I64s, has_memory: Bytes, is_retired: Bytes, head: int, spare: int) -> None:
        """Notes which segments are full, and their generations: they have memory, are not retired, and neither the head
        nor the spare one (-1 for none). Chooses none. Raises MemoryError, and ValueError for columns of other
        lengths."""

    def note_full(self, full_generation: I64s, full_since_s: F64s, now_s: float) -> None:
        """Writes into these columns the generation of each full segment that they do not have yet, and that it is full
        since now. Raises ValueError for a column that is too short, as do all the others."""

    def choose_first(self, first_look: I64s, full_since_s: F64s, latest_s: float) -> int:
        """Chooses the full segments whose generation was not looked at, and that are full since `latest_s` or before.
        Returns how many they are."""

    def choose_second(self, first_look: I64s, second_look: I64s, full_since_s: F64s, latest_s: float, most: int) -> int:
        """Chooses the first `most` of the full segments whose generation was looked at once, and that are full since
        `latest_s` or before. Returns how many they are."""

    def choose_all(self) -> None:
        """Chooses all segments, full or not."""

    def finish(self, looked: I64s) -> None:
        """Writes into this column, for each segment that is chosen, the generation that it had; -1 for one that was not
        full, for it is not done, whatever of it was tried."""

    def numbers(self) -> list[int]:
        """Returns those that are chosen, in their order."""
