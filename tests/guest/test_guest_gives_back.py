"""A real guest under `blockstore run`: what it does not use and what it frees comes back to the host."""

from __future__ import annotations

import sys

import pytest
from guestlab import work
from guestlab.guest import Guest

from tests.daemon.lab import NEEDS_QEMU, Lab, until

pytestmark = [
    pytest.mark.mount,
    pytest.mark.guest,
    NEEDS_QEMU,
]

MIB = 1 << 20
MEMORY_BYTES = 192 * MIB
WORK_MIB = 16
FREED_MIB = 40


def test_a_guest_gives_back_what_it_does_not_use_and_what_it_frees(lab: Lab) -> None:
    mounted = lab.mount()
    run = [sys.executable, "-m", "blockstore", "run", "vm", "--mount", str(mounted.path), "--memory", "192M"]
    run += ["--resident", "24M", "--"]

    def volume(key: str) -> int:
        return int(mounted.status()["volumes"]["vm"][key])

    with Guest("vm", MEMORY_BYTES, mounted.path / "vm", runner=run) as guest:
        guest.wait_ready(120)
        work.fill_mixed(guest, WORK_MIB)
        until(lambda: volume("resident") < 30 * MIB, "an idle guest keeps little")
        assert volume("touched") > WORK_MIB * MIB
        assert work.verify(guest) == [], "and has lost nothing"

        # Reported are free pieces of 2 MiB. Of pages that lie scattered compaction would have to make such, if it can.
        guest.command("mount -o remount,huge=always /work")
        guest.command(f"dd if=/dev/urandom of=/work/freed bs=1M count={FREED_MIB} 2>/dev/null", 120)
        # What the guest has written counts when it is stored. Pages that are still dirty would never count: they are
        # freed in the page cache.
        mounted.evict("vm")
        touched, stored, pool = volume("touched"), volume("stored"), volume("pool")
        guest.command("rm /work/freed")

        until(lambda: volume("touched") < touched - FREED_MIB * MIB * 0.8, "free page reporting, in pieces of 2 MiB")
        assert volume("stored") < stored - FREED_MIB * MIB * 0.75, "rows are freed"
        until(lambda: volume("pool") < pool - FREED_MIB * MIB * 0.7, "and segments are the host's again")

        touched = volume("touched")
        guest.qmp("balloon", {"value": MEMORY_BYTES // 2})
        until(lambda: volume("touched") < touched, "the balloon's pages are freed")
        guest.qmp("balloon", {"value": MEMORY_BYTES})
        assert work.verify(guest) == []
    until(lambda: not list(mounted.path.iterdir()), "the file is deleted")
    assert mounted.umount().returncode == 0
