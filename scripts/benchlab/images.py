"""Real guest memory to measure on: recorded once by scripts/guestlab, here as runs of blocks that hold data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from guestlab import assets, services
from guestlab.errors import GuestLabError

from benchlab.errors import BenchError

BLOCK_BYTES: Final = 4096
GUESTS: Final = ("web", "compile", "db")
"""Three guests with different services, as the issue asks for."""

Blocks = npt.NDArray[np.uint8]
"""Blocks one after another: shape (blocks, BLOCK_BYTES)."""


def find(folder: Path | None, *, quick: bool) -> dict[str, Path]:
    """The image of each guest, recorded now (it takes minutes) if it is missing in the cache. Raises BenchError.

    To be `quick`, that of a busybox guest alone, which is recorded in half a minute.
    """
    if folder is not None:
        found = {name: folder / f"{name}.ram" for name in GUESTS}
        missing = [str(path) for path in found.values() if not path.is_file()]
        if missing:
            raise BenchError(f"there is no {missing[0]}; record it: python -m guestlab.services --out {folder}")
        return found
    try:
        target, guests = assets.cache_dir() / "images", (services.BUSYBOX,) if quick else GUESTS
        if not all((target / f"{name}.ram").is_file() for name in guests):
            print(f"bench: recording the memory of {', '.join(guests)}, which takes a while", file=sys.stderr)
        return {recording.service: recording.path for recording in services.record(guests, target)}
    except GuestLabError as error:
        raise BenchError(str(error)) from error


def data_blocks(path: Path, limit: int | None = None) -> Blocks:
    """The image's blocks that are not zero, in order; from `limit` on the rest is left out."""
    image = np.memmap(path, dtype=np.uint8, mode="r")
    whole = image[: len(image) // BLOCK_BYTES * BLOCK_BYTES].reshape(-1, BLOCK_BYTES)
    kept: list[Blocks] = []
    count = 0
    for start in range(0, len(whole), 4096):
        part = whole[start : start + 4096]
        part = part[part.view(np.uint64).any(axis=1)]
        kept.append(part)
        count += len(part)
        if limit is not None and count >= limit:
            break
    return np.concatenate(kept)[:limit]


def variation(blocks: Blocks, number: int) -> Blocks:
    """The same blocks after a guest changed 64 bytes in each: all unique, most of them alike the original."""
    result = blocks.copy()
    generator = np.random.default_rng(number)
    places = generator.integers(0, BLOCK_BYTES // 64, len(blocks))
    result.reshape(len(blocks), -1, 64)[np.arange(len(blocks)), places] = generator.integers(
        0, 256, (len(blocks), 64), dtype=np.uint8
    )
    return result


def fill_up(images: dict[str, Path], size_bytes: int) -> Iterator[tuple[str, Blocks]]:
    """(name, blocks): the images, then variations of them, until there are `size_bytes` that are not zero."""
    left = size_bytes // BLOCK_BYTES
    number = 0
    while left:
        for name, path in images.items():
            if not left:
                return
            blocks = data_blocks(path, left)
            left -= len(blocks)
            yield (f"{name}-{number}", variation(blocks, number)) if number else (name, blocks)
        number += 1


def unique_compressible(blocks: Blocks, limit: int | None = None) -> list[bytes]:
    """Each content once, of those that LZ4 makes small enough to be stored compressed."""
    from blockstore.store.codec import CODEC
    from blockstore.store.ingest import RAW_FROM_BYTES

    found: dict[bytes, None] = {}
    for line in blocks:
        block = line.tobytes()
        if block not in found and len(CODEC.encode(block)) < RAW_FROM_BYTES:
            found[block] = None
            if len(found) == limit:
                break
    return list(found)
