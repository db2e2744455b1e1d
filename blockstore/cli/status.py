"""`blockstore status`: what a mount saves, by VM and mechanism, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from blockstore.cli.paths import DIRECTORY
from blockstore.cli.savings_table import make_console, print_savings
from blockstore.daemon import control, mounts
from blockstore.store.report import complete
from blockstore.vm import resident


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: volumes and total, bytes as integers.")
def status(mountpoint: Path | None, as_json: bool) -> None:
    """Show what the mount at MOUNTPOINT (or the only one there is) keeps, saves and costs.

    `touched` is what the VMs wrote and did not free; `footprint` is what the host pays for it: pages that are
    resident (in the page cache, uncompressed), the pool of stored blocks, tables and the daemon.
    `saved` is 1 - footprint / touched. `blockstore evict` moves what is resident into the store.

    \b
    Example:
      blockstore status /run/vm-memory
      blockstore status --json | jq .total.saved
    """
    mount = mounts.find(mountpoint)
    answer = control.ask(mount.state, {"do": "status"})
    figures: dict[str, Any] = answer["report"]
    report = complete(
        figures, {name: _resident(mount.path / name) for name in figures["volumes"]}, answer["daemon_memory"]
    )
    for key in ("daemon_pid", "supervisor_pid", "restarts", "pool_limit"):
        report["total"][key] = answer[key]
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    print_savings(report, make_console())
    if answer["stalled"]:
        click.echo(
            f"blockstore: warning: the pool is full and {answer['stalled']} writes wait; delete or punch memory",
            err=True,
        )
    if answer["corrupt_reads"]:
        click.echo(f"blockstore: warning: {answer['corrupt_reads']} reads met a corrupt block; see the log", err=True)


def _resident(path: Path) -> int:
    try:
        return resident.of_file(path).resident
    except OSError:
        return 0  # deleted, or no longer there
