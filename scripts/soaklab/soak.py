"""A mount under load, and its daemon killed again and again."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from guestlab import work
from guestlab.guest import Guest

from blockstore.daemon.supervise.backoff import QUICK_DEATH_S
from soaklab.mounted import (
    COMMAND_S,
    SoakError,
    await_service,
    blockstore,
    end_load,
    kill_daemon,
    mounted,
    running,
    running_load,
    said,
    status,
)

GUEST_BYTES: Final = 128 << 20
GUEST_WORK_MIB: Final = 16
FIO_MIB: Final = 64

LEAST_PAUSE_S: Final = 0.2
"""Between two kills: the next daemon should get somewhere, though not always to the end of its start."""

HASTY_KILLS: Final = 5
"""So many in a row may hit a daemon that does not serve yet. On a slow machine all would, later and later, because the
supervisor waits longer after each, and at last for a minute."""

Say = Callable[[str], None]


@dataclass
class Verdict:
    """`stalls_s`: for each kill the longest time that a read around it took."""

    kills: int = 0
    restarts: int = 0
    stalls_s: list[float] = field(default_factory=list)
    done: dict[str, Any] = field(default_factory=dict)

    def stall_s(self, share: float) -> float:
        """The stall that this share of all kills did not exceed."""
        ordered = sorted(self.stalls_s)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def soak(kills: int, pause_s: float, stored_bytes: int, seed: int, say: Say) -> Verdict:
    """Kill the daemon so many times, on average every `pause_s`, with so much stored. Raises SoakError."""
    chance, verdict = random.Random(seed), Verdict()
    with mounted(stored_bytes) as (mount, state), contextlib.ExitStack() as stack:
        say(f"storing {stored_bytes >> 20} MiB")
        _store(mount / "ballast", stored_bytes, seed)
        loads = {kind: stack.enter_context(running_load(kind, mount, seed)) for kind in ("mapped", "names", "stalls")}
        loads["fio"] = stack.enter_context(_fio(mount / "fio", seed))
        guest = stack.enter_context(Guest("soak", GUEST_BYTES, mount / "guest"))
        guest.wait_ready(COMMAND_S)
        work.fill_mixed(guest, GUEST_WORK_MIB)
        say("the guest and the loads run")
        killed_at = []
        checked_at = time.monotonic()
        killed_pid = 0
        while verdict.kills < kills:
            if verdict.kills % HASTY_KILLS == 0:
                await_service(state, killed_pid)
                time.sleep(QUICK_DEATH_S)
            time.sleep(LEAST_PAUSE_S + chance.uniform(0, 2 * max(pause_s - LEAST_PAUSE_S, 0)))
            killed_at.append(time.time())
            killed_pid = kill_daemon(state)
            verdict.kills += 1
            loads["fio"] = _still_runs(loads, loads["fio"], stack, mount, seed + verdict.kills)
            if verdict.kills % 20 == 0:
                say(f"{verdict.kills} kills")
            if time.monotonic() - checked_at > 15:
                _check_guest(guest)
                checked_at = time.monotonic()
        _check_guest(guest)
        verdict.done = {kind: end_load(kind, process) for kind, process in loads.items() if kind != "fio"}
        _end_fio(loads["fio"])
        slow = verdict.done.pop("stalls")
        verdict.stalls_s = [_stall_of(moment, slow) for moment in killed_at]
        verdict.restarts = status(mount)["restarts"]
        say("verifying the store")
        result = blockstore("verify", str(mount))
        if result.returncode:
            raise SoakError(f"the store is not whole: {result.stdout}{result.stderr}")
    return verdict


def _store(path: Path, size_bytes: int, seed: int) -> None:
    """Unique blocks that compress to a half."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(size_bytes >> 20):
            noise = chance.randbytes(1 << 19)
            file.write(b"".join(noise[at : at + 2048] + bytes(2048) for at in range(0, 1 << 19, 2048)))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _fio(path: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    command = [
        *("fio", "--name=verify", f"--filename={path}", f"--size={FIO_MIB}M", "--ioengine=mmap", "--bs=4k"),
        *("--rw=randrw", "--rwmixread=30", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--invalidate=1"),
        *("--fsync=1024", "--end_fsync=1", "--buffer_compress_percentage=50", "--refill_buffers"),
        *(f"--randseed={seed}", "--allow_file_create=1", "--aux-path=/tmp"),
    ]
    with running(command) as process:
        yield process


def _still_runs(
    loads: dict[str, subprocess.Popen[str]],
    fio: subprocess.Popen[str],
    stack: contextlib.ExitStack,
    mount: Path,
    seed: int,
) -> subprocess.Popen[str]:
    """Raise for a load that has ended; fio ends when it has verified everything, and begins again."""
    for kind, process in loads.items():
        if process is not fio and process.poll() is not None:
            raise SoakError(f"the load {kind!r} ended (exit code {process.returncode}): {said(process)}")
    if fio.poll() is None:
        return fio
    _end_fio(fio)
    return stack.enter_context(_fio(mount / "fio", seed))


def _end_fio(fio: subprocess.Popen[str]) -> None:
    try:
        output, errors = fio.communicate(timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        raise SoakError(f"fio did not end within {COMMAND_S:.0f} s") from None
    if fio.returncode or "verify: bad" in output + errors:
        raise SoakError(f"fio failed (exit code {fio.returncode}): {output[-2000:]}{errors[-2000:]}")


def _check_guest(guest: Guest) -> None:
    wrong = work.verify(guest)
    if wrong or not work.verified_files(guest):
        raise SoakError(f"the guest finds its memory changed: {wrong[:3]}")


def _stall_of(killed_at: float, slow: dict[str, list[float]]) -> float:
    """The longest read that was under way when the daemon was killed, or began right after; 0 if none was slow."""
    around = [
        lasted
        for begun, lasted in zip(slow["begun"], slow["lasted"], strict=True)
        if begun - 0.05 <= killed_at <= begun + lasted or 0 <= begun - killed_at < 0.05
    ]
    return max(around, default=0.0)
