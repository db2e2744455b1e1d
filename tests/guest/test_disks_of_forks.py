"""A guest with a disk and a network card is forked: each fork goes on with the disk as it was, on its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guestlab.guest import Guest

from blockstore.vm.qemu import mac
from tests.daemon.lab import NEEDS_QEMU, Lab, Mounted, blockstore, one_line, until
from tests.guest.test_snapshot_of_a_guest import MEMORY_BYTES, NAME, ask, forked, wait_restored

pytestmark = [
    pytest.mark.mount,
    pytest.mark.guest,
    NEEDS_QEMU,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img (Debian: qemu-utils)"),
]

FORKS = (f"{NAME}-1", f"{NAME}-2")
SOURCE_MAC = "52:54:00:00:00:01"

HOOK = """#!/bin/sh
echo "tag ip link set eth0 address $BLOCKSTORE_MAC"
"""
"""As in docs/snapshots.md: it does not wait for an answer, and all of it must reach the guest."""


def say(text: str, place: int) -> str:
    """Has a guest write to its disk, past its page cache."""
    return f"printf %-512s {text} | dd of=/dev/vda bs=512 seek={place} oflag=direct conv=notrunc 2>/dev/null"


def read(*places: int) -> str:
    """Has a guest read that again."""
    return "; ".join(f"dd if=/dev/vda bs=512 count=1 skip={place} iflag=direct 2>/dev/null" for place in places)


def test_disks_and_addresses(lab: Lab) -> None:
    mounted, on = lab.mount(), ("--mount", str(lab.path / "mnt"))
    folder, disk = lab.path / "overlays", lab.path / "disk.raw"
    folder.mkdir()
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    with guest(mounted, "run", NAME, "--memory", "128M", "--", disk=f"file={disk},format=raw") as source:
        source.wait_ready(120)
        source.command(say("before", 5))
        with forked(mounted):
            hook = lab.path / "hook"
            hook.write_text(HOOK)
            hook.chmod(0o755)
            result = blockstore("fork", NAME, "--count", "2", "--disks", str(folder), "--hook", str(hook), *on)
            assert result.returncode == 0 and result.stdout.split() == list(FORKS), result
            assert f"{NAME} writes to {folder}/{NAME}.disk1." in result.stderr and str(disk) in result.stderr
            base = disk.read_bytes()
            _check_forks(mounted, source)
        assert source.command("cat /sys/class/net/eth0/address").strip() == SOURCE_MAC
        one_line(blockstore("fork", NAME, "--disks", str(folder), *on), 3, f"{FORKS[0]}.disk1.qcow2", "rm ")
        _check_restored(mounted, source, folder)
    assert disk.read_bytes() == base and base[5 * 512 :].startswith(b"before"), "nobody writes to the base"
    for path in folder.iterdir():
        subprocess.run(["qemu-img", "check", path], check=True, capture_output=True, timeout=60)


def _check_forks(mounted: Mounted, source: Guest) -> None:
    for name in FORKS:
        assert ask(mounted, name, read(5)).split() == ["before"], "it sees what was written before"
        ask(mounted, name, say(f"by-{name}", 5) + "; " + say(f"by-{name}", 9))
        assert ask(mounted, name, "cat /sys/class/net/eth0/address") == mac.of(name)
    source.command(say("by-source", 9))
    for name in FORKS:
        assert ask(mounted, name, read(5, 9)).split() == [f"by-{name}"] * 2, "and nothing of the others"
    assert source.command(read(5, 9)).split() == ["before", "by-source"]


def _check_restored(mounted: Mounted, source: Guest, folder: Path) -> None:
    """The VM's disk is an overlay by now, and becomes a base."""
    on = ("--mount", str(mounted.path))
    result = blockstore("snapshot", NAME, "base", "--disks", str(folder), *on)
    assert result.returncode == 0 and f"{NAME} writes to" in result.stderr, result
    source.command(say("later", 9))
    (base,) = json.loads(blockstore("snapshots", "show", "base", "--json", *on).stdout)["disks"]
    assert Path(base).parent == folder
    line = ("restore", "base", "--as", f"{NAME}-r", "--")
    with guest(mounted, *line, disk="file={disk1},format=qcow2", address="{mac}") as restored:
        wait_restored(restored)
        assert restored.command(read(5, 9)).split() == ["before", "by-source"]
        restored.command(say("restored", 9))
        assert restored.command("cat /sys/class/net/eth0/address").strip() == SOURCE_MAC, "it is in the device state"
    assert source.command(read(5, 9)).split() == ["before", "later"]
    again = ("restore", "base", "--as", f"{NAME}-s", *on)
    moved = Path(base).with_suffix(".away")
    os.rename(base, moved)
    one_line(blockstore(*again), 2, base, "the snapshot base", "No such file")
    os.rename(moved, base)
    os.utime(base)
    one_line(blockstore(*again), 2, base, "has been written to since the snapshot base was taken")


@contextmanager
def guest(mounted: Mounted, *command: str, disk: str, address: str = SOURCE_MAC) -> Iterator[Guest]:
    """One that is started by a command of ours."""
    run = [sys.executable, "-m", "blockstore", *command[:-1], "--mount", str(mounted.path), "--"]
    name = command[command.index("--as") + 1] if "--as" in command else NAME
    devices = [
        "-drive",
        f"{disk},if=virtio",
        "-netdev",
        "user,id=n",
        "-device",
        f"virtio-net-pci,netdev=n,mac={address}",
    ]
    with Guest(
        name, MEMORY_BYTES, mounted.path / name, runner=run, free_page_reporting=True, extra_args=devices
    ) as started:
        yield started
    until(lambda: not (mounted.path / name).exists(), "its memory is gone with it")
