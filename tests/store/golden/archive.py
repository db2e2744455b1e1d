"""A directory of sparse files as text: an index of what is where, and then all of that, compressed, in base64.

NAME SIZE OFFSET+LENGTH ...     a line for each file; the offsets are those of its pages that are not all zeros
                                an empty line
base64                          of one xz stream: these ranges of all files, one behind the other
"""

from __future__ import annotations

import base64
import lzma
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.store.places import data_ranges
from tests.store.state_files import PAGE_BYTES

LINE_CHARACTERS: Final = 120


def pack(place: Path) -> str:
    """The text for all files below `place`, whose names have no blanks."""
    index: list[str] = []
    data = bytearray()
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        ranges: list[tuple[int, int]] = []
        for offset, piece in _pages(path):
            if ranges and sum(ranges[-1]) == offset:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + len(piece))
            else:
                ranges.append((offset, len(piece)))
            data += piece
        where = "".join(f" {offset}+{length}" for offset, length in ranges)
        index.append(f"{path.relative_to(place)} {path.stat().st_size}{where}")
    encoded = base64.b64encode(lzma.compress(bytes(data), preset=9 | lzma.PRESET_EXTREME)).decode()
    return "\n".join([*index, "", *textwrap.wrap(encoded, LINE_CHARACTERS), ""])


def unpack(text: str, place: Path) -> None:
    """Make the files again below `place`; what was a hole, or only zeros, is a hole."""
    index, _, encoded = text.partition("\n\n")
    data, position = lzma.decompress(base64.b64decode(encoded)), 0
    for line in index.splitlines():
        name, size, *ranges = line.split(" ")
        path = place / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(int(size))
            for offset, length in (map(int, where.split("+")) for where in ranges):
                os.pwrite(file.fileno(), data[position : position + length], offset)
                position += length
    assert position == len(data), "the index names other ranges than the data has"


def _pages(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for start, end in data_ranges(file.fileno()):
            for offset in range(start, end, PAGE_BYTES):
                page = os.pread(file.fileno(), min(PAGE_BYTES, end - offset), offset)
                if any(page):
                    yield offset, page
