"""A real QEMU guest whose memory is a file of the mount: it works, is evicted, and finds every byte as it left it."""

from __future__ import annotations

import json

import pytest
from guestlab import work
from guestlab.guest import Guest

from tests.daemon.lab import NEEDS_QEMU, Mounted, blockstore, one_line

pytestmark = [
    pytest.mark.mount,
    pytest.mark.guest,
    NEEDS_QEMU,
]

MEMORY_BYTES = 128 << 20
WORK_MIB = 24


def test_a_guest_survives_the_eviction_of_its_memory(mounted: Mounted) -> None:
    """libvirt and Nova make nested folders below `memory_backing_dir`; so does this test."""
    folder = mounted.path / "tenant/libvirt/qemu"
    folder.mkdir(parents=True)
    name = "tenant/libvirt/qemu/vm"
    with Guest("vm", MEMORY_BYTES, folder / "vm") as guest:
        guest.wait_ready(120)
        work.fill_mixed(guest, WORK_MIB)
        for _ in range(2):
            result = blockstore("evict", str(mounted.path), "--json")
            assert result.returncode == 0 and not result.stderr, result
            evicted = json.loads(result.stdout)[name]
            # The guest runs on and takes back what it uses; most of its memory it does not use.
            assert evicted["after"] <= evicted["before"] / 2
            volume = mounted.status()["volumes"][name]
            assert volume["logical"] == MEMORY_BYTES and volume["touched"] > WORK_MIB << 20
            assert volume["touched"] == sum(
                volume[word] for word in ("zero", "shared", "patched", "compressed", "dense", "raw")
            )
            assert volume["stored"] < volume["touched"] * 0.6
            assert work.verify(guest) == [] and work.verified_files(guest) > 0
        one_line(mounted.umount(), 3, mounted.path)
        assert guest.command("echo still here", timeout_s=30) == "still here\n", "a refused umount harms nobody"
    assert mounted.umount().returncode == 0
