"""Memory saved: sets of real guests on this store, on KSM, zram, both, and on nothing (the paper's figures 2 to 4).

What is compared, and why that is fair:

* saved = 1 - cost / touched, for all. `touched` is what the guests wrote and did not free: for the store what
  `status` calls so; for anonymous memory what is mapped or swapped out of the guest's mapping (smaps: Rss + Swap, in
  which a page that KSM has merged counts for each of its users). Pages that were only read are in neither.
* All start from the same saved guests (saved_guests.py), do the same light load to its end, and are left alone.
  Everybody has free page reporting, and nobody huge pages: `blockstore run` refuses them, and with them `touched` of
  anonymous memory would hold what no guest ever wrote, which KSM and zram would then save.
* To load a guest QEMU looks at every page, whether it is zero; on the store the holes are pages in memory then, and are
  dropped before the guests go on (saved_drop.py). What they wrote before starts as resident, in all systems.
* cost is all that the host pays: resident memory (each page once: Pss), page tables of QEMU (VmPTE), and
    store: pool, tables, the mount's processes, the shell of each `blockstore run`;
    KSM: its items and nodes, one for each page scanned, by its own counters and the kernel's object sizes;
    zram: mem_used_total, and the tables of the device and of swap (vmallocinfo). QEMU's own heap is swapped out too,
      as it is in the same cgroup: of mem_used_total the guests bear their part of what is swapped.
  QEMU's own heap is in nobody's cost, and neither is what QEMU reads from disks.
* KSM scans 4000 pages every 20 ms and passes nothing over (ksm.py), until another pass brings nothing more.
* zram is swap with lz4, of the size of all guests' memory, no read-ahead, swappiness 100. Swap needs somebody who says
  how much stays resident: each guest has a memory cgroup, whose limit is moved until as much of its memory is resident
  as the store's `auto` had left of the same guest (a merged page counts once for all who have it). So the store is
  measured first. A guest that is killed for that gets a little more. More pressure would save more in both; this way
  both keep the guest as fit. `ksm+zram`: KSM first, and when that is stable the limit is lowered.
* The store learns what a guest touched when it is written back, which takes the controller 20 s: until then its
  `touched` is too small, and what it saved is understated.
* What a guest has in its memory is checked in each system by sums that were taken before it was saved.

The data, `saved` in results.json:
{SET: {"memory_bytes": of a guest, "guests": [names], "systems": {SYSTEM: {
  "saved": fraction, mean of the last samples; "load_ended": seconds; "residents": {guest: bytes};
  "requests": {guest: {"done": requests of the light load, "seconds": that they took, "steps": [[seconds, done]]}};
  "series": [{"seconds": since the guests went on, "touched": bytes, "cost": bytes, "saved": fraction,
    "parts": {part: bytes, which add up to cost}}];
  "stack": {"cost": {part: bytes} of the last sample, of the store with its pool by mechanism (stored_shared, ...);
    store: "memory": {mechanism: bytes of touched memory}, "refault_share": {guest: of its time};
    ksm: "ksm": {"shared": bytes kept, "spared": bytes merged into those, "of_others": bytes of
      other processes that KSM has scanned too, 0 on a quiet machine, "counters", "settings"};
    zram: "zram": {"swapped": bytes of the guests, "distinct": those with each page once, "wanted": {guest: bytes},
      "original", "compressed", "used": bytes of the device}}}}}}.
SYSTEM is store, no patches, ksm, zram, ksm+zram, nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Final

from guestlab.errors import GuestLabError

from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import Figure
from benchlab.peers import ksm, swap
from benchlab.saved import saved_cells, saved_figures, saved_guests, saved_sets, saved_systems
from benchlab.saved.saved_cells import Cell, WrongMemory
from benchlab.saved.saved_guests import Saved
from benchlab.saved.saved_sets import GuestSet
from benchlab.saved.saved_systems import Anonymous, OnStore, System, Times

LEAST_RESIDENT_BYTES: Final = (0, 12 << 20, 24 << 20)
"""Of a guest under swap: with the 5 MiB that the store leaves of an idle one the kernel may find nothing to take, and
kill QEMU, whose heap is in the same cgroup. Then it gets so much."""

TIMES: Final = Times(load=20.0, longest_load=120.0, rest=180.0, rest_scanning=45.0, rest_swapping=20.0, every=3.0)
"""The store has most of its work done within a minute, and is looked at until that is steady; KSM, at its rate here,
takes ten seconds."""
QUICK: Final = Times(load=1.0, longest_load=20.0, rest=0.0, rest_scanning=4.0, rest_swapping=1.0, every=0.5)


def alike(bench: Bench) -> list[Figure]:
    """Four guests, a web server and a compiler in each; nothing with --quick."""
    return [] if bench.quick else _measure(bench, saved_sets.ALIKE)


def different(bench: Bench) -> list[Figure]:
    """Four guests with four services; nothing with --quick."""
    return [] if bench.quick else _measure(bench, saved_sets.DIFFERENT)


def idle(bench: Bench) -> list[Figure]:
    """Three idle guests; with --quick two small ones, to see that all systems give them their memory back."""
    return _measure(bench, saved_sets.QUICK if bench.quick else saved_sets.IDLE)


def _measure(bench: Bench, wanted: GuestSet) -> list[Figure]:
    """All systems that are to be had here."""
    refused = _refusals(bench, wanted)
    bench.say(f"saved: {wanted.name}: {len(wanted.guests)} guests are booted, warmed up, and saved")
    bench.noise.sample()
    folder = bench.workspace.states / f"saved-{wanted.name}"
    folder.mkdir()
    try:
        guests = saved_guests.save(bench, wanted, folder)
        cells = {cell.system: cell for cell in _cells(bench, wanted, guests, refused)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bench.kept.setdefault("saved", {})[wanted.name] = {
        "memory_bytes": wanted.memory_bytes,
        "guests": [plan.name for plan in wanted.guests],
        "systems": {name: cell.as_json() for name, cell in cells.items()},
    }
    return saved_figures.figures(wanted.name, cells, quick=bench.quick)


def _refusals(bench: Bench, wanted: GuestSet) -> set[str]:
    """The mechanisms that cannot be had here."""
    reasons = {"ksm": ksm.refusal(), "zram": swap.refusal() or saved_systems.limit_refusal()}
    for name, reason in reasons.items():
        if reason:
            bench.leave_out(f"saved, {wanted.name}, {name} and ksm+zram", reason)
    return {name for name, reason in reasons.items() if reason}


def _cells(bench: Bench, wanted: GuestSet, guests: Sequence[Saved], refused: set[str]) -> Iterator[Cell]:
    """The store first: how much it leaves resident is what the others are held to."""
    times = QUICK if bench.quick else TIMES
    store = saved_cells.measure(bench, OnStore(bench, times, patches=True), guests, times)
    yield store
    residents = dict.fromkeys(store.residents, wanted.memory_bytes // 4) if bench.quick else store.residents

    def anonymous(*, merging: bool, swapping: bool, least_bytes: int = 0) -> System:
        held = {name: max(size, least_bytes) for name, size in residents.items()} if swapping else {}
        return Anonymous(bench, wanted.memory_bytes, times, merging=merging, swapping=swapping, wanted=held)

    def swapping(*, merging: bool) -> list[System]:
        return [anonymous(merging=merging, swapping=True, least_bytes=least) for least in LEAST_RESIDENT_BYTES]

    # Of each system the first that the guests live through.
    attempts: list[list[System]] = [[OnStore(bench, times, patches=False)]]
    attempts += [[anonymous(merging=True, swapping=False)]] if "ksm" not in refused else []
    attempts += [swapping(merging=False)] if "zram" not in refused else []
    attempts += [swapping(merging=True)] if not refused else []
    attempts.append([anonymous(merging=False, swapping=False)])
    for systems in attempts:
        yield from _first(bench, wanted, systems, guests, times)


def _first(
    bench: Bench, wanted: GuestSet, systems: Sequence[System], guests: Sequence[Saved], times: Times
) -> Iterator[Cell]:
    for number, system in enumerate(systems, 1):
        try:
            yield saved_cells.measure(bench, system, guests, times)
            return
        except (BenchError, GuestLabError) as error:
            if bench.quick or isinstance(error, WrongMemory):
                raise
            if number == len(systems):
                bench.leave_out(f"saved, {wanted.name}, {system.name}", str(error))
