"""A guest with ordinary memory swaps to a file of the mount (docs/swap.md)."""

from __future__ import annotations

import pytest
from guestlab.guest import Guest

from tests.daemon.lab import NEEDS_QEMU, Lab

pytestmark = [
    pytest.mark.mount,
    pytest.mark.guest,
    NEEDS_QEMU,
]

MIB = 1 << 20
MEMORY_BYTES = 96 * MIB
FILE_MIB = 18
COPIES = 4
HEADER_BYTES = 4096
"""What mkswap writes: the only page of swap space that no discard frees."""


def test_a_guest_that_swaps(lab: Lab) -> None:
    mounted = lab.mount()
    disk = mounted.path / "swap"
    with disk.open("wb") as file:
        file.truncate(256 * MIB)
    drive = f"file={disk},if=virtio,format=raw,cache=none,discard=unmap,detect-zeroes=unmap"

    def volume(key: str) -> int:
        return int(mounted.status()["volumes"]["swap"][key])

    with Guest("vm", MEMORY_BYTES, lab.path / "vm.ram", extra_args=["-drive", drive]) as guest:
        guest.wait_ready(120)
        guest.command("echo 0 >/sys/block/vda/queue/rotational; mkswap /dev/vda && swapon -d /dev/vda")
        guest.command(f"mount -o remount,size={FILE_MIB * COPIES + 16}M /work")
        guest.command(f"dd if=/dev/urandom of=/work/1 bs=1M count={FILE_MIB} 2>/dev/null", 120)
        for copy in range(2, COPIES + 1):
            guest.command(f"cp /work/1 /work/{copy}", 120)
        sums = guest.command("md5sum /work/* | cut -d' ' -f1 | sort -u", 180)
        assert len(sums.split()) == 1, "what it has swapped out came back as it was"
        swapped = int(guest.command("awk 'END { print $4 }' /proc/swaps")) << 10
        assert swapped > FILE_MIB * MIB
        assert volume("touched") > swapped // 2 and volume("shared") > 8 * MIB
        assert volume("stored") < volume("touched") * 0.75, "the copies are stored once"
        touched = volume("touched")
        # A worker of the guest discards clusters of 2 MiB that are empty. How many are, depends on where pages of the
        # guest's programs have gone, each of which keeps its cluster. `swapoff` waits for the worker.
        guest.command("rm /work/* && swapoff /dev/vda", 120)
        assert HEADER_BYTES < volume("touched") < touched, "clusters that the guest has emptied are freed here"
        guest.command("swapon -d /dev/vda", 120)
        assert volume("touched") == HEADER_BYTES, "and all of them when it begins anew"
    disk.unlink()
    assert mounted.umount().returncode == 0
