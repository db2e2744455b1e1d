"""A guest that is saved and started again goes on where it was, with the memory that it had."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from benchlab.bench import Bench
from benchlab.machine import Noise
from benchlab.mounts import Workspace
from benchlab.saved import saved_cost, saved_guests, saved_run
from benchlab.saved.saved_sets import MIB, GuestSet, Light, Plan
from guestlab import work

from tests.daemon.lab import NEEDS_QEMU

pytestmark = [
    pytest.mark.guest,
    NEEDS_QEMU,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

LOAD_S = 240.0
GUESTS = GuestSet("test", (Plan("one", light=(Light("true", 3, 2),)),), memory_bytes=128 * MIB, debian=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(None, Workspace(tmp_path, tmp_path), Noise(), quick=True)


def test_guest_goes_on_where_it_was_saved(bench: Bench, tmp_path: Path) -> None:
    (saved,) = saved_guests.save(bench, GUESTS, tmp_path)
    for _ in range(2):  # nothing of the first time is left in the second
        with saved_guests.started([saved], lambda _: Path(), lambda _: saved_run.command(128 * MIB)) as guests:
            guest = guests["one"]
            saved_guests.go_on([guest])
            assert "SUMS" in guest.command("ls /work") and "mark" not in guest.command("ls /work")
            guest.command("touch /work/mark")
            assert saved_guests.wrong_files(guest) == []
            assert work.verified_files(guest) > 0
            found = saved_cost.of_guest(saved_cost.qemu_of(guest.pid), 128 * MIB)
            assert 32 * MIB < found.rss < 128 * MIB and not found.swap
            saved_guests.begin_load(guest)
            deadline = time.monotonic() + LOAD_S
            while not saved_guests.has_ended_load(guest):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            progress = saved_guests.end_load(guest)
            assert [done for _, done in progress.steps] == [0, 3, 6]
