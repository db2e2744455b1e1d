"""What a VM reads first when it goes on from a snapshot: runs of blocks, in the order in which they were needed (REAP,
Ustiugov et al., ASPLOS 2021). Recorded once, kept in the state directory by the number of the origin's memory file.

It is a hint: what is read is what the store has at that moment, wherever a run points. A file that is damaged, or is
not there, is no working set.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MAXIMUM_BLOCKS: Final = 16384
"""64 MiB: a VM that needs more in its first seconds reads all of its memory, and is not helped by an order."""

MAXIMUM_RUNS: Final = 4096
"""32 KiB of file; the limit of blocks is reached before, if they are what read-ahead brings, eight at once."""

KEPT: Final = 64
"""Working sets of one mount; the oldest goes first. Together 2 MiB of the state directory at most."""

_PREFIX: Final = "working-set-"
_RUN: Final = struct.Struct("<II")  # first block, blocks
_DIGEST_BYTES: Final = 32  # of SHA-256
_MAXIMUM_BYTES: Final = MAXIMUM_RUNS * _RUN.size + _DIGEST_BYTES


class Run(NamedTuple):
    """Blocks of a memory file that lie side by side."""

    first: int
    blocks: int


def path_of(state: Path, origin: int) -> Path:
    """Where that of the memory file number `origin` is, or would be."""
    return state / f"{_PREFIX}{origin}"


def load(state: Path, origin: int) -> list[Run]:
    """Empty if there is none, or none that is whole."""
    try:
        with path_of(state, origin).open("rb") as file:
            content = file.read(_MAXIMUM_BYTES + 1)
    except OSError:
        return []
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if len(content) > _MAXIMUM_BYTES or len(packed) % _RUN.size or _digest(packed) != digest:
        return []
    return [Run(*each) for each in _RUN.iter_unpack(packed)]


def save(state: Path, origin: int, runs: Sequence[Run]) -> None:
    """Keep it, whole or not at all. Raises OSError."""
    assert len(runs) <= MAXIMUM_RUNS and sum(run.blocks for run in runs) <= MAXIMUM_BLOCKS
    path = path_of(state, origin)
    packed = b"".join(_RUN.pack(*run) for run in runs)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(_digest(packed) + packed)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _drop_oldest(state)


def remove(state: Path, origin: int) -> None:
    """The memory file is gone; idempotent."""
    with contextlib.suppress(OSError):
        path_of(state, origin).unlink()


def in_order(looks: Iterable[bytes]) -> list[Run]:
    """Of what was resident at one look after the other, a byte for each block: what came first stands first, within a
    look by its place. Cut off at the limits."""
    runs: list[Run] = []
    before, blocks = 0, 0
    for look in looks:
        now = int.from_bytes(look, "little")
        for run in _runs((now & ~before).to_bytes(len(look), "little")):
            if len(runs) == MAXIMUM_RUNS or blocks == MAXIMUM_BLOCKS:
                return runs
            runs.append(run._replace(blocks=min(run.blocks, MAXIMUM_BLOCKS - blocks)))
            blocks += runs[-1].blocks
        before |= now
    return runs


def _runs(flags: bytes) -> Iterable[Run]:
    end = 0
    while (first := flags.find(1, end)) >= 0:
        end = flags.find(0, first)
        end = end if end >= 0 else len(flags)
        yield Run(first, end - first)


def _drop_oldest(state: Path) -> None:
    dated = []
    for each in state.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process has taken it away
            dated.append((each.stat().st_mtime_ns, each))
    for _, each in sorted(dated)[:-KEPT]:
        each.unlink(missing_ok=True)


def _digest(data: bytes) -> bytes:
    import hashlib  # and with it OpenSSL, 0.7 MB that the controller does without

    return hashlib.sha256(data).digest()
