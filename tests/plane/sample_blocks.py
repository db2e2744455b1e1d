"""Blocks to encode: synthetic ones for hypothesis, and those of a program, which real guests are full of."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import lz4.block
from hypothesis import strategies as st

from blockstore.store.state.geometry import BLOCK_BYTES
from tests.store.material import half, near, noise, text

SEEDS = st.integers(0, 1000)
BLOCKS = st.one_of(
    st.builds(noise, SEEDS),
    st.builds(text, SEEDS),
    st.builds(half, SEEDS),
    st.builds(near, st.builds(text, SEEDS), SEEDS),
    st.binary(min_size=1, max_size=64).map(lambda piece: (piece * BLOCK_BYTES)[:BLOCK_BYTES]),
    st.just(bytes(BLOCK_BYTES)),
)


@lru_cache(maxsize=1)
def of_programs(count: int = 600) -> list[bytes]:
    """Blocks of the interpreter and of a compiled module, none of them zeros only."""
    content = Path(sys.executable).resolve().read_bytes()
    for module in sorted(Path(lz4.block.__file__).parent.glob("*.so")):
        content += module.read_bytes()
    found = [content[place : place + BLOCK_BYTES] for place in range(0, len(content) - BLOCK_BYTES, BLOCK_BYTES)]
    return [block for block in found if any(block)][:count]
