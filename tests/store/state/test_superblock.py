"""The superblock: what is not a state of this version is refused with a sentence, and left as it is."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from blockstore.errors import StateError
from blockstore.store.state import superblock
from blockstore.store.state.geometry import BLOCK_BYTES, FIRST_ROW, FORMAT_VERSION, ROW_BYTES, SEGMENT_BYTES
from blockstore.store.state.home import DirectoryHome
from blockstore.store.store import Store
from tests.store.material import contents, noise, put

LIMIT_BYTES = 16 << 20


def snapshot(path: Path) -> dict[str, bytes]:
    """All files but the lock, which has to be taken before anything can be looked at."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}


def assert_refused(path: Path, about: str) -> None:
    before = snapshot(path)
    home = DirectoryHome(path)
    with pytest.raises(StateError) as raised:
        Store(home, LIMIT_BYTES)
    home.close()
    message = str(raised.value)
    assert str(path) in message and re.search(about, message)
    assert "\n" not in message and message[-1] not in ".!"
    assert raised.value.exit_code == 4
    assert snapshot(path) == before


@pytest.fixture
def state(state_path: Path) -> Path:
    """A state with one volume in it."""
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    put(store, store.create_volume(1, 1), 0, noise(1))
    store.close()
    return state_path


def test_layout() -> None:
    assert superblock.LAYOUT.size == 48
    assert [superblock.LAYOUT.format, struct.calcsize("<16s")] == ["<16sIIII16s", 16]


def test_what_is_written(state: Path) -> None:
    magic, version, block_bytes, segment_bytes, row_bytes, identity = superblock.LAYOUT.unpack(
        (state / "superblock").read_bytes()[: superblock.LAYOUT.size]
    )
    assert magic == b"blockstore state" and any(identity)
    assert (version, block_bytes, segment_bytes, row_bytes) == (
        FORMAT_VERSION,
        BLOCK_BYTES,
        SEGMENT_BYTES,
        ROW_BYTES,
    )


def test_an_existing_state_is_taken_up(state: Path) -> None:
    before = (state / "superblock").read_bytes()
    store = Store(DirectoryHome(state), LIMIT_BYTES)
    assert contents(store, store.volumes[1]) == noise(1)
    store.close()
    assert (state / "superblock").read_bytes() == before


def test_a_foreign_directory(state_path: Path) -> None:
    state_path.mkdir()
    (state_path / "thesis.tex").write_text("years of work")
    assert_refused(state_path, "thesis.tex")


@pytest.mark.parametrize("offset", (16, 20, 24, 28))
def test_another_version_or_geometry(state: Path, offset: int) -> None:
    data = bytearray((state / "superblock").read_bytes())
    data[offset] ^= 2
    (state / "superblock").write_bytes(data)
    assert_refused(state, f"format version {FORMAT_VERSION ^ 2}" if offset == 16 else "geometry")


@pytest.mark.parametrize("damage", ("magic", "cut", "zeros"))
def test_a_damaged_superblock(state: Path, damage: str) -> None:
    data = (state / "superblock").read_bytes()
    (state / "superblock").write_bytes({"magic": b"x" + data[1:], "cut": data[:40], "zeros": bytes(len(data))}[damage])
    assert_refused(state, "damaged")


def test_a_file_that_is_no_volume(state: Path) -> None:
    (state / "volume-7").write_bytes(b"x" * 8192)
    home = DirectoryHome(state)
    with pytest.raises(StateError, match=re.escape(str(state)) + ".*volume-7"):
        Store(home, LIMIT_BYTES)
    home.close()


@pytest.mark.parametrize("block_id", (5, 0xFFFF_FFFF))
def test_a_map_that_points_nowhere(state: Path, block_id: int) -> None:
    with (state / "volume-1").open("r+b") as file:
        file.seek(4096)
        file.write(struct.pack("<I", block_id))
    home = DirectoryHome(state)
    with pytest.raises(StateError, match=re.escape(str(state))):
        Store(home, LIMIT_BYTES)
    home.close()


@pytest.mark.parametrize("reference", (4, 1_000_000))
def test_a_patch_whose_reference_is_lost(state: Path, reference: int) -> None:
    """Row 3, which the volume maps, becomes a patch against a row that is free, or that does not exist."""
    with (state / "rows-where").open("r+b") as file:
        file.seek(FIRST_ROW * 8)
        (word,) = struct.unpack("<Q", file.read(8))
        file.seek(FIRST_ROW * 8)
        file.write(struct.pack("<Q", word & ~7 | 3))
    with (state / "rows-reference").open("r+b") as file:
        file.seek(FIRST_ROW * 4)
        file.write(struct.pack("<I", reference))
    home = DirectoryHome(state)
    with pytest.raises(StateError, match=re.escape(str(state))):
        Store(home, LIMIT_BYTES)
    home.close()
