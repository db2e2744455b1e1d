"""Encodes cold blocks anew, a batch at a time: picked, described, encoded, and replaced where they get smaller.

    pick, describe   need no lock: they are inside of the epochs (sync/epochs.pyi), and what they read is checked later
    encode           touches nothing but the batch
    replace          has the store lock: compares what was read with the tables, appends the records, and publishes them

All of it works without the interpreter's lock. A block keeps its row. Its word is published last, so that a process
killed in between leaves the old record or the new one; what the old one took, and a reference that was given up, are
let go after it (tables/log.pyi, `take_back`).
"""

from collections.abc import Callable

from blockstore.plane.blocks.commit import Commit
from blockstore.plane.buffers import U32s
from blockstore.plane.codec.dictionary import DictionaryEncoder
from blockstore.plane.moves.cold_encoders import ColdWork
from blockstore.plane.moves.cold_scan import ColdScan
from blockstore.plane.sync.epochs import Epochs
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.similarity_index import SimilarityIndex

class Reencoder(ColdWork):
    """One batch of up to `most_blocks`, 16 KiB each, with contexts of its own. For one thread at a time.

    A cold encoder (cold_encoders.pyi) encodes what was picked and described, in place of `encode`; when it is held in
    the midst of it, some are left."""

    left: int
    """Blocks that were picked, and not encoded yet."""
    encoded: int
    """Blocks that were picked, and were encoded."""
    has_gained: bool
    """Has one that was encoded a smaller record, to be published?"""
    record_bytes: int
    """Of those that the last `replace` had to publish."""
    replaced: int
    """Blocks that got smaller records, ever."""
    saved_bytes: int
    """What these take less, with the references that were given up for them."""

    def __init__(
        self,
        commit: Commit,
        similarity: SimilarityIndex,
        epochs: Epochs,
        most_blocks: int,
        *,
        gain_bytes: int,
        patch_gain_bytes: int,
        enough_share: float,
        described_from_bytes: int,
        most_dependents: int,
    ) -> None:
        """The first three limits are those of Recompressor. A block alone whose record is longer than
        `described_from_bytes`, and for which ingest found no reference, gets features and is looked up in the
        similarity index. A row with `most_dependents` patches gets no more. Raises MemoryError, and ValueError for no
        blocks, or more than 256."""

    def pick(self, scan: ColdScan) -> set[int]:
        """Takes the next rows of the scan as the batch, as many as fit, in place of what was in it. Reads their blocks,
        and those that they are patches against or may become ones. Leaves out what was freed, is paged, or cannot be
        read, and what is neither one of the scan's encodings nor a patch that alone keeps its reference. Returns the
        domains (indexes) of the blocks."""

    def describe(self, domain: int, seed: int, key: U32s, encoder: DictionaryEncoder | None = None) -> None:
        """Lets the blocks of the domain have this seed of digests, without which they are not encoded. Looks for
        references by their features, of which `key` has the multipliers (codec/features.pyi). Those that stay
        alone are encoded with `encoder`, one for how hard they will be; the batch keeps it. Raises ValueError for a
        key of another length."""

    def encode(self, most_blocks: int, *, hard: bool, gain_share: float) -> int:
        """Encodes the next of the batch (codec/recompress.pyi). Returns how many they were."""

    def prepare(self, *, hard: bool, gain_share: float) -> None:
        """Says how a cold encoder is to encode, and has zstd allocate its tables for that."""

    def replace(self, scan: ColdScan, reserved_segments: int, lock: StoreLock | None) -> bool:
        """Lets the rows have their smaller records. Those that have changed since they were picked stay as they are;
        those for which only what has to do with a reference has changed, or changes with another one of the batch, are
        put back to be picked again, and so are those that were not encoded. Waits for the store lock; who has it gives
        None. The batch is empty then.

        Returns False, and nothing has changed in the store, when `reserved_segments` could not be kept free, there is
        no segment to append to, nobody has taken back what was let go, or the records could not be written
        (`Log.error`). Then it may be called again."""

    def put_back(self, scan: ColdScan) -> None:
        """Empties the batch. The rows that were to be replaced or encoded are picked again."""

    def gains(self) -> list[tuple[int, int, bytes, bool]]:
        """Returns what is to be published, for tests: row, row of the reference (0 without), record, is it a patch."""

def call_at_points(function: Callable[[], None] | None) -> None:
    """For the test of death at any instruction: calls this before each store to shared memory in this module."""
