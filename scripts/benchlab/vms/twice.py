"""What is kept twice: records in the pool whose blocks are resident at the same time, while guests work and at rest.

The sets of guests that savings are measured on, on the store alone. A record is *kept twice* when each block that has
it is resident and clean: the guests read their own copy, and the record waits for the kernel to drop that. Of resident
blocks that are dirty the record is stale, and garbage to come. What of all this could be had stands in
docs/decisions.md.

Then the cheap part, on a file that no guest uses: how long records that were rewritten stay in the pool as garbage.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from benchlab import images, processes
from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions
from benchlab.latency import faults
from benchlab.mounts import StoreMount
from benchlab.saved import saved_guests, saved_sets
from benchlab.saved.saved import QUICK, TIMES
from benchlab.saved.saved_guests import Saved
from benchlab.saved.saved_sets import GuestSet
from benchlab.saved.saved_systems import OnStore, Times
from benchlab.vms import twice_look
from blockstore.daemon.control import client

GROUP: Final = "twice"

_LOOK_S: Final = 60.0
_WORKING_LOOKS: Final = 4
_MIB: Final = 1 << 20

_REWRITTEN_BYTES: Final = 128 * _MIB
_REWRITTEN_SHARES: Final = (16, 4)
"""A 16th of the blocks is less garbage than compaction cares for while somebody writes, a fourth is more."""

_WATCHED_S: Final = 30.0
_EVERY_S: Final = 0.1


class Look(NamedTuple):
    """One moment: what `twice_look` counted, and the totals of `status` right after."""

    twice: dict[str, int]
    total: dict[str, Any]


def idle(bench: Bench) -> list[Figure]:
    """Three idle guests; with --quick two small ones, which are not left alone afterwards."""
    return _measure(bench, saved_sets.QUICK if bench.quick else saved_sets.IDLE)


def different(bench: Bench) -> list[Figure]:
    """Four guests with four services; nothing with --quick."""
    return [] if bench.quick else _measure(bench, saved_sets.DIFFERENT)


def alike(bench: Bench) -> list[Figure]:
    """Four guests, a web server and a compiler in each; nothing with --quick."""
    return [] if bench.quick else _measure(bench, saved_sets.ALIKE)


def garbage(bench: Bench) -> list[Figure]:
    """A file of which little is rewritten, and one of which much is."""
    size_bytes = _REWRITTEN_BYTES >> (3 if bench.quick else 0)
    return [figure for share in _REWRITTEN_SHARES for figure in _rewritten(bench, size_bytes, share)]


def _measure(bench: Bench, wanted: GuestSet) -> list[Figure]:
    bench.say(f"twice: {wanted.name}: {len(wanted.guests)} guests are booted, warmed up, and saved")
    bench.noise.sample()
    folder = bench.workspace.states / f"twice-{wanted.name}"
    folder.mkdir()
    try:
        guests = saved_guests.save(bench, wanted, folder)
        working, rested = _looks(bench, guests, QUICK if bench.quick else TIMES)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return figures(f"{wanted.name}, working", working) + figures(f"{wanted.name}, at rest", [rested])


def _looks(bench: Bench, guests: Sequence[Saved], times: Times) -> tuple[list[Look], Look]:
    """The looks while they work, and the one at rest."""
    system = OnStore(bench, times, patches=True)
    with system, saved_guests.started(guests, system.memory_path, system.runner) as running:
        system.loaded(running)
        began_s = time.monotonic()
        saved_guests.go_on(running.values())
        for guest in running.values():
            saved_guests.begin_load(guest)
        working = []
        for number in range(1, _WORKING_LOOKS + 1):
            time.sleep(max(began_s + times.load * number / _WORKING_LOOKS - time.monotonic(), 0))
            working.append(_look(system.mount))
        for guest in running.values():
            saved_guests.end_load(guest)
        time.sleep(times.rest)
        rested = _look(system.mount)
    bench.say(f"twice: {100 * rested.twice['all_clean'] / rested.total['pool']:.0f} % of the pool at rest")
    return working, rested


def _look(mount: StoreMount) -> Look:
    twice = processes.run_json(twice_look.command(mount.path, mount.state), mount.abort, _LOOK_S)
    return Look(twice, mount.status()["total"])


def figures(name: str, looks: Sequence[Look]) -> list[Figure]:
    """Medians of all looks; notes are of the last."""
    last = looks[-1]
    shown = {key: f"{size / _MIB:.1f}" for key, size in last.twice.items()}
    pool, footprint = (f"{last.total[key] / _MIB:.0f}" for key in ("pool", "footprint"))

    def share(what: str, of: Callable[[Look], float], note: str = "") -> Figure:
        return from_repetitions(GROUP, f"{name}: {what}", [100 * of(look) for look in looks], "%", note=note)

    return [
        share(
            "records of which all blocks are resident / pool",
            lambda look: look.twice["all_resident"] / look.total["pool"],
            f"MiB: {shown['all_resident']} of {pool}; any block {shown['any_resident']}",
        ),
        share(
            "kept twice, all blocks resident and clean / pool",
            lambda look: look.twice["all_clean"] / look.total["pool"],
            f"MiB: {shown['all_clean']} of {pool}; any block {shown['any_clean']}",
        ),
        share(
            "kept twice, any block resident and clean / pool", lambda look: look.twice["any_clean"] / look.total["pool"]
        ),
        share(
            "kept twice, and of no patch's need / footprint",
            lambda look: look.twice["unneeded"] / look.total["footprint"],
            f"MiB: {shown['unneeded']} of {footprint}",
        ),
        share(
            "stale, all blocks dirty / footprint",
            lambda look: look.twice["all_dirty"] / look.total["footprint"],
            f"MiB: {shown['all_dirty']} of {footprint}",
        ),
        share(
            "clean / resident",
            lambda look: look.twice["clean"] / max(look.twice["resident"], 1),
            f"MiB: {shown['clean']} of {shown['resident']}; {shown['clean_with_record']} have a record",
        ),
        share(
            "no record / pool",
            lambda look: 1 - look.total["stored"] / look.total["pool"],
            f"MiB: {(last.total['pool'] - last.total['stored']) / _MIB:.1f} of {pool}: garbage, and not filled yet",
        ),
    ]


def _rewritten(bench: Bench, size_bytes: int, share: int) -> list[Figure]:
    """A file is written, and of each `share` blocks one is written anew, which leaves that much garbage."""
    blocks = next(images.fill_up(bench.images, size_bytes))[1]
    bench.say(f"twice: of {blocks.nbytes >> 20} MiB each {share}. block is written anew")
    source = bench.workspace.states / "source"
    with StoreMount(bench.workspace, "rewritten") as mount:
        server = faults.Server(mount, mount.path / "file")
        images.variation(blocks, 1).tofile(source)
        faults.fill(server, source)
        blocks = images.variation(blocks, 1)
        blocks[::share] = images.variation(blocks[::share], 2)
        blocks.tofile(source)
        before_bytes = _garbage_bytes(mount)[0]
        faults.fill(server, source)
        series, began_s = [_garbage_bytes(mount)], time.monotonic()
        seconds = [0.0]
        while seconds[-1] < _WATCHED_S:
            time.sleep(_EVERY_S)
            series.append(_garbage_bytes(mount))
            seconds.append(time.monotonic() - began_s)
    source.unlink()
    made, (left, pool) = series[0][0], series[-1]
    gone_s = next(at for at, (garbage, _) in zip(seconds, series, strict=True) if garbage - left <= (made - left) / 2)
    note = f"MiB: {before_bytes / _MIB:.1f} before, {made / _MIB:.1f} right after, {left / _MIB:.1f} at the end"
    name = f"each {share}. block rewritten"
    return [
        Figure(GROUP, f"{name}: no record / pool, right after", 100 * made / series[0][1], "%", note=note),
        Figure(GROUP, f"{name}: half of what goes of it is gone after", gone_s, "s"),
        Figure(GROUP, f"{name}: no record / pool, {_WATCHED_S:.0f} s later", 100 * left / pool, "%"),
    ]


def _garbage_bytes(mount: StoreMount) -> tuple[int, int]:
    """What holds no record, and the whole pool."""
    total = client.ask(mount.state, {"do": "status"})["report"]["total"]
    return total["pool"] - total["stored"], total["pool"]
