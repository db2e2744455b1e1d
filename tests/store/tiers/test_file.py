"""The file tier: what was acknowledged is there for the next process, and a full disk or another's file is said so."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockstore.errors import InputError
from blockstore.store.tiers import PieceMissing, TierAway, open_tier
from blockstore.store.tiers.file import EXTENT_BYTES, SLOTS_AT, FileTier

STORE, OTHER = b"\x01" * 16, b"\x02" * 16
MIB = 1 << 20


def data(seed: int, length: int = MIB) -> bytes:
    return random.Random(f"piece {seed}").randbytes(length)


def opened(path: Path, store_id: bytes = STORE) -> FileTier:
    tier = FileTier(str(path), store_id)
    tier.check()
    return tier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spill"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_pieces_outlive_the_process(path: Path) -> None:
    pid = os.fork()
    if not pid:
        try:
            tier = opened(path)
            for piece in (0, 3, 70):
                tier.put(piece, data(piece, MIB - piece))
            tier.delete(3)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    tier = opened(path)
    assert tier.pieces() == [0, 70]
    for piece in (0, 70):
        assert tier.read(piece, 0, MIB - piece) == data(piece, MIB - piece)
    assert tier.read(70, 5000, 100) == data(70, MIB - 70)[5000:5100]
    tier.close()
    assert tier.read(70, 0, 10) == data(70, MIB - 70)[:10], "it opens itself again"
    tier.close()


def test_what_is_not_there_is_missing(path: Path) -> None:
    tier = opened(path)
    tier.put(1, data(1, 1000))
    for piece, offset, length in ((0, 0, 1), (1, 0, 1001), (1, 999, 2), (100, 0, 1)):
        with pytest.raises(PieceMissing, match=str(path)):
            tier.read(piece, offset, length)
    tier.put(1, data(2, 10))
    assert tier.read(1, 0, 10) == data(2, 10)
    with pytest.raises(PieceMissing):
        tier.read(1, 0, 1000)
    tier.delete(1)
    tier.delete(1)
    tier.delete(1000)
    assert tier.pieces() == []
    with pytest.raises(PieceMissing):
        tier.read(1, 0, 1)
    tier.close()


def test_it_grows_by_extents_and_gives_back_what_is_deleted(path: Path) -> None:
    tier = opened(path)
    tier.put(0, data(0))
    assert path.stat().st_size == SLOTS_AT + EXTENT_BYTES
    before = path.stat().st_blocks
    assert before * 512 >= EXTENT_BYTES, "the extent has room on the disk"
    tier.delete(0)
    assert path.stat().st_blocks <= before - MIB // 512
    tier.close()


def test_its_pages_do_not_stay_in_memory(path: Path) -> None:
    tier = opened(path)
    for piece in range(8):
        tier.put(piece, data(piece))
        for number in range(60):  # parts of pages, as records are
            tier.read(piece, 16_384 * number + 100, 1800)
    result = subprocess.run(["fincore", "-bnro", "RES", str(path)], check=True, capture_output=True, text=True)
    assert int(result.stdout) < MIB // 4, result.stdout
    tier.close()


def test_several_threads_use_it(path: Path) -> None:
    tier = opened(path)

    def use(number: int) -> None:
        for round_ in range(5):
            piece = 10 * number + round_
            tier.put(piece, data(piece, 5000))
            assert tier.read(piece, 100, 4000) == data(piece, 5000)[100:4100]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(16)))
    assert len(tier.pieces()) == 80
    tier.close()


def test_a_full_disk_loses_nothing_and_is_said_so(small_disk: Path) -> None:
    tier = opened(small_disk / "spill")
    kept = 0
    with pytest.raises(TierAway, match="full"):
        while True:
            tier.put(kept, data(kept))
            kept += 1
    assert 5 <= kept <= 7 and tier.pieces() == list(range(kept))
    for piece in range(kept):
        assert tier.read(piece, 0, MIB) == data(piece)
    tier.delete(0)
    tier.put(kept, data(kept))
    assert tier.read(kept, 0, MIB) == data(kept)
    tier.close()


def test_one_file_serves_one_store(path: Path) -> None:
    tier = opened(path)
    tier.put(0, data(0))
    with pytest.raises(InputError, match="in use"):
        opened(path)
    tier.close()
    with pytest.raises(InputError, match="another store's"):
        opened(path, OTHER)
    with pytest.raises(TierAway, match="another store's"):
        FileTier(str(path), OTHER).pieces()
    tier.delete(0)
    tier.close()
    other = opened(path, OTHER)
    assert other.pieces() == [], "nothing of the other is left"
    other.close()
    with pytest.raises(TierAway):
        FileTier(str(path / "no"), STORE).pieces()


@pytest.mark.parametrize("text", [b"x" * 5000, b"short"])
def test_a_file_with_something_else_is_left_alone(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(InputError, match="something else"):
        opened(path)
    assert path.read_bytes() == text


def test_where_no_file_can_be(path: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none" / "spill", Path("/dev/null")):
        with pytest.raises(InputError, match=str(place)):
            opened(place)
    with pytest.raises(TierAway, match="not there"):
        FileTier(str(path), STORE).pieces()
    assert not path.exists(), "only check makes it"


def test_removed_with_its_store(path: Path) -> None:
    tier = opened(path)
    tier.remove()
    assert not path.exists()
    tier.close()


@pytest.mark.parametrize("url", ["", "file:", "file:relative", "ftp://there/", "/var/spill"])
def test_no_other_url_names_a_tier(url: str) -> None:
    with pytest.raises(InputError, match="names no tier"):
        open_tier(url, STORE)


def test_a_url_names_a_file(path: Path) -> None:
    assert open_tier(f"file:{path}", STORE).describe() == f"file:{path}"
