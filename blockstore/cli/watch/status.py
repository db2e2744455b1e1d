"""`blockstore status`: what a mount saves, by VM and mechanism, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blockstore.cli.output import print_json, say, warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import counted, format_size
from blockstore.cli.views import health
from blockstore.cli.views.control_table import print_control
from blockstore.cli.views.process_table import print_processes
from blockstore.cli.views.savings_table import print_savings
from blockstore.cli.views.table import terminal_width
from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.daemon.supervise import phase
from blockstore.errors import InputError, MountError, StateLost
from blockstore.store.accounting.report import Report
from blockstore.vm.observe.observe import full_share, observe


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: volumes, snapshots, total and host, bytes as integers."
)
@click.option("--check", is_flag=True, help="For monitoring: one line, exit code 0, 1 (warning), 2 (critical), 3.")
def status(mountpoint: Path | None, as_json: bool, check: bool) -> int:
    """Show what the mount at MOUNTPOINT (or the only one there is) keeps, saves and costs.

    `touched` is what the VMs wrote and did not free; `footprint` is what the host pays for it: pages that are
    resident (in the page cache, uncompressed), the pool of stored blocks, tables and the daemon.
    `saved` is 1 - footprint / touched. Snapshots are no VMs: what only they need stands on a line of its own, and
    in no other figure. `blockstore run` and `attach` keep what is resident small; `evict` moves all of it into the
    store once.

    --check prints one line and ends with 0 (all well), 1 (the pool is 80 % full, or the like), 2 (95 %, writes wait,
    reads met a corrupt block, the daemon is down, the state was deleted) or 3 (no mount, or nobody answers), as
    monitoring systems want it.

    \b
    Example:
      blockstore status /run/vm-memory
      blockstore status --json | jq .total.saved
    """
    if check:
        if as_json:
            raise InputError("--check prints one line; leave out --json")
        return _check(mountpoint)
    mount = mounts.find(mountpoint)
    report, answer = observe(mount)
    if as_json:
        print_json(report)
        return 0
    width = terminal_width()
    print_savings(report, width)
    print_control(report, width)
    if report["snapshots"]["count"]:
        say(_snapshots(report))
    print_processes(report["total"], width)
    say(_pool(report))
    say(_background(report["total"]["background"]))
    if report["total"]["tier"]:
        say(_tier(report["total"]["tier"]))
    if report["total"]["arriving"]:
        say(_arriving(report["total"]["arriving"]))
    for sentence in [*health.missing(report["total"]), *health.judge(answer).sentences]:
        warn(sentence)
    return 0


def _snapshots(report: Report) -> str:
    figures, host = report["snapshots"], report["host"]
    parts = ", ".join(f"{key} {format_size(figures[key])}" for key in ("pool", "tables", "resident"))
    whole = format_size(host["footprint"])
    processes = f" and the daemon's {format_size(figures['daemon_memory'])}" if figures["daemon_memory"] else ""
    return (
        f"Snapshots: {figures['count']:,}; only they need {format_size(figures['unique'])} ({parts}){processes}, in no "
        f"figure above; with it the host pays {whole}"
    )


def _pool(report: Report) -> str:
    total = report["total"]
    sizes = f"{format_size(report['host']['pool'])} of at most {format_size(total['pool_limit'])}"
    if total["pool_reserve"]:  # a daemon that was not reloaded yet may know less
        sizes += f" ({format_size(total['pool_reserve'])} of that for compaction only)"
    return f"Pool: {sizes}; {100 * total['fragmentation']:.0f} % of the pool hold no record (fragmentation)"


def _background(figures: dict[str, Any]) -> str:
    percent = figures["cpu_percent"]
    budget = f"at most {percent:g} % of a core" if percent else "off"
    done, size = figures["densified_blocks"], format_size(figures["saved_bytes"])
    return f"Cold blocks encoded anew ({budget}): {done:,} since the daemon's start, {size} less"


def _tier(figures: dict[str, Any]) -> str:
    size, pieces = format_size(figures["bytes"]), counted(figures["pieces"], "piece")
    out, back = format_size(figures["out_bytes"]), format_size(figures["back_bytes"])
    return (
        f"In the tier {figures['place']}: {size} in {pieces}; {out} went there and {back} came back since the daemon's "
        "start"
    )


def _arriving(figures: dict[str, Any]) -> str:
    places = ", ".join(f"{source['snapshot']} in {source['place']}" for source in figures["sources"])
    size = format_size(figures["fetched_bytes"])
    return f"Still to come from {places}: {counted(figures['due_blocks'], 'block')}; {size} fetched so far"


def _check(mountpoint: Path | None) -> int:
    """One line for monitoring, and its exit code."""
    mount = None
    try:
        mount = mounts.find(mountpoint)
        answer = client.ask(mount.state, {"do": "status"}, waits_for_failing=False)
    except MountError as error:
        is_supervised = mount is not None and phase.load(mount.state) is not None
        is_down = is_supervised or isinstance(error, StateLost | client.NobodyServes)
        level = health.CRITICAL if is_down else health.UNKNOWN
        say(f"blockstore {health.WORDS[level]} - {error}")
        return level
    found, share = health.judge(answer), full_share(answer)
    text = "; ".join(found.sentences) or f"the pool is {share:.0%} full"
    limits = f"{health.WARNING_SHARE:.0%};{health.CRITICAL_SHARE:.0%}".replace("%", "")
    say(f"blockstore {health.WORDS[found.level]} - {text} | pool={share * 100:.1f}%;{limits}")
    return found.level
