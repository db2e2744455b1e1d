"""Records the RAM of Debian guests that run different services, to measure sharing and patching on.

Each guest boots a stock Debian, works for a minute or two, settles, is paused, and its memory file is
copied. `python -m guestlab.services --out DIR` does it; what is in DIR already is kept.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from guestlab import assets, work
from guestlab.debian import debian_image
from guestlab.errors import GuestLabError
from guestlab.guest import Accelerator, Guest
from guestlab.sparse import copy_sparse, nonzero_bytes

#: The default set. Every service has a shell script of its name in loads/; "logs" is one more.
SERVICES = ("web", "compile", "db")
#: Not a Debian: the plain busybox guest after `work.fill_mixed`.
BUSYBOX = "busybox"
BUSYBOX_MEMORY_BYTES = 256 << 20
_BUSYBOX_FILL_MIB = 96
DEFAULT_MEMORY_BYTES = 512 << 20

_LOADS = Path(__file__).parent / "loads"
_DONE_MARK = "@@guestlab-load-done"
#: Guests at work at once; each keeps one host core busy under TCG.
_CONCURRENT_GUESTS = 2
_BOOT_TIMEOUT_S = 300
_LOAD_TIMEOUT_S = 1200
_SETTLE_S = 5
_MEMORY_PARENT = Path("/dev/shm")
_MEMORY_PREFIX = "guestlab-"


@dataclass(frozen=True)
class Recording:
    """One recorded memory image."""

    service: str
    path: Path
    touched_bytes: int  # blocks that the guest made the host allocate, as `du` counts them
    nonzero_bytes: int  # 4 KiB blocks that are not all zero
    seconds: float
    reused: bool


def record(
    services: Sequence[str],
    out_dir: Path,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    accel: Accelerator = "tcg",
    force: bool = False,
) -> list[Recording]:
    """Make OUT_DIR/SERVICE.ram for each service and return them in order; existing ones are reused."""
    for service in services:
        if service not in known_services():
            raise GuestLabError(f"There is no service {service!r}; known are {', '.join(known_services())}.")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestLabError(f"Cannot make {out_dir}: {error.strerror}.") from error
    done = {
        service: _existing(service, out_dir)
        for service in services
        if not force and _is_recorded(service, out_dir, memory_bytes)
    }
    if BUSYBOX in services and BUSYBOX not in done:
        done[BUSYBOX] = _record_busybox(out_dir, accel)
    missing = [service for service in dict.fromkeys(services) if service not in done]
    for start in range(0, len(missing), _CONCURRENT_GUESTS):
        batch = missing[start : start + _CONCURRENT_GUESTS]
        done |= {made.service: made for made in _record_batch(batch, out_dir, memory_bytes, accel)}
    return [done[service] for service in services]


def known_services() -> list[str]:
    """Return every name that `record` takes."""
    return sorted([BUSYBOX, *(script.stem for script in _LOADS.glob("*.sh"))])


def _record_batch(services: Sequence[str], out_dir: Path, memory_bytes: int, accel: Accelerator) -> list[Recording]:
    """Run these guests side by side. All work happens inside them, so one thread is enough here."""
    disk = debian_image()
    recordings = []
    with ExitStack() as stack:
        folder = stack.enter_context(_memory_folder())
        started_s = time.monotonic()
        guests = {}
        for service in services:
            guests[service] = stack.enter_context(
                Guest(
                    service,
                    memory_bytes,
                    folder / f"{service}.ram",
                    accel=accel,
                    disk=disk,
                    kernel_arguments=f"systemd.hostname={service} systemd.show_status=0",
                )
            )
        for guest in guests.values():
            guest.wait_ready(_BOOT_TIMEOUT_S)
        assets.note(f"{', '.join(services)} booted in {time.monotonic() - started_s:.0f} s")
        for service, guest in guests.items():
            guest.write_file("/root/load.sh", _load_script(service).read_text())
            # In the background: the console stays free for the next guest's turn, the mark comes later.
            load = "began=$(date +%s); sh /root/load.sh >/var/log/load.log 2>&1"
            guest.command(f'{{ {load}; echo "{_DONE_MARK} $? after $(($(date +%s) - began)) s" >/dev/ttyS0; }} &')
        # Those that finish first idle meanwhile, as services do.
        for service, guest in guests.items():
            mark = guest.wait_for(rf"{_DONE_MARK} \d+ after \d+ s", _LOAD_TIMEOUT_S)
            status, _, after = mark.removeprefix(f"{_DONE_MARK} ").partition(" ")
            log = guest.command("tail -n 12 /var/log/load.log").strip()
            if status != "0":
                raise GuestLabError(f"The load of guest {service} failed {after}: {log}")
            assets.note(f"{service} is done {after}; its log ends with:\n{log}")
        time.sleep(_SETTLE_S)
        for service, guest in guests.items():
            guest.pause()
            path = out_dir / f"{service}.ram"
            touched_bytes = copy_sparse(guest.memory_path, path)
            seconds = time.monotonic() - started_s
            recordings.append(Recording(service, path, touched_bytes, nonzero_bytes(path), seconds, reused=False))
    return recordings


def _record_busybox(out_dir: Path, accel: Accelerator) -> Recording:
    started_s = time.monotonic()
    path = out_dir / f"{BUSYBOX}.ram"
    with (
        _memory_folder() as folder,
        Guest(BUSYBOX, BUSYBOX_MEMORY_BYTES, folder / path.name, accel=accel) as guest,
    ):
        work.fill_mixed(guest, _BUSYBOX_FILL_MIB)
        guest.pause()
        touched_bytes = copy_sparse(guest.memory_path, path)
    seconds = time.monotonic() - started_s
    return Recording(BUSYBOX, path, touched_bytes, nonzero_bytes(path), seconds, reused=False)


@contextmanager
def _memory_folder() -> Iterator[Path]:
    """Make a folder for memory files, on a tmpfs: a disk's writeback would slow the guests down.

    It bears our process id, so that a later run can remove what a killed one left.
    """
    for leftover in _MEMORY_PARENT.glob(f"{_MEMORY_PREFIX}*-*"):
        pid = leftover.name.removeprefix(_MEMORY_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_MEMORY_PREFIX}{os.getpid()}-", dir=_MEMORY_PARENT) as folder:
        yield Path(folder)


def _is_recorded(service: str, out_dir: Path, memory_bytes: int) -> bool:
    path = out_dir / f"{service}.ram"
    expected_bytes = BUSYBOX_MEMORY_BYTES if service == BUSYBOX else memory_bytes
    return path.exists() and path.stat().st_size == expected_bytes


def _existing(service: str, out_dir: Path) -> Recording:
    path = out_dir / f"{service}.ram"
    return Recording(service, path, path.stat().st_blocks * 512, nonzero_bytes(path), 0.0, reused=True)


def _load_script(service: str) -> Path:
    return _LOADS / f"{service}.sh"


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([MG])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 1G")
    return int(match.group(1)) << {"M": 20, "G": 30}[match.group(2)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="guestlab.services", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where NAME.ram goes")
    parser.add_argument("--memory", type=_parse_size, default=DEFAULT_MEMORY_BYTES, metavar="SIZE")
    parser.add_argument("--guests", default=",".join(SERVICES), metavar="NAMES", help="%(default)s")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg")
    parser.add_argument("--force", action="store_true", help="record again what exists")
    options = parser.parse_args(arguments)
    # SIGTERM, too, must unwind: guests and their memory go with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        recordings = record(
            options.guests.split(","),
            options.out,
            memory_bytes=options.memory,
            accel=options.accel,
            force=options.force,
        )
    except GuestLabError as error:
        print(f"guestlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for recording in recordings:
        how = "reused" if recording.reused else f"{recording.seconds:.0f} s"
        print(
            f"{recording.path} touched {recording.touched_bytes / 2**20:.0f} MiB, "
            f"not zero {recording.nonzero_bytes / 2**20:.0f} MiB ({how})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
