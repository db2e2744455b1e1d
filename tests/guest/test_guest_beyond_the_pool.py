"""A guest that uses more memory than the pool holds: it works, and finds every byte as it left it."""

from __future__ import annotations

from pathlib import Path

import pytest
from guestlab import work
from guestlab.guest import Guest

from tests.daemon.lab import NEEDS_QEMU, Lab, blockstore

pytestmark = [pytest.mark.mount, pytest.mark.guest, NEEDS_QEMU]

MEMORY_BYTES = 128 << 20
WORK_MIB = 6


def test_a_guest_works_while_most_of_it_is_in_the_tier(lab: Lab, tmp_path: Path) -> None:
    mounted = lab.mount("--spill", f"file:{tmp_path}/tier", pool_limit="8M")
    with Guest("vm", MEMORY_BYTES, mounted.path / "vm") as guest:
        guest.wait_ready(120)
        work.fill_mixed(guest, WORK_MIB)
        mounted.evict()
        assert work.verify(guest) == [] and work.verified_files(guest) > 0
        total = mounted.total()
        assert total["paged"] > 8 << 20 and total["pool"] <= 8 << 20, total
    assert total["tier_latency"]["sum_us"]
    result = blockstore("verify", str(mounted.path))
    assert result.returncode == 0, result
