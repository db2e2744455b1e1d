"""Growable arrays in files: they keep what they held, and a full file system is an exception, never a signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import OutOfRoom
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.state.shared_array import SharedArray, Typecode
from tests.store.columns import column

FULL = """
import sys
from pathlib import Path
from blockstore.errors import OutOfRoom
from blockstore.store.state.home import DirectoryHome
from blockstore.store.state.shared_array import SharedArray

array = SharedArray(DirectoryHome(Path(sys.argv[1])), "array", "Q", 4096, most=1 << 22)
array.items[:] = memoryview(bytes([7] + [0] * 7) * array.capacity).cast("Q")
try:
    for _ in range(1000):
        array.grow(array.capacity + 4096)
        array.items[-4096:] = memoryview(bytes([7] + [0] * 7) * 4096).cast("Q")
    print("never full")
except OutOfRoom as error:
    assert sys.argv[1] in str(error), error
    assert set(array.items) == {7} and len(array.items) == array.capacity
    array.items[array.capacity - 1] = 8
    print("out of room at", array.size_bytes)
"""

FULL_STORE = """
import random, sys
from pathlib import Path
from blockstore.errors import OutOfRoom
from blockstore.store.state.home import DirectoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from tests.store.invariants import check_state
from tests.store.places import Directory
from tests.store.state_files import State

path = Path(sys.argv[1])
files = Directory(path)
store = Store(DirectoryHome(path), 1 << 30)
first = store.create_volume(1, 1)
second = store.create_volume(2, 1)
chance, written = random.Random(1), []
try:
    while True:
        data = chance.randbytes(16 * 4096)
        run(store.write_steps(first, len(written) * len(data), data))
        written.append(data)
except OutOfRoom:
    check_state(State(files), decode=True)
whole = b"".join(written)
assert store.read(first, 0, len(whole)) == whole
number = 3
try:
    while True:
        store.create_volume(number, number)
        number += 1
except OutOfRoom as error:
    assert str(path) in str(error)
check_state(State(files))
try:
    for block in range(0, 1 << 28, 1 << 22):
        run(store.write_steps(second, block, b"x"))
except OutOfRoom:
    check_state(State(files))
run(store.discard_steps(first, len(whole) // 2, len(whole)))
run(store.write_steps(second, 0, b"y" * 4096))
check_state(State(files), decode=True)
half = len(whole) // 2
assert store.read(first, 0, len(whole)) == whole[:half] + bytes(len(whole) - half)
store.close()
store = Store(DirectoryHome(path), 1 << 30)
check_state(State(files), decode=True)
assert store.read(store.volumes[1], 0, len(whole)) == whole[:half] + bytes(len(whole) - half)
print("out of room after", len(written), "writes and", number, "volumes")
"""


@pytest.mark.parametrize(("typecode", "width"), (("B", 1), ("H", 2), ("I", 4), ("Q", 8)))
def test_growth_keeps_and_adds_zeros(typecode: Typecode, width: int) -> None:
    array = SharedArray(MemoryHome(), "array", typecode, 10, most=1 << 16)
    assert array.capacity >= 10 and array.size_bytes == array.capacity * width
    assert not column(array).any()
    first = array.capacity
    column(array)[:] = np.arange(first) & 0x7F
    array.grow(first)
    assert array.capacity == first
    array.grow(first + 1)
    assert array.capacity > first and len(array.items) == array.capacity
    assert (column(array)[:first] == np.arange(first) & 0x7F).all() and not column(array)[first:].any()
    array.close()


def test_growth_moves_nothing_and_leaves_views_as_they_are() -> None:
    array = SharedArray(MemoryHome(), "array", "Q", 512, most=1 << 20)
    items, address = array.items, column(array).ctypes.data
    mappings = Path("/proc/self/maps").read_text().count("blockstore-array")
    for capacity in range(1024, 1 << 16, 4096):
        array.grow(capacity)
        array.items[capacity - 1] = capacity
    assert column(array).ctypes.data == address
    assert Path("/proc/self/maps").read_text().count("blockstore-array") == mappings
    array.items[511] = 3
    assert len(items) == 512 and items[511] == 3
    array.close()
    items[510] = 4
    assert items[510] == 4, "a view outlives the array"


def test_more_than_the_largest_size_is_out_of_room() -> None:
    array = SharedArray(MemoryHome(), "table", "Q", 512, most=1024)
    array.items[511] = 5
    with pytest.raises(OutOfRoom, match=r"table under .* has 1024 entries"):
        array.grow(1025)
    assert array.capacity == 512 and array.items[511] == 5
    array.grow(1024)
    array.close()


def test_an_array_outlives_its_object(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    array = SharedArray(home, "array", "I", 1000, most=1 << 16)
    array.grow(5000)
    capacity = array.capacity
    array.items[4999] = 42
    array.close()
    array = SharedArray(home, "array", "I", 1000, most=1 << 16)
    assert array.capacity == capacity and array.items[4999] == 42
    array.close()
    home.close()


def test_every_byte_is_allocated_before_it_is_touched(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    array = SharedArray(home, "array", "Q", 4096, most=1 << 22)
    array.grow(100_000)
    assert (state_path / "array").stat().st_blocks * 512 >= array.size_bytes
    array.close()
    home.close()


@pytest.mark.parametrize(("program", "megabytes"), ((FULL, 2), (FULL_STORE, 12)))
def test_a_full_file_system_is_out_of_room_and_no_signal(tmp_path: Path, program: str, megabytes: int) -> None:
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "state")],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            timeout=100,
        )
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out of room")
