"""What the controller gives back, and what that costs: idle guests, a guest that works, freed memory, the lane.

Guests are real ones, started by `blockstore run`. All that is compared runs side by side or in turns in one mount.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from guestlab import debian
from guestlab.guest import Guest

from benchlab import machine
from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.mounts import StoreMount

FOOTPRINT_TARGET: Final = 0.35
ANSWER_TARGET_S: Final = 1.0
WALK_TARGET: Final = 1.07
CPU_TARGET: Final = 1.0
FREED_TARGET_S: Final = 10.0
LANE_TARGET: Final = 1.1
"""Of p99 with the controller to p99 without: no more than noise."""

_MIB: Final = 1 << 20
GUEST_BYTES: Final = 512 * _MIB
_IDLE_S: Final = 120
_WALKS: Final = 60
_GONE_BYTES: Final = 60 * _MIB
_FREED_BYTES: Final = 72 * _MIB
"""Of what it frees a guest reports whole pieces of 2 MiB only: a part of the file never leaves it."""

_DELAY_S: Final = 8
BOOT_S: Final = 300.0
_COMMAND_S: Final = 300.0
_CALM_BYTES: Final = 32 * _MIB
_FAULTS: Final = 2000
_ROUNDS: Final = 8


def measure(bench: Bench) -> list[Figure]:
    """All four."""
    return [*_idle(bench), *_walk(bench), *_freed(bench), *_lane(bench)]


def _idle(bench: Bench) -> list[Figure]:
    idle_s = _IDLE_S >> (2 if bench.quick else 0)
    bench.say(f"resident: two idle Debian guests on auto for {idle_s} s")
    disk = None if bench.quick else debian.debian_image()
    with StoreMount(bench.workspace, "idle") as mount, ExitStack() as stack:
        guests = [stack.enter_context(controlled_guest(mount, name, "auto", disk=disk)) for name in ("vm1", "vm2")]
        for guest in guests:
            guest.wait_ready(BOOT_S)
        time.sleep(idle_s / 2)
        controller_pid = int(mount.status()["total"]["controller_pid"])
        before_s, began = _processor_s(controller_pid), time.monotonic()
        time.sleep(idle_s / 2)
        cpu = 100 * (_processor_s(controller_pid) - before_s) / (time.monotonic() - began)
        two = mount.status()["total"]
        answers_s = [_answer_s(guest) for guest in guests]
        if not bench.quick:
            bench.say(f"resident: and four more, for {idle_s} s")
            for number in range(3, 7):
                guests.append(stack.enter_context(controlled_guest(mount, f"vm{number}", "auto", disk=disk)))
            for guest in guests:
                guest.wait_ready(BOOT_S)
            time.sleep(idle_s)
        six = mount.status()["total"]
    return [
        _footprint("two", two, FOOTPRINT_TARGET),
        *([] if bench.quick else [_footprint("six", six, None)]),
        Figure("resident", "an answer on the console of an idle guest", max(answers_s), "s", ANSWER_TARGET_S),
        Figure("resident", "controller, of a core for each idle guest", cpu / 2, "%", CPU_TARGET),
    ]


def _footprint(how_many: str, total: dict[str, Any], target: float | None) -> Figure:
    parts = ", ".join(f"{key} {total[key] / _MIB:.0f}" for key in ("pool", "tables", "daemon_memory", "resident"))
    note = f"MiB: touched {total['touched'] / _MIB:.0f}; {parts}"
    share = total["footprint"] / total["touched"]
    return Figure("resident", f"footprint of {how_many} idle guests / touched", share, target=target, note=note)


def _walk(bench: Bench) -> list[Figure]:
    pairs = _WALKS >> (4 if bench.quick else 0)
    bench.say(f"resident: {pairs} pairs of walks over half of a guest's memory, on auto and all resident")
    working_mib = GUEST_BYTES // _MIB // (8 if bench.quick else 2)
    with StoreMount(bench.workspace, "walk") as mount, ExitStack() as stack:
        auto = stack.enter_context(controlled_guest(mount, "auto", "auto"))
        full = stack.enter_context(controlled_guest(mount, "full", f"{GUEST_BYTES // _MIB}M"))
        for guest in (auto, full):
            guest.wait_ready(BOOT_S)
            # The guest's own pages are part of what it works on; the other file is what it does not.
            guest.command(_file("walked", working_mib - 16), _COMMAND_S)
            guest.command(_file("left", working_mib // 2), _COMMAND_S)
        controller_pid = int(mount.status()["total"]["controller_pid"])
        before_s, began = _processor_s(controller_pid), time.monotonic()
        times_s: dict[str, list[float]] = {"auto": [], "full": []}
        for number in range(pairs):
            for guest in (auto, full) if number % 2 else (full, auto):
                times_s[guest.name].append(seconds_of(guest, "dd if=/work/walked of=/dev/null bs=64k 2>/dev/null"))
        cpu = 100 * (_processor_s(controller_pid) - before_s) / (time.monotonic() - began)
        volume = mount.status()["volumes"]["auto"]
    resident = volume["resident"] / GUEST_BYTES
    return [
        Figure(
            "resident",
            "all walks on auto / all resident",
            sum(times_s["auto"]) / sum(times_s["full"]),
            target=WALK_TARGET,
            note=f"{100 * resident:.0f} % of the guest's memory was resident at the end",
        ),
        from_repetitions("resident", "a walk on auto / all resident", ratios(times_s["auto"], times_s["full"])),
        Figure("resident", "controller, of a core for each guest that works", cpu / 2, "%", CPU_TARGET),
    ]


def _freed(bench: Bench) -> list[Figure]:
    bench.say(f"resident: {_FREED_BYTES // _MIB} MiB are freed in a guest")
    with StoreMount(bench.workspace, "freed") as mount, controlled_guest(mount, "vm", "auto") as guest:
        guest.wait_ready(BOOT_S)
        guest.command(_file("file", _FREED_BYTES // _MIB), _COMMAND_S)
        time.sleep(10 if bench.quick else 30)
        # What it takes to delete the file is resident before, and not on the bill of what is freed.
        guest.command(f"(sleep {_DELAY_S}; rm /work/file) >/dev/null 2>&1 &", _COMMAND_S)
        began = time.monotonic() + _DELAY_S
        time.sleep(_DELAY_S - 1)
        before = int(mount.status()["total"]["footprint"])
        gone = 0
        while gone < _GONE_BYTES and time.monotonic() - began < 3 * FREED_TARGET_S:
            time.sleep(0.25)
            gone = before - int(mount.status()["total"]["footprint"])
        seconds = time.monotonic() - began
    note = f"{gone / _MIB:.0f} MiB were gone then; what it frees in pieces of less than 2 MiB a guest does not report"
    name = f"{_GONE_BYTES // _MIB} of {_FREED_BYTES // _MIB} MiB freed in a guest are gone from footprint"
    return [Figure("resident", name, seconds, "s", FREED_TARGET_S, note=note)]


def _lane(bench: Bench) -> list[Figure]:
    """Faults of one file, while a guest is controlled and while the controller is stopped, in turns."""
    bench.say("resident: faults beside the controller")
    core = machine.cores()[0]
    source = faults.write_source(bench, _CALM_BYTES)
    with StoreMount(bench.workspace, "beside", core=core) as mount, controlled_guest(mount, "vm", "auto") as guest:
        guest.wait_ready(BOOT_S)
        server = faults.Server(mount, mount.path / "calm")
        faults.fill(server, source)
        controller_pid = int(mount.status()["total"]["controller_pid"])
        random, p99 = np.random.default_rng(3), {True: list[float](), False: list[float]()}
        for number in range(_ROUNDS >> (2 if bench.quick else 0)):
            for runs in (True, False) if number % 2 else (False, True):
                os.kill(controller_pid, signal.SIGCONT if runs else signal.SIGSTOP)
                pages = faults.some_pages(random, source, _FAULTS)
                p99[runs].append(float(np.percentile(faults.fault(bench, server, pages, core), 99)))
        os.kill(controller_pid, signal.SIGCONT)
    source.unlink()
    found = ratios(p99[True], p99[False])
    return [from_repetitions("resident", "fault p99 with / without the controller", found, target=LANE_TARGET)]


@contextmanager
def controlled_guest(mount: StoreMount, name: str, resident: str, disk: Path | None = None) -> Iterator[Guest]:
    """One that `blockstore run` has started."""
    run = [sys.executable, "-m", "blockstore", "run", name, "--mount", str(mount.path)]
    run += ["--memory", f"{GUEST_BYTES // _MIB}M", "--resident", resident, "--"]
    with Guest(name, GUEST_BYTES, mount.path / name, disk=disk, runner=run) as guest:
        yield guest


def _file(name: str, size_mib: int) -> str:
    return f"dd if=/dev/urandom of=/work/{name} bs=1M count={size_mib} 2>/dev/null"


def seconds_of(guest: Guest, command: str) -> float:
    began = time.perf_counter()
    guest.command(command, _COMMAND_S)
    return time.perf_counter() - began


def _answer_s(guest: Guest) -> float:
    return seconds_of(guest, "ps ax | wc -l")


def _processor_s(pid: int) -> float:
    """Returns its processor time, and that of its children that have ended."""
    fields: Any = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
