"""`blockstore verify`: is everything that is stored whole? And mend what can be mended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from blockstore.cli.output import print_json, say
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import counted, format_size
from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.daemon.state.verification import verify_state
from blockstore.errors import CorruptBlock, InputError, MountError
from blockstore.store.state.geometry import BLOCK_BYTES

POLL_S: Final = 0.2

Report = Callable[[int, int], None]


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option("--state", type=DIRECTORY, help="Verify this state directory, which no mount uses, instead of a mount.")
@click.option("--repair", is_flag=True, help="Mend what can be mended, and say what cannot.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: what was looked at, and each finding.")
def verify(mountpoint: Path | None, state: Path | None, repair: bool, as_json: bool) -> int:
    """Decode every block that the mount at MOUNTPOINT keeps and check it, and check every table.

    VMs go on meanwhile. Each finding is a line. What one flipped bit has done to a record, a row or a map entry is
    mended with --repair; a block that is lost cannot be read (EIO) until it is written again, and is never replaced by
    something else.

    \b
    Exit codes: 0 all is well, or was mended; 6 something is damaged.

    \b
    Example:
      blockstore verify /run/vm-memory
      blockstore verify --state /dev/shm/blockstore-0/run-vm-memory-1a2b3c4d --repair
    """
    if mountpoint is not None and state is not None:
        raise InputError("verify wants a mountpoint or --state, not both")
    with _progress() as report:
        if state is not None:
            result = verify_state(state.absolute(), repair=repair, progress=report)
        else:
            result = _verify_mount(mounts.find(mountpoint), repair, report)
    left = result["found"] - result["repaired"]
    if as_json:
        print_json({"ok": not left, **_for_people(result)})
    else:
        _print(result)
    return CorruptBlock.exit_code if left else 0


def _verify_mount(mount: mounts.Mount, repair: bool, report: Report) -> dict[str, Any]:
    daemon_pid = client.ask(mount.state, {"do": "hello"})["daemon_pid"]
    client.ask(mount.state, {"do": "verify", "repair": repair})
    try:
        while True:
            answer = client.ask(mount.state, {"do": "verify", "progress": True})
            if not answer["running"]:
                break
            report(answer["done"], answer["total"])
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        client.ask(mount.state, {"do": "verify", "cancel": True})
        raise
    if client.ask(mount.state, {"do": "hello"})["daemon_pid"] != daemon_pid:
        raise MountError(f"the daemon of {mount.path} was replaced during the verification; start it again")
    return answer


def _for_people(result: dict[str, Any]) -> dict[str, Any]:
    """With names in the place of numbers, and without what is of no use after the end."""
    names = result["names"]
    findings = [
        {**finding, "volume": names.get(str(finding["volume"]), finding["volume"])} for finding in result["findings"]
    ]
    kept = ("volumes", "blocks", "rows", "record_bytes", "found", "repaired")
    return {**{key: result[key] for key in kept}, "findings": findings}


def _print(result: dict[str, Any]) -> None:
    told = _for_people(result)
    for finding in told["findings"]:
        where = f"{finding['volume']}: " if finding["volume"] is not None else ""
        say(f"{where}{finding['text']}{' (mended)' if finding['repaired'] else ''}")
    if told["found"] > len(told["findings"]):
        say(f"and {told['found'] - len(told['findings'])} more")
    looked_at = (
        f"{counted(told['volumes'], 'file')}, {format_size(told['blocks'] * BLOCK_BYTES)} of memory, "
        f"{counted(told['rows'], 'record')} "
        f"({format_size(told['record_bytes'])})"
    )
    if not told["found"]:
        say(f"{looked_at}: all is well")
        return
    say(f"{looked_at}: {counted(told['found'], 'finding')}, {told['repaired']} mended")


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on stderr, if that is a terminal."""
    columns = (TextColumn("verifying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verifying")
        yield lambda done, total: progress.update(task, completed=done, total=total)
