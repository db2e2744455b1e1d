"""ELF cores: where the memory of a VM lies in a file of `virsh dump --memory-only` or QEMU's `dump-guest-memory`.

Each program header of type PT_LOAD is a range of memory, and says where in the file its bytes lie, at any offset; what
is longer in memory than in the file is zeros that were left out (elf(5)).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

MAGIC: Final = b"\x7fELF"
HEADER_BYTES: Final = 64

MAXIMUM_SEGMENTS: Final = 100_000
"""A process has at most 65530 mappings by default (vm.max_map_count), a VM some tens of ranges."""

_CLASS_AT, _DATA_AT = 4, 5
_ET_CORE: Final = 4
_PT_LOAD: Final = 1
_PN_XNUM: Final = 0xFFFF
_SHF_COMPRESSED: Final = 0x800

Read = Callable[[int, int], bytes]
"""read(length, offset), of bytes that the file has; the header may be cut off."""


class Segment(NamedTuple):
    """Bytes of memory in the file; in memory there are `memory_bytes`, the rest of them zeros."""

    offset: int
    file_bytes: int
    memory_bytes: int


class NotACore(Exception):
    """Its text says what the file is, for the end of a sentence."""


class _Layout(NamedTuple):
    """Of one class: the fields of the header behind e_version, of a program header, and of a section header."""

    header: struct.Struct
    program: struct.Struct
    section: struct.Struct
    is_64: bool


class _Section(NamedTuple):
    flags: int
    info: int


def segments(read: Read, size_bytes: int) -> list[Segment]:
    """Returns the memory in a file of so many bytes that begins with MAGIC. Raises NotACore for another ELF file, one
    that is cut off, and one with sections that are compressed."""
    head = read(HEADER_BYTES, 0)
    try:
        layout = _layout(head)
        kind, programs_at, sections_at, program_bytes, programs, section_bytes, sections = _header(layout, head)
    except (KeyError, IndexError, struct.error):
        raise NotACore("is an ELF file whose header is damaged") from None
    if kind != _ET_CORE:
        raise NotACore("is a program or a library (ELF), not memory")
    starts = [sections_at + number * section_bytes for number in range(max(sections, 1))]
    found = [_section(layout, read, start) for start in starts if start + layout.section.size <= size_bytes]
    if programs == _PN_XNUM and found:  # there are more: their number stands in the first section (elf(5))
        programs = found[0].info
    if any(section.flags & _SHF_COMPRESSED for section in found[:sections]):
        raise NotACore("is an ELF core whose sections are compressed; write it without compression")
    if not 0 < programs <= MAXIMUM_SEGMENTS or program_bytes != layout.program.size:
        raise NotACore("is an ELF core without memory in it, or its header is damaged")
    if programs_at + programs * program_bytes > size_bytes:
        raise NotACore("is an ELF core that is cut off")
    return _memory(layout, read(programs * program_bytes, programs_at), size_bytes)


def _memory(layout: _Layout, table: bytes, size_bytes: int) -> list[Segment]:
    """Returns the ranges of memory of a table of program headers. Raises NotACore for none, and for one that the file
    has not got."""
    found = [_segment(layout, table, at) for at in range(0, len(table), layout.program.size)]
    memory = [segment for segment in found if segment is not None and segment.memory_bytes]
    if any(each.offset + each.file_bytes > size_bytes for each in memory):
        raise NotACore("is an ELF core that is cut off")
    if not memory:
        raise NotACore("is an ELF core without memory in it")
    return memory


def _layout(head: bytes) -> _Layout:
    """Returns that of the class and byte order of a header. Raises KeyError, IndexError."""
    order, is_64 = {1: "<", 2: ">"}[head[_DATA_AT]], {1: False, 2: True}[head[_CLASS_AT]]
    formats = ("HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ") if is_64 else ("HHIIIIIHHHHHH", "IIIIIIII", "IIIIIIIIII")
    header, program, section = (struct.Struct(order + each) for each in formats)
    return _Layout(header, program, section, is_64)


def _header(layout: _Layout, head: bytes) -> tuple[int, int, int, int, int, int, int]:
    """Returns e_type, e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum."""
    fields = layout.header.unpack_from(head, 16)
    kind, _, _, _, programs_at, sections_at, _, _, program_bytes, programs, section_bytes, sections, _ = fields
    return kind, programs_at, sections_at, program_bytes, programs, section_bytes, sections


def _section(layout: _Layout, read: Read, offset: int) -> _Section:
    _, _, flags, _, _, _, _, info, _, _ = layout.section.unpack(read(layout.section.size, offset))
    return _Section(flags, info)


def _segment(layout: _Layout, table: bytes, at: int) -> Segment | None:
    """Returns the range of memory of a program header; None for another type."""
    if layout.is_64:
        kind, _, offset, _, _, file_bytes, memory_bytes, _ = layout.program.unpack_from(table, at)
    else:
        kind, offset, _, _, file_bytes, memory_bytes, _, _ = layout.program.unpack_from(table, at)
    return Segment(offset, file_bytes, max(file_bytes, memory_bytes)) if kind == _PT_LOAD else None
