"""Records the RAM of Debian guests that run different services, to measure sharing and patching on.

Each guest boots a stock Debian, works for a minute or two, settles, is paused, and its memory file is
copied. `python -m guestlab.services --out DIR` does it; what is in DIR already is kept.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from guestlab import assets
from guestlab.debian import debian_image
from guestlab.errors import GuestLabError
from guestlab.guest import Accelerator, Guest
from guestlab.sparse import copy_sparse, nonzero_bytes

#: Every service has a shell script of this name in loads/.
SERVICES = ("web", "compile", "db")
DEFAULT_MEMORY_BYTES = 512 << 20

_LOADS = Path(__file__).parent / "loads"
_DONE_MARK = "@@guestlab-load-done"
#: Guests at work at once; each keeps one host core busy under TCG.
_CONCURRENT_GUESTS = 2
_BOOT_TIMEOUT_S = 300
_LOAD_TIMEOUT_S = 1200
_SETTLE_S = 5


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
        if not _load_script(service).exists():
            raise GuestLabError(f"There is no service {service!r}; known are {', '.join(SERVICES)}.")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestLabError(f"Cannot make {out_dir}: {error.strerror}.") from error
    done = {
        service: _existing(service, out_dir)
        for service in services
        if not force and (out_dir / f"{service}.ram").exists()
    }
    missing = [service for service in dict.fromkeys(services) if service not in done]
    for start in range(0, len(missing), _CONCURRENT_GUESTS):
        batch = missing[start : start + _CONCURRENT_GUESTS]
        done |= {made.service: made for made in _record_batch(batch, out_dir, memory_bytes, accel)}
    return [done[service] for service in services]


def _record_batch(
    services: Sequence[str], out_dir: Path, memory_bytes: int, accel: Accelerator
) -> list[Recording]:
    """Run these guests side by side. All work happens inside them, so one thread is enough here."""
    disk = debian_image()
    recordings = []
    with ExitStack() as stack:
        # Memory on a tmpfs, as a disk's writeback would slow the guests down.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="guestlab-", dir="/dev/shm"))
        started_s = time.monotonic()
        guests = {}
        for service in services:
            guests[service] = stack.enter_context(
                Guest(
                    service,
                    memory_bytes,
                    Path(folder) / f"{service}.ram",
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
            # In the background of a pipeline-free subshell: the console stays free, the mark comes later.
            guest.command(
                "{ sh /root/load.sh >/var/log/load.log 2>&1; "
                f"echo {_DONE_MARK[:4]}''{_DONE_MARK[4:]} $?; }} >/dev/ttyS0 2>&1 &"
            )
        # Those that finish first idle meanwhile, as services do.
        for service, guest in guests.items():
            mark = guest.wait_for(rf"{_DONE_MARK} \d+", _LOAD_TIMEOUT_S)
            if not mark.endswith(" 0"):
                log = guest.command("tail -n 5 /var/log/load.log")
                raise GuestLabError(f"The load of guest {service} failed: {log.strip()}")
        time.sleep(_SETTLE_S)
        for service, guest in guests.items():
            guest.pause()
            path = out_dir / f"{service}.ram"
            touched_bytes = copy_sparse(guest.memory_path, path)
            seconds = time.monotonic() - started_s
            recordings.append(
                Recording(service, path, touched_bytes, nonzero_bytes(path), seconds, reused=False)
            )
    return recordings


def _existing(service: str, out_dir: Path) -> Recording:
    path = out_dir / f"{service}.ram"
    return Recording(service, path, path.stat().st_blocks * 512, nonzero_bytes(path), 0.0, reused=True)


def _load_script(service: str) -> Path:
    return _LOADS / f"{os.path.basename(service)}.sh"


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
