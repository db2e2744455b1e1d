"""The demo: two guests whose memory is files of a store, and what that saves.

Everything it makes (mount, state, guests) is its own and is taken away at the end, also after Ctrl-C or a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from guestlab import work
from guestlab.errors import GuestLabError
from guestlab.guest import Guest

GUEST_BYTES: Final = 256 << 20
WORK_MIB: Final = 96
LEFT_ALONE_S: Final = 90
"""Time for the controller to take back what an idle guest does not use. It leaves a guest in peace that has just had
much brought back, until that is a hundredth of its time: some 45 s here."""

COMMAND_S: Final = 180.0
"""The longest that one blockstore command may take; an unmount writes back what is dirty."""

BLOCKSTORE: Final = (sys.executable, "-m", "blockstore")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if every checksum was right."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--accel", choices=("tcg", "kvm"), default="tcg", help="how QEMU runs the guests (default: tcg)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return _demonstrate(options.accel)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything is taken away again", file=sys.stderr)
        return 130
    except subprocess.CalledProcessError as error:
        return error.returncode  # the command has said why
    except (GuestLabError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _demonstrate(accel: str) -> int:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="blockstore-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        state = Path(f"/dev/shm/blockstore-demo-{os.getpid()}")
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        mountpoint = folder / "memory"
        mountpoint.mkdir()
        stack.callback(_take_mount_away, mountpoint)
        _blockstore("mount", str(mountpoint), "--state", str(state), "--pool-limit", "2G")
        pool = stack.enter_context(_threads())
        guests = []
        for name in ("vm1", "vm2"):
            run = ["run", name, "--mount", str(mountpoint), "--memory", f"{GUEST_BYTES >> 20}M", "--"]
            print("$ blockstore", *run, "qemu-system-x86_64 ...", flush=True)
            guest = Guest(
                name,
                GUEST_BYTES,
                mountpoint / name,
                accel="kvm" if accel == "kvm" else "tcg",
                runner=[*BLOCKSTORE, *run],
            )
            guests.append(stack.enter_context(guest))
        stack.callback(_ignore_interrupts)  # first of all: taking away is not to be interrupted
        wrong = _work_and_check(guests, pool)
        _blockstore("status", str(mountpoint))
        for guest in guests:
            guest.close()
        _say("the guests are off; unmounting")
        _blockstore("umount", str(mountpoint), "--discard")
        if wrong:
            print(f"demo: {len(wrong)} files in the guests have changed: {', '.join(wrong[:5])}", file=sys.stderr)
            return 1
        _say("done: no byte of the guests was lost")
        return 0


def _work_and_check(guests: list[Guest], pool: Executor) -> list[str]:
    """Let the guests work, leave them alone, check their memory inside of them; the files that are wrong."""
    for guest in guests:
        guest.wait_ready()
    _say("both guests are up; they fill files in tmpfs, sort, compress and sum them up")
    list(pool.map(lambda guest: work.fill_mixed(guest, WORK_MIB), guests))
    _leave_alone()
    _say("the guests check all their files, which brings them back")
    wrong = [
        f"{guest.name}:{name}"
        for guest, names in zip(guests, pool.map(work.verify, guests), strict=True)
        for name in names
    ]
    for guest in guests:
        _say(f"{guest.name}: {work.verified_files(guest)} files checked inside the guest")
    _leave_alone()
    return wrong


def _leave_alone() -> None:
    _say(f"nobody does anything for {LEFT_ALONE_S} s: what the guests do not use goes into the store")
    time.sleep(LEFT_ALONE_S)


@contextmanager
def _threads() -> Iterator[Executor]:
    """A thread for each guest. After an interrupt they end by themselves, because the guests are closed before."""
    pool = ThreadPoolExecutor()
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _blockstore(*arguments: str) -> None:
    print("$ blockstore", *arguments, flush=True)
    subprocess.run([*BLOCKSTORE, *arguments], check=True, timeout=COMMAND_S)


def _take_mount_away(mountpoint: Path) -> None:
    """After an interrupt or a failure; does nothing when the demo has unmounted already."""
    if os.path.ismount(mountpoint):
        subprocess.run([*BLOCKSTORE, "umount", str(mountpoint), "--force", "--discard"], check=False, timeout=COMMAND_S)


def _say(text: str) -> None:
    print(f"# {text}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
