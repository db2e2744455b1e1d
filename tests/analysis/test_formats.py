"""Files that are no images of memory: refused with what they are, before anything is measured."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from blockstore.analysis import formats
from blockstore.analysis.analyze import analyze
from blockstore.errors import InputError
from tests.daemon.lab import run
from tests.store.material import noise, text

MEMORY = b"".join(text(number) for number in range(20))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        analyze([str(path)])
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} is ") and all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("gzip", gzip.compress(MEMORY)),
        ("zstd", zstandard.ZstdCompressor().compress(MEMORY)),
        ("xz", lzma.compress(MEMORY)),
        ("bzip2", bz2.compress(MEMORY)),
        ("lz4", lz4.frame.compress(MEMORY)),
    ],
)
def test_what_is_compressed_is_refused(tmp_path: Path, name: str, packed: bytes) -> None:
    path = tmp_path / "vm.ram"
    path.write_bytes(packed)
    refused(path, f"compressed ({name})", "unpack it")


def test_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vm.zip", "w") as archive:
        archive.writestr("vm.ram", MEMORY)
    refused(tmp_path / "vm.zip", "an archive (zip)")


def test_a_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    made = run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"])
    assert made.returncode == 0, made
    refused(path, "a disk (qcow2)", "pmemsave")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"KDUMP   \x06\0\0\0", "a compressed dump (kdump)"),
        (b"DISKDUMP", "a compressed dump (diskdump)"),
        (b"makedumpfile\0\0\0\0", "a flattened dump"),
        (b"LibvirtQemudSave\x02\0\0\0", "`virsh save`"),
        (b"LibvirtQemudPart", "saved in part"),
        (b"\x02\x21\x4c\x18", "compressed (lz4, legacy frame)"),
        (b"\x89LZO\0\r\n\x1a\n", "compressed (lzop)"),
        (b"QEVM\0\0\0\x03", "a migration of QEMU"),
    ],
)
def test_dumps_with_tables_of_their_own_are_refused(tmp_path: Path, head: bytes, words: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(head + MEMORY)
    refused(path, words)


@pytest.mark.parametrize("head", [bytes(16), b"\x53\xff\x00\xf0" * 4, noise(1)[:16], b"", b"\x1f", text(1)[:16]])
def test_plain_images_are_none_of_them(head: bytes) -> None:
    assert formats.refusal(head) is None


def test_no_magic_number_is_longer_than_what_is_read() -> None:
    assert max(len(each.magic) for each in formats._FORMATS) <= formats.MAGIC_BYTES
