"""Memory images that are made by rule, byte for byte the same on every machine: to compare what commits store of them.

They are no guests' memory, and say nothing of what guests save. But they have blocks of all the kinds that the store
treats in ways of their own: the same in all images, alike but for a few addresses, compressible more and less, arrays
of structures, compressed before, and zero. All chance is SHAKE-128 of a name, and all arithmetic is of integers: no
version of a library changes a byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchlab.images import BLOCK_BYTES, Blocks

NAMES: Final = ("first", "second", "third")
IMAGE_BYTES: Final = 32 << 20

_SIXTEENTHS: Final = {"shared": 3, "alike": 3, "own": 5, "structures": 3, "noise": 1, "zero": 1}
"""Of each image. What is `alike` differs from what is `shared` by addresses, other ones in each image."""

_WORD_BYTES: Final = 8
_WORDS: Final = 4096
"""That all blocks are made of."""

_MOST_WORDS: Final = 256
_LEAST_WORDS: Final = 32
"""Of those, in one block: LZ4 makes 1650 bytes of a block with the least, and 2700 of one with the most."""

_ADDRESSES: Final = 12
"""That differ in a block that is alike another."""

_STRUCTURE_WORDS: Final = 8

Numbers = npt.NDArray[np.uint64]


def make(folder: Path) -> list[Path]:
    """Writes all images, NAME.ram, into the folder. Raises OSError."""
    paths = [folder / f"{name}.ram" for name in NAMES]
    for name, path in zip(NAMES, paths, strict=True):
        path.write_bytes(_image(name).tobytes())
    return paths


def sha256(paths: Sequence[Path]) -> str:
    """Of these files, one after another. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _image(name: str) -> Blocks:
    """Blocks of all kinds, mixed as the pages of a kernel are that has been up for a while."""
    of_kinds = [_blocks(kind, name, IMAGE_BYTES // BLOCK_BYTES * share // 16) for kind, share in _SIXTEENTHS.items()]
    blocks = np.concatenate(of_kinds)
    order = np.argsort(_numbers(f"order of {name}", len(blocks), 8), kind="stable")
    result: Blocks = blocks[order].view(np.uint8)
    return result


def _blocks(kind: str, name: str, count: int) -> Numbers:
    """So many blocks, a line of words each."""
    if kind == "shared":
        return _woven("all", count)
    if kind == "alike":
        return _with_addresses_of(name, _woven("all", count))
    if kind == "own":
        return _woven(name, count)
    if kind == "structures":
        return _structures(name, count)
    words = BLOCK_BYTES // _WORD_BYTES
    if kind == "noise":
        return _numbers(f"noise of {name}", count * words, _WORD_BYTES).reshape(count, words)
    return np.zeros((count, words), dtype=np.uint64)


def _woven(name: str, count: int) -> Numbers:
    """Each block of some words, of which the front ones are in many blocks: their number is the product of two."""
    words = _numbers("words", _WORDS, _WORD_BYTES)
    first, second = (_numbers(f"words of {name}, {time}", count * _MOST_WORDS, 2) for time in ("once", "twice"))
    of_block = (first * second * np.uint64(_WORDS) >> np.uint64(32)).reshape(count, _MOST_WORDS)
    spread = np.uint64(_MOST_WORDS - _LEAST_WORDS + 1)
    how_many = (_numbers(f"numbers of words of {name}", count, 2) % spread + np.uint64(_LEAST_WORDS)).reshape(count, 1)
    places = _numbers(f"places in {name}", count * BLOCK_BYTES // _WORD_BYTES, 2).reshape(count, -1) % how_many
    result: Numbers = words[np.take_along_axis(of_block, places.astype(np.int64), axis=1)]
    return result


def _with_addresses_of(name: str, blocks: Numbers) -> Numbers:
    count = len(blocks) * _ADDRESSES
    places = _numbers(f"places of addresses in {name}", count, 2).reshape(len(blocks), -1) % np.uint64(blocks.shape[1])
    addresses = _addresses(f"addresses in {name}", count).reshape(len(blocks), -1)
    np.put_along_axis(blocks, places.astype(np.int64), addresses, axis=1)
    return blocks


def _structures(name: str, count: int) -> Numbers:
    """As a kernel keeps them: two addresses, two small numbers, and nothing in the rest."""
    in_all = count * BLOCK_BYTES // _WORD_BYTES // _STRUCTURE_WORDS
    structures = np.zeros((in_all, _STRUCTURE_WORDS), dtype=np.uint64)
    structures[:, 0] = _addresses(f"parents in {name}", in_all)
    structures[:, 1] = _addresses(f"children in {name}", in_all)
    structures[:, 3] = _numbers(f"counts in {name}", in_all, 1)
    structures[:, 5] = _numbers(f"sizes in {name}", in_all, 2)
    return structures.reshape(count, -1)


def _addresses(name: str, count: int) -> Numbers:
    """Of objects of 64 bytes in 64 MiB of a kernel's memory."""
    return np.uint64(0xFFFF888000000000) + _numbers(name, count, 4) % np.uint64(1 << 20) * np.uint64(64)


def _numbers(name: str, count: int, size_bytes: int) -> Numbers:
    """Chance: so many numbers of 1, 2, 4 or 8 bytes."""
    noise = hashlib.shake_128(name.encode()).digest(count * size_bytes)
    return np.frombuffer(noise, dtype=f"<u{size_bytes}").astype(np.uint64)
