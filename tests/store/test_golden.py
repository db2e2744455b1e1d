"""States that earlier code left behind: today's format is opened and used, others are refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.namespace.names_copy import copied_names
from blockstore.daemon.state.verification import verify_state
from blockstore.errors import StateError
from blockstore.store.state.geometry import BLOCK_BYTES, DICTIONARY_VERSION, FORMAT_VERSION
from blockstore.store.state.home import DirectoryHome
from blockstore.store.state.superblock import check_version
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from tests.store import state_files
from tests.store.golden.archive import pack, unpack
from tests.store.invariants import check_state, check_store
from tests.store.material import contents, fetch_from, near, noise, put
from tests.store.places import Directory
from tests.store.records import LZ4, LZ4_PATCH, RAW, ZSTD, ZSTD_PATCH, TierFile
from tests.store.sample import page
from tests.store.state_files import State

GOLDEN = Path(__file__).parent / "golden"
FORMATS = sorted(int(path.stem.removeprefix("state-")) for path in GOLDEN.glob("state-*.txt"))
LIMIT_BYTES = 32 << 20
LARGEST_TEXT_BYTES = 200 << 10


def kept(version: int, place: Path) -> dict[str, Any]:
    """Unpack the state of this format; what is in it."""
    unpack((GOLDEN / f"state-{version}.txt").read_text(), place)
    told: dict[str, Any] = json.loads((GOLDEN / f"state-{version}.json").read_text())
    return told


@pytest.fixture
def golden(state_path: Path) -> dict[str, Any]:
    """What is in the state of today's format, which is unpacked at `state_path`, its tier beside it."""
    assert FORMAT_VERSION in FORMATS, (
        f"the format is {FORMAT_VERSION} now, and there is no golden state of it; "
        "do what tests/store/golden/README.md says"
    )
    return kept(FORMAT_VERSION, state_path.parent)


@pytest.fixture
def tier(golden: dict[str, Any], state_path: Path) -> Iterator[FileTier]:
    path = state_path.parent / "tier" / "file"
    with closing(FileTier(str(path), TierFile(path).store_id)) as tier:
        yield tier


def verified(state: Path) -> dict[str, Any]:
    """As `blockstore verify --state` does it."""
    url = f"file:{state.parent / 'tier' / 'file'}"
    (state / "spill").write_bytes(os.fsencode(url).ljust(4096))
    return verify_state(state, repair=False, progress=lambda done, total: None)


def test_the_format_is_the_recorded_one(golden: dict[str, Any], state_path: Path) -> None:
    """Fails when the format changes: tests/store/golden/README.md says what is to be done then."""
    superblock = State(Directory(state_path)).superblock
    assert superblock is not None
    assert superblock.version == golden["format"] == FORMAT_VERSION == state_files.FORMAT_VERSION
    check_version(state_path)


def test_it_is_small_text_and_sparse(golden: dict[str, Any], state_path: Path) -> None:
    text = GOLDEN / f"state-{FORMAT_VERSION}.txt"
    assert text.stat().st_size < LARGEST_TEXT_BYTES and text.read_text().isascii()
    files = [path for path in state_path.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 100 << 20
    assert sum(path.stat().st_blocks for path in files) * 512 < 4 << 20, "holes stay holes"
    again = state_path.parent / "again"
    unpack(pack(state_path), again)
    for path in state_path.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_its_files_say_what_was_recorded(golden: dict[str, Any], state_path: Path) -> None:
    """By the reader of the tests alone."""
    state = State(Directory(state_path), TierFile(state_path.parent / "tier" / "file").read)
    check_state(state, decode=True)
    live = state.where != 0
    assert set(state.encoding[live].tolist()) == {RAW, LZ4, LZ4_PATCH, ZSTD, ZSTD_PATCH}
    assert state.is_paged.any() and state.count.max() > 2
    for file in golden["files"]:
        found, volume = state.contents(file["number"]), state.volume(file["number"])
        assert (len(found), hashlib.sha256(found).hexdigest()) == (file["size_bytes"], file["sha256"]), file["path"]
        assert (volume.domain_key, len(volume.blocks)) == (file["domain"], file["touched_blocks"])


def test_it_has_the_recorded_names(golden: dict[str, Any], state_path: Path) -> None:
    with copied_names(state_path) as names:
        assert names.files() == {file["number"]: file["path"] for file in golden["files"]}
        assert {names.get(file["number"]).domain for file in golden["files"]} == {2, 3}
        assert not names.damage()


def test_verify_finds_nothing(golden: dict[str, Any], state_path: Path) -> None:
    result = verified(state_path)
    assert not result["found"] and result["volumes"] == len(golden["files"]) and result["rows"] > 10


def test_it_is_opened_read_and_written(golden: dict[str, Any], state_path: Path, tier: FileTier) -> None:
    expected = {file["number"]: file["sha256"] for file in golden["files"]}
    with closing(Store(DirectoryHome(state_path), LIMIT_BYTES)) as store:
        assert store.volumes.keys() == expected.keys()
        check_store(store, decode=True)
        found = {number: contents(store, volume, tier) for number, volume in store.volumes.items()}
        assert {number: hashlib.sha256(data).hexdigest() for number, data in found.items()} == expected
        for number, volume in store.volumes.items():
            new = page(0) + near(page(4), 9) + noise(number) + bytes(BLOCK_BYTES) + b"and less than a block"
            put(store, volume, 3 * BLOCK_BYTES, new, tier)
            found[number] = found[number][: 3 * BLOCK_BYTES] + new + found[number][3 * BLOCK_BYTES + len(new) :]
        last = max(found)
        first = store.volumes[min(found)]
        clone = store.create_volume(last + 1, first.domain.key)
        run(store.clone_steps(first, 0, clone, 0, first.size_bytes), fetch_from(store, tier))
        found[clone.number] = found[first.number]
        run(store.delete_steps(store.volumes[last]))
        del found[last]
        check_store(store, decode=True)
        assert {number: contents(store, volume, tier) for number, volume in store.volumes.items()} == found
    with closing(Store(DirectoryHome(state_path), LIMIT_BYTES)) as store:
        assert {number: contents(store, volume, tier) for number, volume in store.volumes.items()} == found
        check_store(store, decode=True)
    tier.close()
    findings = verified(state_path)["findings"]
    assert {finding["kind"] for finding in findings} <= {"name", "orphan"}, "a file of each is one that has no name"


def test_another_format_is_refused(golden: dict[str, Any], state_path: Path) -> None:
    """And what refuses it leaves it as it is."""
    for version in (FORMAT_VERSION - 1, DICTIONARY_VERSION + 1):
        with (state_path / "superblock").open("r+b") as file:
            file.seek(16)
            file.write(version.to_bytes(4, "little"))
        check_refused(state_path, version)


def test_golden_states_of_other_formats_are_refused(state_path: Path) -> None:
    for version in FORMATS:
        if version != FORMAT_VERSION:
            place = state_path.parent / str(version)
            kept(version, place)
            check_refused(place / "state", version)


def check_refused(state: Path, version: int) -> None:
    before = {path.name: path.read_bytes() for path in state.iterdir() if path.name != "lock"}
    sentence = (
        f"the state in {state} has format version {version}, not {FORMAT_VERSION} or {DICTIONARY_VERSION}; "
        "use the blockstore that wrote it, or mount with an empty state directory"
    )
    with pytest.raises(StateError, match=f"^{re.escape(sentence)}$"):
        check_version(state)
    home = DirectoryHome(state)
    with closing(home), pytest.raises(StateError, match=f"^{re.escape(sentence)}$"):
        Store(home, LIMIT_BYTES)
    assert before == {path.name: path.read_bytes() for path in state.iterdir() if path.name != "lock"}
