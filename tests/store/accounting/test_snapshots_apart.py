"""Snapshots in the census: what a VM needs too is the VM's, to the byte as if there were none; all adds up."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.accounting import census
from blockstore.store.accounting.census import Census
from blockstore.store.accounting.classes import RECORDS
from blockstore.store.accounting.report import HOST, Report, complete, describe
from blockstore.store.state.geometry import BLOCK_BYTES, ENCODING_MASK, ID_MASK, PATCHED
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.store.accounting.test_census import assert_adds_up
from tests.store.material import densify, near, noise, put, text

SNAPSHOTS = range(100, 200)
"""Their numbers."""

BLOCKS = 24


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(MemoryHome(), 64 << 20)
    yield store
    store.close()


def clone(store: Store, source: Volume, number: int) -> Volume:
    """A snapshot of a volume."""
    made = store.create_volume(number, 7)
    run(store.resize_steps(made, source.size_bytes))
    run(store.clone_steps(source, 0, made, 0, source.size_bytes))
    return made


def report_of(store: Store, daemon_memory: int = 50_000_001) -> Report:
    """Of a mount: each file is called by its number, and has a byte for each of it resident."""
    residents = {str(number): number for number in store.volumes}
    return complete(describe(census.take(store, SNAPSHOTS), {}), residents, daemon_memory)


def assert_is_all(store: Store, report: Report) -> None:
    """VMs and snapshots are what the host pays, and nothing is in both."""
    assert_adds_up({key: report[key] for key in ("volumes", "total")})
    total, snapshots, host = report["total"], report["snapshots"], report["host"]
    assert snapshots["names"] == [str(number) for number in store.volumes if number in SNAPSHOTS]
    assert snapshots["stored"] == sum(snapshots[f"stored_{name}"] for name in RECORDS if name != "paged")
    assert snapshots["footprint"] == sum(snapshots[key] for key in HOST)
    assert snapshots["unique"] == snapshots["footprint"] - snapshots["daemon_memory"]
    for key in ("stored", *HOST, "footprint"):
        assert host[key] == total[key] + snapshots[key] >= 0
    assert host["stored"] == store.pool.live_bytes and host["pool"] == store.pool.allocated_bytes
    assert host["tables"] == store.table_bytes and host["daemon_memory"] == 50_000_001
    assert host["resident"] == sum(store.volumes)


def test_five_snapshots_of_one_vm_change_nothing_but_their_line(store: Store) -> None:
    vm = store.create_volume(1, 7)
    put(store, vm, 0, b"".join(text(seed) + near(text(seed), 1) + noise(seed) for seed in range(200)))
    before = report_of(store)
    assert before["snapshots"]["count"] == before["snapshots"]["unique"] == 0
    for number in range(100, 105):
        clone(store, vm, number)
    after = report_of(store)
    assert_is_all(store, after)
    same = set(before["total"]) - {"tables", "footprint", "saved"}
    assert {key: after["total"][key] for key in same} == {key: before["total"][key] for key in same}
    assert abs(after["total"]["saved"] - before["total"]["saved"]) < 0.001
    maps = sum(store.volumes[number].table_bytes for number in range(100, 105))
    unique = maps + sum(range(100, 105))
    changed = {"count": 5, "names": [], "logical": 5 * vm.size_bytes, "tables": maps, "resident": sum(range(100, 105))}
    changed |= {"unique": unique, "footprint": unique}
    assert after["snapshots"] | {"names": []} == before["snapshots"] | changed


def test_what_the_vm_has_overwritten_is_the_snapshots(store: Store) -> None:
    vm = store.create_volume(1, 7)
    put(store, vm, 0, noise(1) + noise(2) + noise(3))
    clone(store, vm, 100)
    clone(store, vm, 101)
    put(store, vm, 0, noise(4))
    report = report_of(store)
    assert_is_all(store, report)
    assert report["snapshots"]["rows"] == 1 and report["snapshots"]["stored"] == BLOCK_BYTES
    assert report["snapshots"]["stored_shared"] == BLOCK_BYTES, "both snapshots have it"
    assert report["total"]["raw"] == report["total"]["stored_raw"] == 3 * BLOCK_BYTES
    assert report["total"]["shared"] == 0, "what only snapshots have too is not shared"


def test_a_reference_of_a_vm_is_the_vms(store: Store) -> None:
    """The snapshot has the reference, the VM the patch: the VM needs both."""
    vm = store.create_volume(1, 7)
    put(store, vm, 0, text(5) + bytes(BLOCK_BYTES))
    clone(store, vm, 100)
    put(store, vm, 0, near(text(5), 1))
    assert store.rows.where.items[vm.lookup(0) & ID_MASK] & ENCODING_MASK == PATCHED
    report = report_of(store)
    assert_is_all(store, report)
    assert report["snapshots"]["stored"] == report["snapshots"]["rows"] == 0
    assert report["total"]["stored_references"] > report["total"]["stored_patched"] > 0
    run(store.delete_steps(store.volumes[100]))
    assert report_of(store)["total"]["stored"] == report["total"]["stored"], "and stays when the snapshot goes"


def test_a_reference_that_only_a_snapshots_patch_needs(store: Store) -> None:
    vm = store.create_volume(1, 7)
    put(store, vm, 0, text(5))
    put(store, vm, BLOCK_BYTES, near(text(5), 1))
    clone(store, vm, 100)
    run(store.discard_steps(vm, 0, 2 * BLOCK_BYTES))
    run(store.discard_steps(store.volumes[100], 0, BLOCK_BYTES))
    snapshots = report_of(store)["snapshots"]
    assert snapshots["stored_references"] > snapshots["stored_patched"] > 0 and snapshots["rows"] == 2


def test_snapshots_without_a_vm_carry_all(store: Store) -> None:
    vm = store.create_volume(1, 7)
    put(store, vm, 0, text(1) + noise(1))
    clone(store, vm, 100)
    run(store.delete_steps(vm))
    report = report_of(store)
    assert_is_all(store, report)
    assert report["volumes"] == {} and report["total"]["footprint"] == 0 and report["total"]["saved"] == 0.0
    assert report["snapshots"]["rows"] == 2 and report["snapshots"]["daemon_memory"] == 50_000_001


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "near", "discard", "snapshot", "delete", "cold"]),
        st.integers(0, 2),
        st.integers(0, BLOCKS - 3),
        st.integers(0, 5),
    ),
    max_size=25,
)


@given(ACTIONS)
def test_vms_stand_as_if_there_were_no_snapshots(actions: list[tuple[str, int, int, int]]) -> None:
    """Two stores have the same VMs; one has snapshots as well. Without patches: one may be possible against a reference
    that only a snapshot has."""
    stores = [Store(MemoryHome(), 64 << 20, patching=False) for _ in range(2)]
    try:
        for store in stores:
            for number in (1, 2, 3):
                put(store, store.create_volume(number, 7), 0, noise(1) + text(number) * 2 + bytes(BLOCK_BYTES))
        for place, action in enumerate(actions):
            for store in stores:
                _do(store, place, *action, has_snapshots=store is stores[1])
        without, with_them = (report_of(store) for store in stores)
        assert_is_all(stores[1], with_them)
        apart = {"tables", "pool", "footprint", "saved"}
        for name, figures in {**without["volumes"], "total": without["total"]}.items():
            theirs = with_them["total"] if name == "total" else with_them["volumes"][name]
            assert {key: value for key, value in theirs.items() if key not in apart} == {
                key: value for key, value in figures.items() if key not in apart
            }
        for key in ("pool", "tables"):
            difference = with_them["total"][key] - without["total"][key]
            assert abs(difference) <= 2 << 20, (key, difference)  # segments that are being filled
        deleted = with_them["snapshots"]["stored"]
        _delete_snapshots(stores[1])
        assert stores[1].pool.live_bytes == with_them["host"]["stored"] - deleted, "unique is what comes back"
    finally:
        for store in stores:
            store.close()


def _do(store: Store, place: int, what: str, which: int, block: int, seed: int, *, has_snapshots: bool) -> None:
    vm = store.volumes[which + 1]
    if what in ("write", "near"):
        content = text(seed) if what == "write" else near(text(seed), which + 1)
        put(store, vm, block * BLOCK_BYTES, content + noise(seed))
    elif what == "discard":
        run(store.discard_steps(vm, block * BLOCK_BYTES, 3 * BLOCK_BYTES))
    elif what == "snapshot" and has_snapshots:
        clone(store, vm, SNAPSHOTS[place])
    elif what == "delete" and has_snapshots:
        run(store.delete_steps(store.volumes[max(store.volumes)])) if max(store.volumes) in SNAPSHOTS else None


def _delete_snapshots(store: Store) -> None:
    for number in [number for number in store.volumes if number in SNAPSHOTS]:
        run(store.delete_steps(store.volumes[number]))


@given(st.integers(0, 1 << 30))
def test_unique_records_come_back_with_patches_too(seed: int) -> None:
    store, chance = Store(MemoryHome(), 64 << 20), random.Random(seed)
    try:
        vms = [store.create_volume(number, 7) for number in (1, 2)]
        for place in range(30):
            vm, block = chance.choice(vms), chance.randrange(BLOCKS)
            put(store, vm, block * BLOCK_BYTES, near(text(chance.randrange(4)), chance.randrange(9)))
            if chance.random() < 0.2:
                clone(store, vm, SNAPSHOTS[place])
        if chance.random() < 0.5:
            densify(store)
        report = report_of(store)
        assert_is_all(store, report)
        _delete_snapshots(store)
        assert store.pool.live_bytes == report["total"]["stored"]
    finally:
        store.close()


@pytest.mark.parametrize("event", ["delete", "overwrite", "snapshot"])
@pytest.mark.parametrize("at_step", range(8))
def test_all_adds_up_when_the_store_changes_meanwhile(store: Store, event: str, at_step: int) -> None:
    vm = store.create_volume(1, 7)
    put(store, vm, 0, b"".join(text(seed) + noise(seed) for seed in range(20)))
    clone(store, vm, 100)
    counted = Census()
    for number, _ in enumerate(census.steps(store, counted, SNAPSHOTS)):
        if number == at_step:
            if event == "delete":
                run(store.delete_steps(store.volumes[100]))
            elif event == "snapshot":
                clone(store, vm, 101)
            else:
                put(store, vm, 0, noise(30) + noise(31))
    report = complete(describe(counted, {}), {}, 1000)
    assert_adds_up({key: report[key] for key in ("volumes", "total")})
    assert set(report["volumes"]) == {"1"} and report["snapshots"]["count"] <= 1
