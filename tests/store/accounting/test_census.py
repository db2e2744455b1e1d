"""The census and the report: every column adds up, whoever shares what with whom, and whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.census import count_blocks
from blockstore.plane.tables.tables import Tables
from blockstore.store.accounting import census
from blockstore.store.accounting.census import Census
from blockstore.store.accounting.classes import CLASSES
from blockstore.store.accounting.report import Report, complete, describe
from blockstore.store.state.geometry import BLOCK_BYTES, ENCODING_MASK, ID_MASK, PATCHED, ZERO_BLOCK
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import size_of
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.store.material import densify, near, noise, put, text


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(MemoryHome(), 64 << 20)
    yield store
    store.close()


def _filled(store: Store) -> tuple[Volume, Volume]:
    """Two volumes with some of everything: zeros, shared inside and across, patches, compressed, raw, holes."""
    first, second = store.create_volume(1, 7), store.create_volume(2, 7)
    put(store, first, 0, ZERO_BLOCK * 3 + text(1) + noise(1) + noise(1))
    put(store, first, 100 * BLOCK_BYTES, near(text(1), 1) + text(2) + b"tail")
    put(store, second, 5000, near(text(2), 2))  # at odd offsets too
    put(store, second, 40 * BLOCK_BYTES, text(2) + noise(2) + ZERO_BLOCK + text(3) * 4)
    return first, second


def assert_adds_up(report: Report) -> None:
    """Each line from left to right, and each column from top to bottom."""
    volumes, total = list(report["volumes"].values()), report["total"]
    for figures in (*volumes, total):
        assert figures["touched"] == sum(figures[name] for name in CLASSES)
        for name in ("touched", *CLASSES):
            assert figures[name] == figures[f"{name}_blocks"] * BLOCK_BYTES
        assert figures["stored"] == sum(value for key, value in figures.items() if key.startswith("stored_"))
        host = [figures.get(key, 0) for key in ("pool", "tables", "daemon_memory", "resident")]
        assert figures["footprint"] == sum(host)
        assert all(type(value) is int for key, value in figures.items() if key != "saved")
    for key in total:
        if volumes and key != "saved":
            assert total[key] == sum(figures[key] for figures in volumes), key


def test_each_block_is_in_its_class(store: Store) -> None:
    first, second = _filled(store)
    counted = census.take(store)
    assert counted.volumes[1].blocks["zero"] == 3
    assert counted.volumes[1].blocks["shared"] == 3  # noise(1) twice; text(2) with the other volume
    assert counted.volumes[1].touched_blocks == first.touched_blocks == 9
    assert counted.volumes[2].blocks["shared"] == 5  # text(2), and text(3) four times
    assert counted.volumes[2].blocks["raw"] == 1
    assert counted.volumes[2].touched_blocks == second.touched_blocks
    assert counted.total.blocks["patched"] >= 1
    assert counted.volumes[1].logical_bytes == 102 * BLOCK_BYTES + 4


def test_stored_is_the_sum_of_all_live_records(store: Store) -> None:
    _filled(store)
    expected = sum(size_of(where) for where in store.rows.where.items)
    assert census.take(store).total.stored_bytes == expected == store.pool.live_bytes


def test_who_shares_a_record_pays_its_part(store: Store) -> None:
    for number in (1, 2):
        put(store, store.create_volume(number, 7), 0, noise(number) + noise(9))
    counted = census.take(store)
    assert counted.total.record_bytes["shared"] == BLOCK_BYTES
    for volume in counted.volumes.values():
        assert volume.record_bytes["shared"] == BLOCK_BYTES // 2
        assert volume.record_bytes["raw"] == BLOCK_BYTES


def test_a_row_that_only_patches_need_is_a_reference(store: Store) -> None:
    volume = store.create_volume(1, 7)
    put(store, volume, 0, text(5))
    put(store, volume, BLOCK_BYTES, near(text(5), 1))
    assert store.rows.where.items[volume.lookup(1) & ID_MASK] & ENCODING_MASK == PATCHED
    run(store.discard_steps(volume, 0, BLOCK_BYTES))
    counted = census.take(store)
    assert counted.total.blocks["patched"] == counted.total.touched_blocks == 1
    assert counted.total.record_bytes["references"] > counted.total.record_bytes["patched"] > 0
    assert_adds_up(describe(counted, {1: "vm"}))


def test_what_was_encoded_anew_is_dense(store: Store) -> None:
    _filled(store)
    before = census.take(store).total
    densify(store)
    counted = census.take(store)
    total = counted.total
    assert total.blocks["dense"] > 0 and total.record_bytes["dense"] > 0
    assert total.touched_blocks == before.touched_blocks and total.stored_bytes < before.stored_bytes
    for kind in ("zero", "shared"):
        assert total.blocks[kind] == before.blocks[kind]
    assert total.blocks["dense"] + total.blocks["patched"] + total.blocks["compressed"] + total.blocks["raw"] == (
        before.blocks["patched"] + before.blocks["compressed"] + before.blocks["raw"]
    )
    assert_adds_up(describe(counted, {1: "one", 2: "two"}))


def test_report_adds_up(store: Store) -> None:
    _filled(store)
    report = describe(census.take(store), {1: "one"})
    assert set(report["volumes"]) == {"one", "2"}
    assert_adds_up(report)
    assert_adds_up(complete(report, {"one": 12345, "gone": 7}, 1_000_001))


def test_report_of_a_mount_counts_everything_once(store: Store) -> None:
    _filled(store)
    report = describe(census.take(store), {1: "one", 2: "two"})
    twice = complete(complete(report, {"one": 5}, 99), {"one": 4096}, 1000)
    assert_adds_up(twice)
    total = twice["total"]
    assert total["footprint"] == store.pool.allocated_bytes + store.table_bytes + 4096 + 1000
    assert total["saved"] == 1 - total["footprint"] / total["touched"] < 0
    assert "resident" not in report["total"]


def test_empty_store(store: Store) -> None:
    report = complete(describe(census.take(store), {}), {}, 1000)
    assert report["volumes"] == {} and report["total"]["saved"] == 0.0
    assert report["total"]["footprint"] == store.table_bytes + 1000
    store.create_volume(1, 7)
    assert_adds_up(complete(describe(census.take(store), {}), {}, 1000))


@pytest.mark.parametrize("event", ["overwrite", "discard", "delete", "create", "grow"])
@pytest.mark.parametrize("at_step", range(8))
def test_columns_add_up_when_the_store_changes_meanwhile(store: Store, event: str, at_step: int) -> None:
    first, second = _filled(store)
    counted = Census()
    for number, _ in enumerate(census.steps(store, counted)):
        if number == at_step:
            _change(store, event, first, second)
    assert_adds_up(describe(counted, {}))
    assert set(counted.volumes) >= {2}


def _change(store: Store, event: str, first: Volume, second: Volume) -> None:
    if event == "overwrite":
        put(store, first, 0, text(20) + text(3) + noise(30))
    elif event == "discard":
        run(store.discard_steps(second, 0, second.size_bytes))
    elif event == "delete":
        run(store.delete_steps(first))
    elif event == "create":
        put(store, store.create_volume(3, 7), 0, text(1) + noise(40))
    else:
        put(store, first, 1 << 30, text(21))


def test_a_deleted_volume_is_not_reported(store: Store) -> None:
    first, _ = _filled(store)
    deletion = store.delete_steps(first)
    next(deletion)
    assert set(census.take(store).volumes) == {2}


def test_no_step_looks_at_more_than_a_window(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "WINDOW", 1024)
    volume = store.create_volume(1, 7)
    run(store.resize_steps(volume, 1 << 40))  # sparse: passed over in large strides
    blocks = 3000
    put(store, volume, (1 << 39) - 512 * BLOCK_BYTES, b"".join([noise(1), text(1), ZERO_BLOCK]) * (blocks // 3))
    counted = Census()
    touched_blocks: list[int] = []
    monkeypatch.setattr(census, "count_blocks", _noted(touched_blocks))
    steps = list(census.steps(store, counted))
    assert max(touched_blocks) == 1024 and len(steps) < 3000
    assert counted.total.touched_blocks == sum(touched_blocks) == blocks


def _noted(touched_blocks: list[int]) -> Callable[..., int]:
    """`count_blocks`, which notes how many it has counted in each call."""

    def count(tables: Tables, block_map: BlockMap, first: int, end: int, most: int, *sums: Any) -> int:
        blocks, before = sums[0], sum(sums[0])
        following = count_blocks(tables, block_map, first, end, most, *sums)
        touched_blocks.append(sum(blocks) - before)
        return following

    return count
