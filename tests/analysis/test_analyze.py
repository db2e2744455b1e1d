"""analysis: the figures equal a brute-force computation, holes are not counted, bad images are refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from blockstore.analysis import workbench
from blockstore.analysis.analyze import analyze
from blockstore.errors import CorruptBlock, InputError, OutOfRoom
from blockstore.store.codec import CODEC
from blockstore.store.state.geometry import BLOCK_BYTES, ZERO_BLOCK
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.store.accounting.test_census import assert_adds_up
from tests.store.material import half, near, noise, text
from tests.store.seeds import Seeds

MIXED = [
    *(ZERO_BLOCK, text(1), text(1), noise(1), near(text(1), 1), near(text(1), 2), ZERO_BLOCK, half(3)),
    *(noise(2)[:4030] + bytes(66), noise(3)[:3900] + bytes(196), near(half(3), 1)),
    *(near(text(seed % 5), seed, 9) for seed in range(200)),
]


def image(folder: Path, name: str, blocks: list[bytes]) -> str:
    path = folder / name
    path.write_bytes(b"".join(blocks))
    return str(path)


def brute_force(blocks: list[bytes]) -> dict[str, int]:
    def lz4_size(block: bytes) -> int:
        """As the kernel's LZ4 has it, whose table is for short inputs: python-lz4 makes 1 % more."""
        return len(CODEC.encode(block))

    def in_zram(block: bytes) -> int:
        return 0 if block == ZERO_BLOCK else min((lz4_size(block) + 63) // 64 * 64, BLOCK_BYTES)

    def plain(block: bytes) -> int:
        size = lz4_size(block)
        return 0 if block == ZERO_BLOCK else BLOCK_BYTES if size >= 3968 else size

    return {
        "blocks": len(blocks),
        "bytes": len(blocks) * BLOCK_BYTES,
        "ksm_bytes": len(set(blocks)) * BLOCK_BYTES,
        "zram_bytes": sum(map(in_zram, blocks)),
        "both_bytes": sum(map(in_zram, set(blocks))),
        "stored_no_patch": sum(map(plain, set(blocks))),
    }


@pytest.mark.parametrize("patching", [True, False])
def test_comparison_equals_brute_force(tmp_path: Path, patching: bool) -> None:
    second = [text(1), noise(1), text(9), near(text(9), 4), ZERO_BLOCK]
    paths = [image(tmp_path, "a", MIXED), image(tmp_path, "b", second)]
    report = analyze(paths, patching=patching, verify=True)
    total: dict[str, Any] = report["total"]
    expected = brute_force(MIXED + second)
    assert {key: total[key] for key in expected} == expected
    assert report["volumes"]["b"]["blocks"] == 5
    if patching:
        assert total["patched"] > 0 and total["stored"] < total["stored_no_patch"]
    else:
        assert total["patched"] == 0 and total["stored"] == total["stored_no_patch"]


def test_cold_is_smaller_and_changes_nothing_else(tmp_path: Path, seeds: Seeds) -> None:
    paths = [image(tmp_path, "a", MIXED), image(tmp_path, "b", [text(1), noise(1), near(text(9), 4, 60)])]
    warm = analyze(paths)
    seeds.drawn = 0
    cold = analyze(paths, cold=True, verify=True)
    stored_cold, steps = cold["total"].pop("stored_cold"), cold["total"].pop("steps")
    assert [step["step"] for step in steps] == ["lz4", "sharing", "patches", "zstd", "references", "hard"]
    assert steps[-1]["stored"] == stored_cold and steps[1]["stored"] == cold["total"]["stored_no_patch"]
    assert sum(step["saved_bytes"] for step in steps) == cold["total"]["nonzero"] - stored_cold
    for step in steps:
        assert step["points"] == pytest.approx(100 * step["saved_bytes"] / cold["total"]["nonzero"])
    nonzero = cold["total"]["nonzero"] // BLOCK_BYTES
    assert [step["blocks"] for step in steps[:3]] == [nonzero] * 3 and all(step["blocks"] for step in steps[:5])
    assert steps[0]["cpu_us"] > 0
    assert 0 < stored_cold < 0.9 * cold["total"]["stored"]
    assert cold.keys() == warm.keys() and cold["total"].keys() == warm["total"].keys()
    same = ("touched", "zero", "compressed", "raw", "ksm_bytes", "zram_bytes", "both_bytes", "stored_no_patch")
    assert {key: cold["total"][key] for key in same} == {key: warm["total"][key] for key in same}
    assert cold["total"]["dense"] == 0, "the report is that of what was written just now"


def test_an_image_without_zeros_shares_no_zero_page(tmp_path: Path) -> None:
    assert analyze([image(tmp_path, "a", [text(1)])])["total"]["ksm_bytes"] == BLOCK_BYTES


def test_columns_add_up(tmp_path: Path) -> None:
    report = analyze([image(tmp_path, "a", MIXED), image(tmp_path, "b", MIXED[3:50])])
    extra = [report["total"].pop(key) for key in ("ksm_bytes", "zram_bytes", "both_bytes", "stored_no_patch")]
    assert all(extra)
    for figures in (*report["volumes"].values(), report["total"]):
        footprint, touched = figures["footprint"], figures["touched"]
        assert figures["nonzero"] == touched - figures["zero"]
        assert figures["saved"] == 1 - footprint / figures["nonzero"]
        assert figures.pop("saved_with_zeros") == 1 - footprint / touched
    assert_adds_up(report)
    assert report["total"]["footprint"] == report["total"]["pool"] + report["total"]["tables"]


def test_holes_are_untouched_and_zeros_are_not(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(10 << 20)
        file.write(text(1) + ZERO_BLOCK)
        file.truncate(1 << 30)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system keeps no holes")
    total = analyze([str(path)], verify=True)["total"]
    assert total["logical"] == 1 << 30
    assert (total["touched_blocks"], total["zero_blocks"], total["compressed_blocks"]) == (2, 1, 1)


def test_a_file_that_is_only_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "hole"
    path.touch()
    os.truncate(path, 5 << 20)
    total = analyze([str(path)], verify=True)["total"]
    assert total["logical"] == 5 << 20 and total["touched"] == total["stored"] == 0 and total["saved"] == 0.0


def test_the_last_block_is_filled_up_with_zeros(tmp_path: Path) -> None:
    odd = image(tmp_path, "odd", [text(1), b"end"])
    even = image(tmp_path, "even", [text(1), b"end".ljust(BLOCK_BYTES, b"\0")])
    report = analyze([odd, even], verify=True)
    assert report["volumes"]["odd"]["logical"] == BLOCK_BYTES + 3
    assert report["total"]["shared_blocks"] == 4 and report["total"]["ksm_bytes"] == 2 * BLOCK_BYTES


def test_progress_ends_at_all_bytes(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    analyze([image(tmp_path, "a", MIXED * 4)], verify=True, progress=lambda *args: seen.append(args))
    stages = [stage for stage, _, _ in seen]
    assert list(dict.fromkeys(stages)) == ["reading", "verifying", "comparing"]
    assert all(0 < done <= in_all for _, done, in_all in seen)
    assert seen[-1][1] == seen[-1][2] == 4 * len(MIXED) * BLOCK_BYTES


def test_names_are_paths_where_base_names_are_the_same(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(image(tmp_path / folder, "vm.ram", [text(1)]))
    paths.append(image(tmp_path, "other.ram", [text(2)]))
    assert list(analyze(paths)["volumes"]) == [paths[0], paths[1], "other.ram"]


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/vm-\xff"
    Path(os.fsdecode(path)).write_bytes(text(1))
    assert list(analyze([os.fsdecode(path)])["volumes"]) == [os.fsdecode(b"vm-\xff")]


def test_bad_images_are_refused(tmp_path: Path) -> None:
    good = image(tmp_path, "good", [text(1)])
    empty, pipe, listener = tmp_path / "empty", tmp_path / "pipe", tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(listener))
    empty.touch()
    os.mkfifo(pipe)
    for bad, sentence in [
        (str(tmp_path / "missing"), "cannot be read: No such file"),
        (str(tmp_path), "is a directory"),
        (str(empty), "is empty"),
        (str(pipe), "not a regular file"),
        (str(listener), "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("-", "standard input cannot be analyzed"),
        (good, "is named 2 times"),
    ]:
        with pytest.raises(InputError, match=sentence):
            analyze([good, bad])


def test_an_image_that_changes_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path, "a", [noise(1)] * 600)

    def append(stage: str, done: int, in_all: int) -> None:
        with Path(path).open("ab") as file:
            file.write(b"more")

    def cut(stage: str, done: int, in_all: int) -> None:
        os.truncate(path, 4096)

    for change in (append, cut):
        with pytest.raises(InputError, match="changed while it was read"):
            analyze([path], progress=change)


def test_a_wrong_block_is_found_by_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path, "a", MIXED)
    original = Store.read

    def wrong(self: Store, volume: Volume, offset: int, length: int) -> bytes:
        return b"?" + original(self, volume, offset, length)[1:]

    monkeypatch.setattr(Store, "read", wrong)
    with pytest.raises(CorruptBlock, match="does not read back"):
        analyze([path], verify=True)


def test_out_of_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "_available_bytes", lambda: 0)
    path = image(tmp_path, "a", [noise(seed) for seed in range(3000)])
    with pytest.raises(OutOfRoom, match="do not fit into the memory that is left"):
        analyze([path])
