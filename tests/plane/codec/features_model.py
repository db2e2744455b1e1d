"""The features of blocks by numpy: what the compiled ones (blockstore/plane/codec/features.pyx) must be, bit by bit."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

WORDS = 512
FEATURES = 4
WINDOW_WORDS = 3
FOLD = np.uint64(0x9E37_79B9_7F4A_7C15)


def multipliers(seed: int) -> npt.NDArray[np.uint32]:
    """Returns an odd number for each word of a window, and one for each feature."""
    drawn = blake2b(seed.to_bytes(8, "little"), digest_size=4 * (WINDOW_WORDS + FEATURES)).digest()
    return np.frombuffer(drawn, dtype="<u4").astype(np.uint32) | np.uint32(1)


def features(blocks: bytes, key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Returns the features of all blocks: shape (blocks, FEATURES)."""
    words = np.frombuffer(blocks, dtype=np.uint64).reshape(-1, WORDS)
    folded = (words * FOLD >> np.uint64(32)).astype(np.uint32)
    even, odd = folded[:, ::2], folded[:, 1::2]
    hashes = even[:, :-1] * key[0] + odd[:, :-1] * key[1] + even[:, 1:] * key[2]
    hashes ^= hashes >> np.uint32(15)
    return (hashes[:, :, None] * key[WINDOW_WORDS:]).max(axis=1)  # type: ignore[no-any-return]
