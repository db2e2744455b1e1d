"""The command line: groups of measurements, and what becomes of their figures."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click
from guestlab.errors import GuestLabError
from rich.console import Console
from suitelab.command_line import exit_code_of

from benchlab import machine, mounts, results
from benchlab.bench import Bench, Group
from benchlab.cost import cold, engine, growth, mechanisms, memory, patch, start, stored
from benchlab.errors import BenchError
from benchlab.figures import table
from benchlab.latency import background, busy, clients, dirty, faults, paging, placement, standstill
from benchlab.peers import fio
from benchlab.saved import saved
from benchlab.vms import beyond, clone, fork, resident, slowdown, twice
from blockstore.errors import BlockstoreError

GROUPS: dict[str, tuple[Group, ...]] = {
    "engine": (engine.measure,),
    "fault": (faults.measure, clients.measure),
    "busy": (busy.measure,),
    "placement": (placement.measure,),
    "dirty": (dirty.measure,),
    "memory": (memory.measure,),
    "patch": (patch.measure,),
    "stored": (stored.measure,),
    "paging": (paging.measure,),
    "beyond": (beyond.measure,),
    "cold": (cold.measure,),
    "background": (background.measure,),
    "clone": (clone.measure,),
    "fork": (fork.measure,),
    "start": (start.measure,),
    "resident": (resident.measure,),
    "twice": (twice.idle, twice.different, twice.alike, twice.garbage),
    "mechanisms": (mechanisms.measure,),
    "slowdown": (slowdown.measure,),
    "growth": (growth.measure,),
    "standstill": (standstill.measure,),
    "fio": (fio.measure,),
    "saved-idle": (saved.idle,),
    "saved-different": (saved.different,),
    "saved-alike": (saved.alike,),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("groups", metavar="[GROUP]...", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option("--redraw", is_flag=True, help="Measure nothing; make table, plots and page from the last results.")
@click.option("--add", is_flag=True, help="Keep what the last results have of groups that are not measured now.")
@click.option("--publish", is_flag=True, help="Put a dated copy of table and plots into docs/bench/ as well.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=results.FOLDER,
    show_default="build/bench",
    help="Where results, table, plots and page go.",
)
@click.option("--quick", is_flag=True, help="Less data and fewer repetitions: to try the bench, not to quote.")
@click.option(
    "--images",
    "image_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with web.ram, compile.ram, db.ram. Default: the cache, recorded there if missing.",
)
def bench(
    groups: tuple[str, ...],
    redraw: bool,
    add: bool,
    publish: bool,
    output: Path,
    quick: bool,
    image_folder: Path | None,
) -> int:
    """Measure what is promised, on the memory of real guests; all groups, or those that are named.

    \b
    engine   ingest and read of the store against bare xxh3 and LZ4
    fault    4 KiB faults: the lane and a C server that does nothing; then of four threads at once
    busy     the same beside a writer at full speed, and how fast that one is beside zram
    placement  faults by the cores of client and daemon: free, on one core, on two; with and without --lane-cpu follow
    dirty    the longest hold-up of a process that dirties its memory
    memory   processes of a mount without VMs and with three; tables and heap after 1 GiB
    patch    what patches save on three guests
    stored   bytes stored against what the commit before the compiled core stored of the same images
    paging   faults on blocks in a tier, beside reads of the same disk, and GETRANGE of the same server
    beyond   guests that use eight times what the pool holds, and look at every byte of it
    cold     how much smaller cold memory is, and what reads of it cost more
    background  faults while cold memory is encoded anew, and how much of it a second, on idle cores and on busy ones
    clone    cp of 1 GiB
    fork     a clone of 4 GiB, snapshots of a guest that works, forks of it: one, and twenty
    start    a start on existing state, up to 4 GiB of logical memory, and a restart after kill -9
    resident what the controller gives back of guests, and what that costs them
    twice    records of blocks that are resident as well, while guests work and at rest; garbage after a rewrite
    mechanisms  sharing, breaking, (un)compressing and (un)patching, by the block; the paper's figures beside them
    slowdown what work in a guest on the store takes, against a guest on plain memory
    growth   ingest, faults, tables and a restart after kill -9 from 256 MiB to 32 GiB
    standstill  the longest step of a write while the tables grow to 4 million rows
    fio      the file itself, beside zram, nbdkit, qemu-storage-daemon and tmpfs; installs what it lacks of them
    saved-...   memory saved of a set of guests, beside KSM, zram, both and nothing (some ten minutes each)

    Each figure is a ratio within one run where it can be one. Results, table, plots and a page with all of them go to
    build/bench/. Needs root and /dev/fuse, gcc and libfuse3-dev.

    \b
    Example:
      scripts/bench
      scripts/bench fault --quick

    \b
    Exit codes: 0 measured, met or short; 1 something could not be measured; 130 interrupted.
    """
    if redraw:
        report = _last_report(output)
    else:
        chosen = groups or tuple(GROUPS)
        report = _of_other_groups(_last_report(output), chosen) if add else _empty_report()
        _measure(report, chosen, output, quick=quick, image_folder=image_folder)
        _show(report)
    written = results.write(report, output)
    print(f"bench: {written[-1]}", file=sys.stderr)
    if publish:
        print(f"bench: {results.publish(report)}", file=sys.stderr)
    return 1 if report["failures"] else 0


def _measure(
    report: dict[str, Any], chosen: tuple[str, ...], output: Path, *, quick: bool, image_folder: Path | None
) -> None:
    """Complete the report by all that is known of this run; it is saved after each part of it."""
    noise = machine.Noise()
    with mounts.workspace() as workspace:
        context = Bench(image_folder, workspace, noise, quick, report["data"], report["not_measured"])
        for name in chosen:
            began_s = time.monotonic()
            for measure in GROUPS[name]:
                try:
                    found = [{**figure.as_json(), "measured_in": name} for figure in measure(context)]
                    again = {(figure["group"], figure["name"]) for figure in found}
                    kept = [each for each in report["figures"] if (each["group"], each["name"]) not in again]
                    report["figures"] = [*kept, *found]
                except (BenchError, BlockstoreError, GuestLabError) as error:
                    report["failures"].append(f"{name}: {error}")
                    context.say(report["failures"][-1])
                report["seconds"][name] = time.monotonic() - began_s
                seconds = sum(report["seconds"].values())
                report["machine"] = {**machine.describe(), **noise.report(), "seconds": seconds, "quick": quick}
                results.save(report, output)


def _empty_report() -> dict[str, Any]:
    return {"machine": {}, "seconds": {}, "figures": [], "data": {}, "failures": [], "not_measured": []}


def _of_other_groups(report: dict[str, Any], chosen: tuple[str, ...]) -> dict[str, Any]:
    """What an earlier run on this machine has measured in other groups."""
    kept = _empty_report()
    kept["figures"] = [figure for figure in report["figures"] if figure["measured_in"] not in chosen]
    for key in ("data", "seconds"):
        kept[key] = {name: value for name, value in report[key].items() if name not in chosen}
    return kept


def _last_report(output: Path) -> dict[str, Any]:
    path = output / "results.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"there are no results to draw in {path} ({error}); measure first: scripts/bench") from None
    return report


def _show(report: dict[str, Any]) -> None:
    figures, surroundings = report["figures"], report["machine"]
    # A table in a pipe or a log should not be folded to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else max(shutil.get_terminal_size((200, 24)).columns, 200))
    console.print(table(figures))
    for failure in (*report["failures"], *report["not_measured"]):
        console.print(f"not measured: {failure}", style="red")
    short = sum(figure["verdict"] == "short" for figure in figures)
    met = sum(figure["verdict"] == "met" for figure in figures)
    console.print(f"{met} met, {short} short" + (", --quick: not to be quoted" if surroundings["quick"] else ""))
    console.print(
        f"{surroundings['cpu']}, {surroundings['cores']} cores, {surroundings['memory_bytes'] / 2**30:.0f} GiB, "
        f"Linux {surroundings['kernel']}, Python {surroundings['python']}, {surroundings['seconds']:.0f} s",
        highlight=False,
    )
    console.print(
        f"noise: load {surroundings['load_before']:.1f} before the start, {100 * surroundings['steal_share']:.1f} % "
        f"stolen by the hypervisor, a fixed piece of work took {surroundings.get('spin_p50', 1):.2f} (p50) and "
        f"{surroundings.get('spin_p95', 1):.2f} (p95) times its best",
        highlight=False,
    )
    console.print(
        "engine: processor time; memory was taken and freed before each ingest, because fresh memory is dear on a VM. "
        "fault: servers and client on one core with real-time priority.",
        highlight=False,
    )


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run it; SIGTERM unwinds as Ctrl-C does, so that no mount stays."""
    signal.signal(signal.SIGTERM, _end)
    try:
        return exit_code_of(bench, "scripts/bench")
    except (BenchError, BlockstoreError, GuestLabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
