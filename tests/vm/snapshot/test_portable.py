"""Exported snapshots: the same again after import, and refused when anything of them is missing or changed."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BusyError, InputError, MountError
from blockstore.vm.snapshot import portable, snapshot_file
from tests.store.material import noise, text
from tests.vm.snapshot.test_snapshot_file import MIB, fill

MEMORY_BYTES = 3 * MIB


def nothing(done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    (tmp_path / "mnt").mkdir()
    return Mount(tmp_path / "mnt", "0:1", tmp_path)


@pytest.fixture
def exported(mount: Mount, tmp_path: Path) -> Path:
    with snapshot_file.making(mount, "") as (path, descriptor):
        for place in (0, 1, 2, 5, 255):
            os.pwrite(descriptor, text(place) if place % 2 else noise(place), place * 4096)
        fill(descriptor, noise(9) * 3)
        snapshot_file.publish(mount, path, snapshot_file.place_of(mount, "", "base"))
    target = tmp_path / "base.bsnap"
    portable.export(snapshot_file.find(mount, "base"), target, nothing)
    return target


def take_in(mount: Mount, source: Path) -> snapshot_file.Snapshot:
    place = snapshot_file.place_of(mount, "", "again")
    with snapshot_file.making(mount, "") as (path, descriptor):
        portable.import_into(source, descriptor, nothing)
        snapshot_file.publish(mount, path, place)
    return snapshot_file.find(mount, "again")


def test_there_and_back(mount: Mount, exported: Path) -> None:
    base, again = snapshot_file.find(mount, "base"), take_in(mount, exported)
    assert again.path.read_bytes() == base.path.read_bytes()
    assert again.facts == base.facts and again.device_state() == noise(9) * 3
    assert portable.read_header(exported) == ("base", MIB)
    assert exported.stat().st_size < 8 * 4096, "zeros are left out, the rest is compressed"
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600, "the memory of a VM is nobody else's business"


def test_export_replaces_nothing_and_leaves_nothing(mount: Mount, exported: Path) -> None:
    before, base = exported.read_bytes(), snapshot_file.find(mount, "base")
    with pytest.raises(BusyError, match=r"base\.bsnap is there"):
        portable.export(base, exported, nothing)
    with pytest.raises(MountError, match="nowhere"):
        portable.export(base, exported.parent / "nowhere/x.bsnap", nothing)
    assert exported.read_bytes() == before
    assert sorted(os.listdir(exported.parent)) == ["base.bsnap", "mnt"]


def test_one_that_is_cut_off_anywhere_is_refused(mount: Mount, exported: Path) -> None:
    whole = exported.read_bytes()
    for length in [*range(0, len(whole) - 100, len(whole) // 97), *range(len(whole) - 90, len(whole))]:
        exported.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"base\.bsnap.* is (cut off|no exported snapshot)"):
            take_in(mount, exported)
    assert os.listdir(mount.path) == [".base.snapshot"]


def test_one_that_was_altered_anywhere_is_refused(mount: Mount, exported: Path) -> None:
    whole, chance = exported.read_bytes(), random.Random(5)
    places = {*range(60), *chance.sample(range(len(whole)), 200), *range(len(whole) - 76, len(whole))}
    for place in sorted(places):
        exported.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"base\.bsnap"):
            take_in(mount, exported)
    exported.write_bytes(whole + b"x")
    with pytest.raises(InputError, match="altered"):
        take_in(mount, exported)
    assert os.listdir(mount.path) == [".base.snapshot"], "nothing half-made is left"
