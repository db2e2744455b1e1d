"""Which limits a pool may have. Apart from the pool, for those who only want to know."""

from __future__ import annotations

from typing import Final

from blockstore.errors import InputError
from blockstore.store.state.geometry import SEGMENT_BYTES

MINIMUM_LIMIT_BYTES: Final = 8 * SEGMENT_BYTES
"""Below this the reserve and the head would be most of the pool."""

MAXIMUM_LIMIT_BYTES: Final = 1 << 44
"""16 TiB, more than any host has; the pool is mapped whole, and addresses end."""


def check_limit(limit_bytes: int) -> None:
    """Raises InputError for a limit that no pool can have."""
    if limit_bytes < MINIMUM_LIMIT_BYTES:
        raise InputError(
            f"--pool-limit {limit_bytes} bytes is too small; the least is {MINIMUM_LIMIT_BYTES} bytes (8M)"
        )
    if limit_bytes > MAXIMUM_LIMIT_BYTES:
        raise InputError(
            f"--pool-limit {limit_bytes} bytes is too large; the most is {MAXIMUM_LIMIT_BYTES} bytes (16T)"
        )
