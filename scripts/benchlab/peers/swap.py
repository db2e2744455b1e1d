"""zram as swap: set up for a measurement, and taken down after it. With LZ4, as the store has it.

A device of its own where the kernel makes one when asked; else zram0, if nobody uses it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from benchlab.errors import BenchError
from benchlab.peers.zram import ALGORITHM
from benchlab.undo import Undo

_CONTROL: Final = Path("/sys/class/zram-control")
_FIRST: Final = Path("/sys/block/zram0")
_PAGE_CLUSTER: Final = Path("/proc/sys/vm/page-cluster")
_SWAPS: Final = Path("/proc/swaps")
_ALLOCATIONS: Final = Path("/proc/vmallocinfo")
_COMMAND_S: Final = 60.0


def refusal(control: Path = _CONTROL, first: Path = _FIRST, swaps: Path = _SWAPS) -> str:
    """Why there can be no swap to zram here; empty if there can."""
    if not control.is_dir() and not first.is_dir():
        return "this kernel has no zram (modprobe zram)"
    if os.geteuid():
        return "only root may set up zram"
    if len(swaps.read_text().splitlines()) > 1:
        return "this machine swaps already, and the guests' memory would go there too"
    if not (control / "hot_add").exists() and (first / "disksize").read_text().strip() != "0":
        return "zram0 is set up already: somebody else uses it"
    return next((f"there is no {name}" for name in ("mkswap", "swapon") if shutil.which(name) is None), "")


class Swap:
    """Swap to a zram device, from its construction until `undo` is taken back."""

    def __init__(self, undo: Undo, size_bytes: int) -> None:
        """Raises BenchError, OSError."""
        self._folder = _device(undo)
        try:
            undo.write(self._folder / "comp_algorithm", ALGORITHM)
        except OSError as error:
            raise BenchError(f"zram has no {ALGORITHM}") from error
        # The way back resets the device before it sets the algorithm.
        undo.write_at_end(self._folder / "reset", "1")
        undo.write(_PAGE_CLUSTER, "0")  # no read-ahead, as one sets it for zram
        before = _table_bytes()
        (self._folder / "disksize").write_text(str(size_bytes))
        device = Path("/dev", self._folder.name)
        _run("mkswap", device)
        undo.swap_off_at_end(device)
        _run("swapon", device)
        self.table_bytes = max(_table_bytes() - before, 0)
        """What the tables of the device, and those of swap, take in the kernel."""

    def figures(self) -> dict[str, int]:
        """What is in it: uncompressed, compressed, and all the memory that it takes for that (mem_used_total;
        Documentation/admin-guide/blockdev/zram.rst)."""
        original, compressed, used = (int(field) for field in (self._folder / "mm_stat").read_text().split()[:3])
        return {"original": original, "compressed": compressed, "used": used}


def _device(undo: Undo) -> Path:
    if not (_CONTROL / "hot_add").exists():
        return _FIRST
    number = (_CONTROL / "hot_add").read_text().strip()  # reading makes it
    undo.write_at_end(_CONTROL / "hot_remove", number)
    return Path(f"/sys/block/zram{number}")


def _table_bytes() -> int:
    """zram has an entry, and swap a count and an owner, of each page of the device, whether it is in use or not."""
    lines = _ALLOCATIONS.read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "zram" in line or "disksize_store" in line or "swap" in line)


def _run(program: str, device: Path) -> None:
    done = subprocess.run([program, device], capture_output=True, text=True, check=False, timeout=_COMMAND_S)
    if done.returncode:
        raise BenchError(f"{program} {device} failed: {done.stderr.strip()}")
