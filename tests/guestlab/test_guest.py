"""A busybox guest on a plain memory file: it works, every wrong byte shows, and it leaves nothing running."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from guestlab import work
from guestlab.errors import GuestLabError
from guestlab.guest import Guest

from tests.daemon.lab import NEEDS_QEMU

pytestmark = [
    pytest.mark.guest,
    NEEDS_QEMU,
]

MEMORY_BYTES = 128 << 20
SUMS = "/work/SUMS"


@pytest.fixture(scope="module")
def guest(memory_folder: Path) -> Iterator[Guest]:
    """One guest for all tests of this module; each leaves it with correct sums."""
    with Guest("test", MEMORY_BYTES, memory_folder / "test.ram") as running:
        running.wait_ready(90)
        with pytest.raises(GuestLabError, match="no sums"):
            work.verify(running)
        for kind in work.KINDS:
            work.fill(running, 4, kind)
        yield running


def files(guest: Guest) -> list[str]:
    return [line.split()[1] for line in guest.command(f"cat {SUMS}").splitlines()]


def test_filled_memory_verifies(guest: Guest) -> None:
    assert work.verified_files(guest) == len(files(guest)) == len(work.KINDS)
    assert work.verify(guest) == []
    assert guest.memory_path.stat().st_size == MEMORY_BYTES
    assert guest.memory_path.stat().st_blocks * 512 > 12 << 20


def test_wrong_sum_is_detected(guest: Guest) -> None:
    wronged = files(guest)[1]
    right = guest.command(f"cat {SUMS}").splitlines()[1]
    wrong = re.sub("^.", lambda digit: "0" if digit.group() != "0" else "1", right)
    guest.command(f"sed -i '2s/.*/{wrong.replace('/', chr(92) + '/')}/' {SUMS}")
    assert work.verify(guest) == [wronged]
    guest.command(f"sed -i '2s/.*/{right.replace('/', chr(92) + '/')}/' {SUMS}")
    assert work.verify(guest) == []


def test_wrong_byte_in_the_memory_file_is_detected(guest: Guest) -> None:
    random_file = next(path for path in files(guest) if "/random." in path)
    start = bytes.fromhex(guest.command(f"head -c 64 {random_file} | xxd -p | tr -d '\\n'"))
    assert len(start) == 64
    guest.pause()
    places = [match.start() for match in re.finditer(re.escape(start), guest.memory_path.read_bytes())]
    assert any(place % 4096 == 0 for place in places)
    overwrite(guest.memory_path, places, bytes([start[0] ^ 1]))
    guest.resume()
    assert work.verify(guest) == [random_file]
    overwrite(guest.memory_path, places, start[:1])
    assert work.verify(guest) == []


def test_failed_commands_raise(guest: Guest) -> None:
    with pytest.raises(GuestLabError, match="status 3"):
        guest.command("echo no; exit 3")
    assert guest.command("echo no; exit 3", check=False) == "no\n"
    with pytest.raises(GuestLabError, match="one line"):
        guest.command("echo 1\necho 2")
    with pytest.raises(GuestLabError, match="did not finish"):
        guest.command("sleep 2", timeout_s=0.2)
    assert guest.command("echo still here", timeout_s=30) == "still here\n"


def test_close_leaves_no_process(guest: Guest) -> None:
    """The last test: it closes the guest."""
    pid = guest.pid
    assert str(guest.memory_path) in Path(f"/proc/{pid}/cmdline").read_text()
    guest.close()
    assert not Path(f"/proc/{pid}").exists()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        assert str(guest.memory_path) not in read_if_there(cmdline)
    assert guest.memory_path.stat().st_size == MEMORY_BYTES
    with pytest.raises(GuestLabError, match="not running"):
        guest.command("true")
    guest.close()


def test_bad_memory_size_is_refused(memory_folder: Path) -> None:
    with pytest.raises(GuestLabError, match="whole number of MiB"):
        Guest("odd", (1 << 20) + 4096, memory_folder / "odd.ram")


def overwrite(path: Path, places: list[int], data: bytes) -> None:
    with path.open("r+b", buffering=0) as memory:
        for place in places:
            memory.seek(place)
            memory.write(data)


def read_if_there(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return ""
