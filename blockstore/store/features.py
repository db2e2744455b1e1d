"""Features: a few numbers a block, of which similar blocks are likely to share some (docs/decisions.md).

Every window of three words of the block, at each 16-byte step, is hashed with the domain's own multipliers. A
feature is the largest of these hashes under one more permutation: a change in one place leaves most windows, and
so most of the maxima, as they were (Broder's min-wise sampling). Steps of 16 bytes find content that moved within
a page, because allocators align what they hand out to 16; steps of 8 find a thirtieth more, for twice the work.
Windows of zeros hash to 0, are no content, and give no feature. numpy does a whole slice of blocks at once.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.geometry import BLOCK_BYTES

FEATURES: Final = 4
"""Features a block. Six find 3 % more of what patches can save, for a tenth more work in all."""

NO_FEATURE: Final = 0

_WINDOW_WORDS: Final = 3
_WORDS: Final = BLOCK_BYTES // 8
_PAIRS: Final = _WORDS // 2
_WINDOWS: Final = _PAIRS - 1

_FOLD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_HALF: Final = np.uint64(32)
_MIX_SHIFT: Final = np.uint32(15)


def multipliers(seed: int) -> npt.NDArray[np.uint32]:
    """The domain's key for features: an odd number for each word of a window, and one for each feature."""
    # Not numpy.random, which would take 2 MB for these few numbers.
    drawn = blake2b(seed.to_bytes(8, "little"), digest_size=4 * (_WINDOW_WORDS + FEATURES)).digest()
    return np.frombuffer(drawn, dtype="<u4").astype(np.uint32) | np.uint32(1)


class FeatureMaker:
    """Holds the scratch memory for up to `batch` blocks at once; not for use by two threads."""

    def __init__(self, batch: int) -> None:
        self._wide = np.empty((batch, _WORDS), dtype=np.uint64)
        self._even = np.empty((batch, _PAIRS), dtype=np.uint32)
        self._odd = np.empty((batch, _PAIRS), dtype=np.uint32)
        # In the place of the words, which nobody needs any more once they are folded.
        narrow = self._wide.reshape(-1).view(np.uint32)[: 2 * batch * _WINDOWS]
        self._hashes, self._scratch = narrow.reshape(2, batch, _WINDOWS)

    def features(
        self, blocks: bytes | memoryview, places: npt.NDArray[np.int64], key: npt.NDArray[np.uint32]
    ) -> npt.NDArray[np.uint32]:
        """Of the blocks at these places in `blocks`: shape (places, FEATURES), NO_FEATURE for a block of zeros."""
        count = len(places)
        wide, even, odd = self._wide[:count], self._even[:count], self._odd[:count]
        hashes, scratch = self._hashes[:count], self._scratch[:count]
        # Each word is folded to 32 bits first: numpy multiplies these four times as fast.
        np.take(np.frombuffer(blocks, dtype=np.uint64).reshape(-1, _WORDS), places, axis=0, out=wide)
        np.multiply(wide, _FOLD, out=wide)
        np.right_shift(wide, _HALF, out=wide)
        np.copyto(even, wide[:, ::2], casting="unsafe")
        np.copyto(odd, wide[:, 1::2], casting="unsafe")
        np.multiply(even[:, :_WINDOWS], key[0], out=hashes)
        for word, words in ((1, odd[:, :_WINDOWS]), (2, even[:, 1:])):
            np.multiply(words, key[word], out=scratch)
            np.add(hashes, scratch, out=hashes)
        np.right_shift(hashes, _MIX_SHIFT, out=scratch)
        np.bitwise_xor(hashes, scratch, out=hashes)
        result = np.empty((count, FEATURES), dtype=np.uint32)
        for feature in range(FEATURES):
            np.multiply(hashes, key[_WINDOW_WORDS + feature], out=scratch)
            np.max(scratch, axis=1, out=result[:, feature])
        return result
