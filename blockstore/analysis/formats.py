"""Files of memory that are no plain image of it: known by their first bytes, and refused before they are measured.

The blocks of a file that is compressed are neither alike nor compressible, and those of a dump with its own tables lie
at odd offsets: what the store would save on either says nothing about the VM. The magic numbers are those of the file
formats' own documents: RFC 1952 (gzip), RFC 8878 (zstd), docs/interop/qcow2.txt of QEMU, the README of makedumpfile
(kdump), src/qemu/qemu_saveimage.h of libvirt.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAGIC_BYTES: Final = 16
"""The longest of the magic numbers."""

_PMEMSAVE: Final = "save the VM's memory with QEMU's pmemsave and name that file"


class Format(NamedTuple):
    """What begins with `magic` is `name`, and is not measured; `remedy` says what to do."""

    magic: bytes
    name: str
    remedy: str


_UNPACK: Final = "unpack it and name the image in it"

_FORMATS: Final = (
    Format(b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    Format(b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    Format(b"\xfd7zXZ\0", "compressed (xz)", _UNPACK),
    Format(b"BZh", "compressed (bzip2)", _UNPACK),
    Format(b"\x04\x22\x4d\x18", "compressed (lz4)", _UNPACK),
    Format(b"\x02\x21\x4c\x18", "compressed (lz4, legacy frame)", _UNPACK),
    Format(b"\x89LZO\0", "compressed (lzop)", _UNPACK),
    Format(b"PK\x03\x04", "an archive (zip)", _UNPACK),
    Format(b"KDUMP   ", "a compressed dump (kdump)", "make it anew with `virsh dump --memory-only` without --format"),
    Format(b"DISKDUMP", "a compressed dump (diskdump)", _PMEMSAVE),
    Format(b"makedumpfile\0", "a flattened dump (makedumpfile -F)", _PMEMSAVE),
    Format(b"LibvirtQemudSave", "a domain that libvirt saved (`virsh save`)", _PMEMSAVE),
    Format(b"LibvirtQemudPart", "a domain that libvirt saved in part", _PMEMSAVE),
    Format(b"QEVM", "a migration of QEMU", _PMEMSAVE),
    Format(b"QFI\xfb", "a disk (qcow2)", _PMEMSAVE),
    Format(b"KDMV", "a disk (VMDK)", _PMEMSAVE),
    Format(b"vhdxfile", "a disk (VHDX)", _PMEMSAVE),
    Format(b"conectix", "a disk (VHD)", _PMEMSAVE),
)


def refusal(head: bytes) -> str | None:
    """Returns what a file is that begins so, and what to do, for the end of a sentence about it; None for what may be a
    plain image, or an ELF core (elf_core.py)."""
    for each in _FORMATS:
        if head.startswith(each.magic):
            return f"is {each.name}, not an image of memory; {each.remedy}"
    return None
