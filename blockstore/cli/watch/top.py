"""`blockstore top`: a mount, live; a full screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

import click

from blockstore.cli.output import say, warn
from blockstore.cli.streams import keep_columns
from blockstore.cli.types.number import Seconds, WholeNumber
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import compact_size
from blockstore.cli.views import health
from blockstore.cli.views.top_model import (
    History,
    Observation,
    Row,
    attached_by,
    bound,
    compact_rate,
    compact_share,
    mechanism_of,
    pause_s,
    snapshots_of,
    sort_rows,
    wanted_of,
)
from blockstore.daemon.host import mounts
from blockstore.daemon.supervise import phase
from blockstore.errors import MountError
from blockstore.store.accounting.classes import CLASSES
from blockstore.vm.observe.observe import observe

if TYPE_CHECKING:
    from blockstore.cli.views.top_screen import Outcome

LEAST_INTERVAL_S: Final = 0.5
LONGEST_INTERVAL_S: Final = 3600.0


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option(
    "--interval",
    type=Seconds(LEAST_INTERVAL_S, LONGEST_INTERVAL_S),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--count", type=WholeNumber(min=1), metavar="N", help="End after N looks.")
def top(mountpoint: Path | None, interval: float, count: int | None) -> int:
    """Watch the mount at MOUNTPOINT (or the only one there is): one line for each VM, in the words of `status`.

    `faults/s` is how often VMs waited for a block to come back; `fault p50` and `p99` are how long at most. Keys: q
    quits; n, m, t, r, f and s sort by name, memory, touched, resident, faults and saved, and again the other way
    round; tab shows the other columns where they do not fit beside each other. Sizes are in K, M, G of 1024.

    Where stdin, stdout or stderr is no terminal, or the terminal is a dumb one, it prints a line for each VM, one
    for all of them, and one for snapshots if there are any, each interval. A daemon that is being restarted is
    waited for; when the mount goes, so does `top`.

    \b
    Example:
      blockstore top /run/vm-memory
      blockstore top --interval 10 --count 6 > log
    """
    mount = mounts.find(mountpoint)
    try:
        first = _first(mount)
        if _is_screen():
            _watch(mount, first, interval, count)
        else:
            _print_lines(mount, first, interval, count)
    except KeyboardInterrupt:  # the way to end it, and so no failure
        return 0
    return 0


def look(mount: mounts.Mount, deliver: Callable[[Outcome], None]) -> None:
    """Observe the mount in a thread that nobody ever waits for: it opens files of the mount, and may hang with it."""

    def run() -> None:
        outcome = _outcome(mount)
        try:
            deliver(outcome)
        except RuntimeError:  # the screen has gone meanwhile, and its event loop with it
            return

    threading.Thread(target=run, name="look", daemon=True).start()


def _outcome(mount: mounts.Mount) -> Outcome:
    try:
        _check_there(mount)
        report, answer = observe(mount)
        return Observation(time.monotonic(), report, answer)
    except MountError as error:
        return _judge(mount, error)
    except Exception as error:  # raised again in the main thread
        return error


def _judge(mount: mounts.Mount, error: MountError) -> str | MountError:
    """Is it worth to wait? Not if the mount has gone, and not if nobody will start another daemon."""
    try:
        _check_there(mount)
    except MountError as gone:
        return gone
    return str(error) if phase.load(mount.state) is not None else error


def _check_there(mount: mounts.Mount) -> None:
    """Raises MountError if there is none any more, or another one."""
    if mounts.served_by(mount.state, mount.path) is None:
        raise MountError(f"the mount at {mount.path} has gone")


def _first(mount: mounts.Mount) -> Observation:
    """The first look, before a screen is made: what is wrong from the start is an error and no more."""
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    look(mount, outcomes.put)
    outcome = outcomes.get()
    if isinstance(outcome, BaseException):
        raise outcome
    if isinstance(outcome, str):
        raise MountError(outcome)
    return outcome


def _is_screen() -> bool:
    """Can a full screen be made? Textual reads stdin and writes to stderr."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    is_dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown")
    return not is_dumb and all(stream is not None and stream.isatty() for stream in streams)


def _watch(mount: mounts.Mount, first: Observation, interval_s: float, count: int | None) -> None:
    # Imported late: it takes a third of a second, and plain lines do without.
    from blockstore.cli.views.top_screen import TopScreen

    keep_columns()
    screen = TopScreen(mount, lambda deliver: look(mount, deliver), first, interval_s, count)
    screen.run(mouse=False)  # the mouse selects text, as in any terminal
    if screen.error is not None:
        raise screen.error


def _print_lines(mount: mounts.Mount, first: Observation, interval_s: float, count: int | None) -> None:
    history, outcomes, warned = History(interval_s), SimpleQueue["Outcome"](), [""]
    outcome: Outcome = first
    took_s, left = 0.0, count
    while True:
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, str):
            warned = _warn([f"waiting for the daemon: {outcome}"], warned)
        else:
            history.add(outcome)
            _print_report(history)
            warned = _warn([*health.missing(outcome.report["total"]), *health.judge(outcome.answer).sentences], warned)
            left = None if left is None else left - 1
        if left == 0:
            return
        time.sleep(pause_s(interval_s, took_s))
        started_s = time.monotonic()
        look(mount, outcomes.put)
        outcome = outcomes.get()
        took_s = time.monotonic() - started_s


def _warn(sentences: list[str], warned: list[str]) -> list[str]:
    """Each once, for as long as it is true."""
    for sentence in sentences:
        if sentence not in warned:
            warn(sentence)
    return sentences


def _print_report(history: History) -> None:
    assert history.last is not None
    now, total, latencies = time.strftime("%H:%M:%S"), history.total, history.latencies
    for row in sort_rows(history.rows, "name", reverse=False):
        more = {"wanted": wanted_of(row), "by": mechanism_of(row), "attached": attached_by(row)}
        say(f"{now}  {row.name}  {_words(_figures(row) | more)}")
    figures = total.figures
    more = {
        "footprint": compact_size(figures["footprint"]),
        "pool": f"{compact_size(history.last.answer['pool_used'])} of {compact_size(figures['pool_limit'])}",
        "p50": bound(latencies.p50_us),
        "p99": bound(latencies.p99_us),
        "restarts": str(figures["restarts"]),
    }
    say(f"{now}  {total.name}  {_words(_figures(total) | more)}")
    if snapshots := snapshots_of(history.last.report["snapshots"]):
        (_, count), (word, size) = snapshots
        say(f"{now}  snapshots  {_words({'count': count, word: size})}")
    sys.stdout.flush()


def _figures(row: Row) -> dict[str, str]:
    keys = {"memory": "logical", "touched": "touched", "resident": "resident", **{kind: kind for kind in CLASSES}}
    figures = {word: compact_size(row.figures[key]) for word, key in keys.items()}
    return figures | {"faults/s": compact_rate(row.faults_per_s), "saved": compact_share(row.figures["saved"])}


def _words(figures: dict[str, str]) -> str:
    return "  ".join(f"{word} {value}" for word, value in figures.items())
