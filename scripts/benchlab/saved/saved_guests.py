"""Guests that all systems start from the same point of: booted and warmed up once, then saved, then started from that.

A saved guest is QEMU's own migration stream on tmpfs, and, of a Debian guest, a disk overlay beside it, which no start
writes to (snapshot=on). The memory of the first run is anonymous, that of the others whatever `runner` gives; only
its name must be the same. Free page reporting is on in all of them: what a guest frees its host has back.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestlab import debian, work
from guestlab.errors import GuestLabError
from guestlab.guest import Guest
from guestlab.overlay import make_overlay

from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.saved import saved_progress, saved_run
from benchlab.saved.saved_progress import Progress
from benchlab.saved.saved_sets import GuestSet, Plan

_TOGETHER: Final = 2
"""Guests that boot side by side: each keeps a core busy."""

_BOOT_S: Final = 300.0
_WARM_UP_S: Final = 600.0
_COMMAND_S: Final = 120.0
_STREAM_S: Final = 120.0
_POLL_S: Final = 0.1
_SETTLE_S: Final = 2.0

_CHECKED_MIB: Final = 4
"""Of random and of text, in the guest's memory: what `wrong_files` looks at."""

_QUICK_MIB: Final = 4
_DONE: Final = "@@warm"


@dataclass(frozen=True)
class Saved:
    """One guest, and what it is started from."""

    plan: Plan
    of: GuestSet
    stream: Path
    overlay: Path | None

    def guest(self, memory_path: Path, runner: Sequence[str]) -> Guest:
        """The guest, to be started, from the stream; it stays paused then. `memory_path` is for the runner to know."""
        arguments = ["-incoming", f"exec:cat {shlex.quote(str(self.stream))}"]
        return _guest(self, memory_path, runner, arguments, ",snapshot=on")


def save(bench: Bench, wanted: GuestSet, folder: Path) -> list[Saved]:
    """Boot the set, two guests at a time, warm it up, and save it into the folder."""
    made: list[Saved] = []
    for first in range(0, len(wanted.guests), _TOGETHER):
        plans = wanted.guests[first : first + _TOGETHER]
        began = time.monotonic()
        made += _save(wanted, plans, folder)
        bench.say(f"saved: {', '.join(plan.name for plan in plans)} ready after {time.monotonic() - began:.0f} s")
    return made


@contextmanager
def started(
    saved: Sequence[Saved], memory_path: Callable[[Saved], Path], runner: Callable[[Saved], list[str]]
) -> Iterator[dict[str, Guest]]:
    """All of them, loaded from their streams, and paused: `go_on`."""
    with ExitStack() as stack:
        guests = {each.plan.name: each.guest(memory_path(each), runner(each)) for each in saved}
        for guest in guests.values():
            stack.enter_context(guest)
        for guest in guests.values():
            _wait_loaded(guest)
        yield guests


def go_on(guests: Iterable[Guest]) -> None:
    """From where they were saved."""
    for guest in guests:
        guest.resume()
        guest.assume_ready()


def begin_load(guest: Guest) -> None:
    """Have it do its light load, beside us."""
    guest.command(f"sh {saved_progress.SCRIPT} >{saved_progress.LOG} 2>&1 &", _COMMAND_S)


def has_ended_load(guest: Guest) -> bool:
    """Whether it has done all of it."""
    return bool(guest.command(f"ls {saved_progress.ENDED} 2>/dev/null", _COMMAND_S, check=False).strip())


def end_load(guest: Guest) -> Progress:
    """How far it came; what is not begun is left."""
    guest.command(f"touch {saved_progress.STOP}", _COMMAND_S)
    return Progress.parse(guest.command(f"cat {saved_progress.PROGRESS}", _COMMAND_S))


def wrong_files(guest: Guest) -> list[str]:
    """Files in the guest's memory that are no longer what they were before it was saved."""
    return work.verify(guest)


def _guest(saved: Saved, memory_path: Path, runner: Sequence[str], arguments: list[str], mode: str) -> Guest:
    kernel_arguments = ""
    if saved.overlay is not None:
        drive = f"if=virtio,format=qcow2,file={saved.overlay}{mode}"
        arguments = ["-drive", drive, *arguments]
        kernel_arguments = f"guestlab.root=/dev/vda systemd.hostname={saved.plan.name} systemd.show_status=0"
    return Guest(
        saved.plan.name,
        saved.of.memory_bytes,
        memory_path,
        kernel_arguments=kernel_arguments,
        free_page_reporting=True,
        extra_args=arguments,
        runner=runner,
    )


def _save(wanted: GuestSet, plans: Sequence[Plan], folder: Path) -> list[Saved]:
    disk = debian.debian_image() if wanted.debian else None
    made: list[Saved] = []
    with ExitStack() as stack:
        guests: list[Guest] = []
        for plan in plans:
            overlay = make_overlay(folder / f"{plan.name}.qcow2", disk) if disk is not None else None
            made.append(Saved(plan, wanted, folder / f"{plan.name}.stream", overlay))
            runner = saved_run.command(wanted.memory_bytes)
            guests.append(stack.enter_context(_guest(made[-1], Path(), runner, [], "")))
        for guest in guests:
            guest.wait_ready(_BOOT_S)
        for each, guest in zip(made, guests, strict=True):
            _begin_warm_up(each, guest)
        for each, guest in zip(made, guests, strict=True):
            _end_warm_up(each, guest)
        time.sleep(_SETTLE_S)
        for each, guest in zip(made, guests, strict=True):
            _write_stream(guest, each.stream)
    return made


def _begin_warm_up(saved: Saved, guest: Guest) -> None:
    if not saved.of.debian:
        work.fill(guest, _QUICK_MIB, "random")
        work.fill(guest, 2 * _QUICK_MIB, "text")
        work.fill(guest, _QUICK_MIB, "copies")
        return
    guest.command("mkdir -p /work && mount -t tmpfs work /work", _COMMAND_S)
    scripts = []
    for script in saved.plan.warm_up:
        path = f"/root/{script.name}"
        guest.write_file(path, script.read_text(), _COMMAND_S)
        scripts.append(f"sh {path} >/var/log/warm-up.log 2>&1")
    chain = " && ".join(scripts) or "true"
    # In the background: the console stays free for the next guest's turn, the mark comes later.
    guest.command(f"{{ ({chain}); echo {_DONE} $? >/dev/ttyS0; }} &", _COMMAND_S)


def _end_warm_up(saved: Saved, guest: Guest) -> None:
    if saved.of.debian:
        mark = guest.wait_for(rf"{_DONE} \d+", _WARM_UP_S)
        if mark != f"{_DONE} 0":
            log = guest.command("tail -n 5 /var/log/warm-up.log", _COMMAND_S)
            raise BenchError(f"what guest {guest.name} should do before it is saved failed: {log.strip()}")
        work.fill(guest, _CHECKED_MIB, "random")
        work.fill(guest, _CHECKED_MIB, "text")
    guest.write_file(saved_progress.SCRIPT, saved_progress.script(saved.plan.light), _COMMAND_S)


def _write_stream(guest: Guest, stream: Path) -> None:
    guest.pause()
    guest.qmp("migrate-set-parameters", {"max-bandwidth": 1 << 40})
    guest.qmp("migrate", {"uri": f"exec:cat >{shlex.quote(str(stream))}"})
    deadline = time.monotonic() + _STREAM_S
    while (status := _migration(guest)) != "completed":
        if status in ("failed", "cancelled") or time.monotonic() > deadline:
            raise BenchError(f"the state of guest {guest.name} could not be saved: {status}")
        time.sleep(_POLL_S)


def _wait_loaded(guest: Guest) -> None:
    deadline = time.monotonic() + _STREAM_S
    while guest.qmp("query-status")["status"] == "inmigrate":
        if time.monotonic() > deadline:
            raise BenchError(f"guest {guest.name} did not start from its saved state within {_STREAM_S:.0f} s")
        time.sleep(_POLL_S)
    if (status := _migration(guest)) != "completed":
        raise GuestLabError(f"Guest {guest.name} could not start from its saved state: {status}.")


def _migration(guest: Guest) -> str:
    return str(guest.qmp("query-migrate").get("status", ""))
