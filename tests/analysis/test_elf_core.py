"""ELF cores: their memory is found wherever it lies in the file, and a damaged one is a sentence."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.analysis import elf_core
from blockstore.analysis.analyze import analyze
from blockstore.errors import InputError
from blockstore.store.state.geometry import BLOCK_BYTES
from tests.store.material import near, noise, text

CORE, PROGRAM = 4, 2
LOAD, NOTE = 1, 4


def core(
    ranges: Sequence[tuple[bytes, int]],
    *,
    kind: int = CORE,
    order: str = "<",
    is_64: bool = True,
    section_flags: int | None = None,
    counts_in_section: bool = False,
) -> bytes:
    """A core of these ranges of memory, each with its bytes in the file and zeros behind them; the bytes lie at odd
    offsets, as those behind the notes of QEMU's dumps do."""
    header_bytes, program_bytes, section_bytes = (64, 56, 64) if is_64 else (52, 32, 40)
    programs = [(NOTE, b"note!", 0), *((LOAD, data, zeros) for data, zeros in ranges)]
    has_section = section_flags is not None or counts_in_section
    sections_at = header_bytes + program_bytes * len(programs) if has_section else 0
    body_at = header_bytes + program_bytes * len(programs) + (section_bytes if has_section else 0)
    table, body = b"", b""
    for number, (entry, data, zeros) in enumerate(programs):
        offset, address, size = body_at + len(body), number << 20, len(data)
        if is_64:
            table += struct.pack(order + "IIQQQQQQ", entry, 0, offset, address, address, size, size + zeros, 0)
        else:
            table += struct.pack(order + "IIIIIIII", entry, offset, address, address, size, size + zeros, 0, 0)
        body += data
    count = 0xFFFF if counts_in_section else len(programs)
    fields = (kind, 62, 1, 0, header_bytes, sections_at, 0, header_bytes, program_bytes, count, section_bytes)
    shape = "HHIQQQIHHHHHH" if is_64 else "HHIIIIIHHHHHH"
    head = b"\x7fELF" + bytes([2 if is_64 else 1, 1 if order == "<" else 2, 1]).ljust(12, b"\0")
    head += struct.pack(order + shape, *fields, int(has_section), 0)
    section = b""
    if has_section:
        shape = "IIQQQQIIQQ" if is_64 else "IIIIIIIIII"
        section = struct.pack(order + shape, 0, 0, section_flags or 0, 0, 0, 0, 0, len(programs), 0, 0)
    return head + table + section + body


RANGES = [
    (b"".join([text(1), noise(1), near(text(1), 1)]), 0),
    (b"".join([text(1), noise(2)]), 5 * BLOCK_BYTES),
    (b"", BLOCK_BYTES),
    (noise(1), 0),
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_64", [True, False])
@pytest.mark.parametrize("counts_in_section", [True, False])
def test_the_memory_of_a_core_is_measured(tmp_path: Path, order: str, is_64: bool, counts_in_section: bool) -> None:
    path = tmp_path / "core"
    path.write_bytes(core(RANGES, order=order, is_64=is_64, counts_in_section=counts_in_section))
    plain = tmp_path / "plain"
    plain.write_bytes(b"".join(data for data, _ in RANGES))
    of_core, of_plain = (analyze([str(each)], verify=True)["total"] for each in (path, plain))
    assert of_core["touched_blocks"] == of_plain["touched_blocks"] == 6
    assert of_core["shared_blocks"] == of_plain["shared_blocks"] > 0 and of_core["stored"] == of_plain["stored"]
    assert of_core["logical"] == 12 * BLOCK_BYTES, "what was left out is memory that was never touched"


def test_a_range_that_is_no_whole_block_is_filled_up(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(core([(text(1) + b"end", 0), (text(1), 0)]))
    total = analyze([str(path)], verify=True)["total"]
    assert total["touched_blocks"] == 3 and total["shared_blocks"] == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (core(RANGES, kind=PROGRAM), "a program or a library"),
        (core(RANGES, section_flags=0x800), "sections are compressed"),
        (core([]), "without memory in it"),
        (core(RANGES)[:-1], "cut off"),
        (core(RANGES)[:100], "cut off"),
        (core(RANGES)[:40], "header is damaged"),
        (b"\x7fELF", "header is damaged"),
        (b"\x7fELF\x02\x07" + bytes(60), "header is damaged"),
    ],
)
def test_another_elf_file_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "core"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        analyze([str(path)])


@given(st.data())
def test_a_damaged_core_is_refused_or_read_within_the_file(data: st.DataObject) -> None:
    damaged = bytearray(
        core(RANGES, is_64=data.draw(st.booleans()), section_flags=data.draw(st.sampled_from([None, 0])))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(4, 400))] = data.draw(st.integers(0, 255))

    def read(length: int, offset: int) -> bytes:
        assert offset == 0 or offset + length <= len(damaged)
        return bytes(damaged[offset : offset + length])

    try:
        found = elf_core.segments(read, len(damaged))
    except elf_core.NotACore as error:
        assert str(error).startswith("is ")
        return
    assert found and all(each.offset + each.file_bytes <= len(damaged) for each in found)
    assert all(0 <= each.file_bytes <= each.memory_bytes for each in found)
