"""The invariants can fail: one field of a state is changed, or one figure that the store says, and it is reported."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockstore.store.state.home import DirectoryHome
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from tests.store.invariants import (
    Figures,
    check_pieces_of,
    check_state,
    contents_that_come_twice,
    figures_of,
    violations,
)
from tests.store.places import Directory, copy
from tests.store.records import LZ4_PATCH, RAW, SEGMENT_BYTES, ZSTD_PATCH, TierFile
from tests.store.sample import CLONE, DB, OTHER, WEB, fill
from tests.store.state_files import COLUMNS, FIRST_ROW, State, Volume, size_word

NUMBERS = {WEB: 1, DB: 2, CLONE: 3, OTHER: 4}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Figures]:
    """A state directory `state` with its tier beside it, and what the store said when it was closed."""
    place = tmp_path_factory.mktemp("sample")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 1 << 20)
        (place / "tier").mkdir()
        with closing(Store(DirectoryHome(place / "state"), 32 << 20)) as store:
            volumes = {name: store.create_volume(number, 1 + number // 4) for name, number in NUMBERS.items()}
            with closing(FileTier(str(place / "tier" / "file"), store.id)) as tier:
                fill(store, tier, volumes, store.create_volume(9, 1))
            return place, figures_of(store)


@pytest.fixture
def place(sample: tuple[Path, Figures], tmp_path: Path) -> Iterator[Path]:
    """A copy of the sample."""
    copy(sample[0] / "state", tmp_path / "state")
    copy(sample[0] / "tier", tmp_path / "tier")
    assert not found(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path)


def state_of(place: Path) -> State:
    return State(Directory(place / "state"), TierFile(place / "tier" / "file").read)


def found(place: Path, figures: Figures | None = None) -> list[str]:
    return list(violations(state_of(place), decode=True, figures=figures))


def change(place: Path, name: str, dtype: str, index: int, value: int, start: int = 0) -> None:
    """Let one word of a file be this."""
    words = np.array([value], dtype=dtype)
    with (place / "state" / name).open("r+b") as file:
        file.seek(start + index * words.itemsize)
        file.write(words.tobytes())


def test_the_sample_is_sound_and_has_everything(sample: tuple[Path, Figures]) -> None:
    place, figures = sample
    state = state_of(place)
    check_state(state, decode=True, figures=figures)
    assert not list(contents_that_come_twice(state))
    live = state.where != 0
    assert set(state.encoding[live].tolist()) == {1, 2, 3, 4, 7}, "every encoding"
    assert set(state.encoding[state.is_paged].tolist()) >= {RAW, 4, ZSTD_PATCH}
    assert state.count.max() > 2 and state.dependents.max() > 0
    assert len({volume.domain_key for volume in state.volumes}) == 2
    tier = TierFile(place / "tier" / "file")
    lengths = dict(enumerate(tier.lengths.tolist()))
    check_pieces_of(state, {piece: tier.read(piece, 0, length) for piece, length in lengths.items() if length})


FIELDS = {
    "a count": "rows-count",
    "the patches against a row": "rows-dependents",
    "the digest of a content": "rows-digest",
    "the domain of a row": "rows-domain",
}


@pytest.mark.parametrize("name", FIELDS.values(), ids=FIELDS.keys())
@pytest.mark.parametrize("bit", (0, 9, 15))
def test_a_word_of_a_row(place: Path, name: str, bit: int) -> None:
    state, dtype = state_of(place), COLUMNS[name.removeprefix("rows-")]
    for row in np.flatnonzero(state.where).tolist():
        word = int(getattr(state, name.removeprefix("rows-"))[row])
        change(place, name, dtype, row, word ^ 1 << bit)
        assert found(place), f"bit {bit} of {name} of row {row}"
        change(place, name, dtype, row, word)
    assert not found(place)


@pytest.mark.parametrize("bit", range(64))
def test_a_location_word(place: Path, bit: int) -> None:
    state = state_of(place)
    for row in np.flatnonzero(state.where)[::4].tolist():
        change(place, "rows-where", "<u8", row, int(state.where[row]) ^ 1 << bit)
        assert found(place), f"bit {bit} of row {row}"
        change(place, "rows-where", "<u8", row, int(state.where[row]))


def test_the_reference_of_a_patch(place: Path) -> None:
    state = state_of(place)
    patches = np.flatnonzero(np.isin(state.encoding, (LZ4_PATCH, ZSTD_PATCH))).tolist()
    assert len(patches) > 3
    for row in patches:
        for wrong in (int(state.reference[row]) + 1, row, 0, 1 << 31, state.rows_capacity):
            change(place, "rows-reference", "<u4", row, wrong)
            assert found(place), f"the reference of row {row} is {wrong}"
        change(place, "rows-reference", "<u4", row, int(state.reference[row]))


def test_a_free_row_that_is_filled_and_a_live_one_that_is_freed(place: Path) -> None:
    state = state_of(place)
    live, free = np.flatnonzero(state.where).tolist(), int(np.flatnonzero(state.where == 0)[-1])
    for row in live:
        change(place, "rows-where", "<u8", row, 0)
        assert any("free and needed" in sentence for sentence in found(place))
        change(place, "rows-where", "<u8", row, int(state.where[row]))
    change(place, "rows-where", "<u8", free, int(state.where[live[0]]))
    assert any("nothing points at them" in sentence for sentence in found(place))
    assert any("overlap" in sentence for sentence in found(place)), "and it has another row's record"


def test_a_record_across_segments_and_one_of_no_row(place: Path) -> None:
    state = state_of(place)
    row = int(np.flatnonzero(state.encoding == LZ4_PATCH)[0])
    low_bits = int(state.where[row]) & 0xFFFF
    change(place, "rows-where", "<u8", row, (SEGMENT_BYTES - 1) << 16 | low_bits)
    assert any("cross segments" in sentence for sentence in found(place))
    change(place, "rows-where", "<u8", row, int(state.where[row]))
    change(place, "rows-where", "<u8", FIRST_ROW - 1, int(state.where[row]))
    assert any("no row's" in sentence for sentence in found(place))


@pytest.mark.parametrize("bit", range(0, 64, 3))
def test_a_map_entry(place: Path, bit: int) -> None:
    for volume in state_of(place).volumes:
        for block, entry in zip(volume.blocks.tolist(), volume.entries.tolist(), strict=True):
            change(place, volume.name, "<u8", block, entry ^ 1 << bit, 4096)
            assert found(place), f"bit {bit} of block {block} of {volume.name}"
            change(place, volume.name, "<u8", block, entry, 4096)
    assert not found(place)


def test_an_entry_that_is_gone_beyond_the_size_or_a_copy_in_another_domain(place: Path) -> None:
    volumes = {volume.number: volume for volume in state_of(place).volumes}
    volume, other = volumes[NUMBERS[DB]], volumes[NUMBERS[OTHER]]
    change(place, volume.name, "<u8", int(volume.blocks[0]), 0, 4096)
    assert any("is counted" in sentence for sentence in found(place))
    change(place, volume.name, "<u8", int(volume.blocks[0]), int(volume.entries[0]), 4096)
    change(place, volume.name, "<u8", volume.size_bytes // 4096, int(volume.entries[0]), 4096)
    assert any("beyond its size" in sentence for sentence in found(place))
    change(place, volume.name, "<u8", volume.size_bytes // 4096, 0, 4096)
    change(place, other.name, "<u8", 100, int(volume.entries[0]), 4096)
    assert any("another domain" in sentence for sentence in found(place))


HEADER: dict[str, Callable[[Volume], int]] = {
    "magic": lambda volume: volume.magic,
    "number": lambda volume: volume.number,
    "domain": lambda volume: volume.domain_key,
    "size": lambda volume: volume.size_word,
    "digest": lambda volume: volume.digest,
}


@pytest.mark.parametrize("field", HEADER)
@pytest.mark.parametrize("bit", (0, 12, 40, 63))
def test_a_header(place: Path, field: str, bit: int) -> None:
    volume = state_of(place).volumes[0]
    index = {"magic": 0, "number": 1, "domain": 2, "size": 3, "digest": 5}[field]
    change(place, volume.name, "<u8", index, HEADER[field](volume) ^ 1 << bit)
    assert found(place)


def test_a_size_for_which_there_is_no_map(place: Path) -> None:
    change(place, "volume-1", "<u8", 3, size_word(1 << 40))
    assert any("does not cover" in sentence for sentence in found(place))


def test_a_file_of_the_whole_state(place: Path) -> None:
    """The superblock, a domain, a piece, a volume without its domain."""
    state = state_of(place)
    before = {path.name: path.read_bytes() for path in (place / "state").iterdir() if path.stat().st_size < 1 << 20}

    def is_found() -> bool:
        reported = bool(found(place))
        for name, data in before.items():
            (place / "state" / name).write_bytes(data)
        return reported

    for index, value in ((4, 3), (5, 8192), (6, 1 << 21), (7, 32), (0, 0)):
        change(place, "superblock", "<u4", index, value)
        assert is_found(), f"word {index} of the superblock"
    for domain in state.domains:
        for word in range(3):
            change(place, "domains", "<u8", 3 * domain.index + word, 12345)
            assert is_found(), f"word {word} of domain {domain.key}"
    piece = int(np.flatnonzero(state.pieces)[0])
    for value in (0, int(state.pieces[piece]) - 100_000, 1 << 21 | 1 << 20):
        change(place, "pieces", "<u8", piece, value)
        assert is_found() or value, "the piece is gone"
    change(place, "pieces", "<u8", piece + 1, int(state.pieces[piece]))
    assert is_found(), "a piece that no row needs"
    (place / "state" / "volume-4").unlink()
    assert found(place)


def test_a_byte_of_a_record(place: Path) -> None:
    """In the pool and in the tier: whatever it decodes to, it is not what the digest says."""
    state = state_of(place)
    for row in np.flatnonzero(state.where).tolist():
        paged = bool(state.is_paged[row])
        path = place / "tier" / "file" if paged else place / "state" / "pool"
        start = (64 << 20) + (int(state.piece[row]) << 20) if paged else 0
        at = start + int(state.offset[row]) + int(state.size[row]) // 2
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x55]))
            file.flush()
            assert any("is damaged" in sentence for sentence in found(place)), f"row {row}"
            file.seek(at)
            file.write(bytes([byte]))
    assert not found(place)


def test_memory_that_is_missing_or_was_not_given_back(place: Path) -> None:
    state = state_of(place)
    end = max(end for _, end in state.pool_data)
    with (place / "state" / "pool").open("r+b") as pool:
        for segment in (10, 11):
            pool.seek(segment << 20)
            pool.write(b"left")
    assert any("were not given back" in sentence for sentence in found(place))
    (place / "state" / "pool").unlink()
    with (place / "state" / "pool").open("wb") as pool:
        pool.truncate(end)
    assert any("has no memory" in sentence for sentence in found(place))


def test_a_content_that_comes_twice(place: Path) -> None:
    state = state_of(place)
    row = int(np.flatnonzero(state.encoding == RAW)[-1])
    free = int(np.flatnonzero(state.where == 0)[-1])
    for name, value in (("where", state.where[row]), ("domain", state.domain[row])):
        change(place, f"rows-{name}", COLUMNS[name], free, int(value))
    assert len(list(contents_that_come_twice(state_of(place)))) == 1


def test_what_the_store_says(sample: tuple[Path, Figures]) -> None:
    place, figures = sample
    more = np.zeros(len(figures.live_bytes), dtype=np.int64)
    more[np.flatnonzero(figures.live_bytes)[0]] = 1
    wrong: dict[str, Any] = {
        "live_rows": figures.live_rows + 1,
        "live_bytes": figures.live_bytes - more,
        "piece_live_bytes": figures.piece_live_bytes + 1,
        "allocated_segments": figures.allocated_segments + 2,
        "garbage_bytes": -1,
        "touched_blocks": {**figures.touched_blocks, 1: 0},
    }
    assert wrong.keys() == {field.name for field in dataclasses.fields(Figures)}
    for name, value in wrong.items():
        assert found(place, dataclasses.replace(figures, **{name: value})), name
