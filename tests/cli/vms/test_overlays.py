"""`blockstore disks`: what is needed is never deleted. No VM: qemu-img makes the overlays, and a lock is a QEMU's."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from blockstore.vm.snapshot.overlay_files import overlays_in
from blockstore.vm.snapshot.overlays import base_of
from tests.cli.vms.test_push import MEMORY_BYTES, keep
from tests.cli.vms.test_run import on
from tests.daemon.lab import Lab, blockstore, one_line, run

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img (Debian: qemu-utils)")


def overlay(path: Path, base: Path, base_format: str = "qcow2") -> Path:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", str(base), str(path)]
    assert run(command).returncode == 0
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(1 << 20)
    return disk


def needed_by(folder: Path) -> dict[str, str]:
    return {each.path.name: each.needed_by for each in overlays_in([folder], [])}


@needs_qemu_img
def test_what_an_overlay_is_needed_by(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "note.disk1.qcow2").write_text("somebody's")
    overlay(tmp_path / "other.qcow2", disk, "raw")
    went_on = overlay(tmp_path / "blue-vm1.disk1.0123abcd.qcow2", disk, "raw")
    fork = overlay(tmp_path / "vm1-1.disk1.qcow2", went_on)
    assert needed_by(tmp_path) == {went_on.name: f"the overlay {fork.name}", fork.name: ""}
    with fork.open("rb") as file:  # as QEMU does that has it open, to read only
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))
        assert needed_by(tmp_path)[fork.name] == "a VM that runs"
    assert not needed_by(tmp_path)[fork.name]
    fork.unlink()
    assert needed_by(tmp_path) == {went_on.name: "blue-vm1, whose disk it is by now"}


@needs_qemu_img
@pytest.mark.parametrize(
    "named", ["{}", "file:{}", 'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{}"}}}}']
)
def test_what_lies_on_an_overlay_may_have_any_name(tmp_path: Path, disk: Path, named: str) -> None:
    folder, elsewhere = tmp_path / "overlays", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    fork = overlay(folder / "vm1-1.disk1.qcow2", disk, "raw")
    on_it = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", named.format(fork)]
    assert run([*on_it, str(folder / "work.qcow2")]).returncode == 0
    assert needed_by(folder) == {fork.name: "the overlay work.qcow2"}
    (folder / "work.qcow2").rename(elsewhere / "far.disk1.qcow2")
    assert needed_by(folder) == {fork.name: ""}
    (folder / "link").symlink_to(elsewhere / "far.disk1.qcow2")
    assert needed_by(folder) == {fork.name: "the overlay far.disk1.qcow2"}


@needs_qemu_img
def test_what_is_no_file_is_no_overlay(tmp_path: Path, disk: Path) -> None:
    fork = overlay(tmp_path / "vm1-1.disk1.qcow2", disk, "raw")
    os.mkfifo(tmp_path / "vm2.disk1.qcow2")
    (tmp_path / "vm3.disk1.qcow2").mkdir()
    (tmp_path / "vm4.disk1.qcow2").symlink_to("nowhere")
    assert needed_by(tmp_path) == {fork.name: ""}


@pytest.mark.mount
@needs_qemu_img
def test_delete(lab: Lab, disk: Path) -> None:
    folder = lab.path / "overlays"
    folder.mkdir()
    went_on = overlay(folder / "vm1.disk1.0123abcd.qcow2", disk, "raw")
    ended, lower = folder / "vm1-1.disk1.qcow2", overlay(folder / "vm1-3.disk1.qcow2", went_on)
    kept = overlay(folder / "blue-vm2.disk1.qcow2", went_on)
    overlay(ended, lower)
    mounted = lab.mount()
    (mounted.path / "blue").mkdir()
    (mounted.path / "blue/vm2").touch()
    snapped = overlay(folder / "vm1-4.disk1.qcow2", went_on)
    keep(mounted, "base", bytes(MEMORY_BYTES), base_of("qcow2", [snapped, went_on, disk]))
    listed = blockstore("disks", *on(mounted), str(folder))
    assert listed.returncode == 0 and listed.stdout.count("\n") == 5 and "needed by the snapshot base" in listed.stdout
    assert "needed by nothing" in listed.stdout and "needed by the memory file blue/vm2" in listed.stdout, listed
    told = json.loads(blockstore("disks", *on(mounted), str(folder), "--json").stdout)
    assert (told[str(kept)]["vm"], told[str(ended)]["vm"]) == ("blue/vm2", "vm1-1"), told
    done = blockstore("disks", *on(mounted), str(folder), "--delete", "--json")
    assert done.returncode == 0 and set(json.loads(done.stdout)) == {str(ended), str(lower)}, done
    assert {folder / name for name in os.listdir(folder)} == {went_on, kept, snapped}
    one_line(blockstore("disks", *on(mounted), f"{folder}/nowhere"), 2, f"{folder}/nowhere", "--disks")
