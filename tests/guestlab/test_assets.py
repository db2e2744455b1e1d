"""assets.cached_or_built: made once, seen whole or not at all, whatever happens to the one who makes it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from guestlab import assets
from guestlab.errors import GuestLabError

NAME = "thing-1"
CONTENT = b"whole" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BLOCKSTORE_CACHE", str(folder))
    return folder


def build(partial: Path) -> None:
    partial.write_bytes(CONTENT)


def never(partial: Path) -> None:
    raise AssertionError(f"{partial} was built again")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_built_once_then_reused(cache: Path) -> None:
    made = assets.cached_or_built(NAME, build)
    assert made == cache / NAME
    assert made.read_bytes() == CONTENT
    assert assets.cached_or_built(NAME, never) == made
    assert names(cache) == {NAME}


def test_folders_are_built_too(cache: Path) -> None:
    def build_folder(partial: Path) -> None:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "file").write_bytes(CONTENT)

    assert (assets.cached_or_built(NAME, build_folder) / "inner" / "file").read_bytes() == CONTENT
    assert names(cache) == {NAME}


def test_half_built_is_never_seen(cache: Path) -> None:
    def build_in_two_steps(partial: Path) -> None:
        partial.write_bytes(CONTENT[:100])
        assert not (cache / NAME).exists()
        build(partial)
        assert not (cache / NAME).exists()

    assert assets.cached_or_built(NAME, build_in_two_steps).read_bytes() == CONTENT


@pytest.mark.parametrize("error", [GuestLabError("no mirror"), OSError(28, "full"), KeyboardInterrupt()])
def test_failed_build_leaves_nothing(cache: Path, error: BaseException) -> None:
    def fail(partial: Path) -> None:
        partial.write_bytes(CONTENT[:100])
        raise error

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else GuestLabError):
        assets.cached_or_built(NAME, fail)
    assert names(cache) == set()
    assert assets.cached_or_built(NAME, build).read_bytes() == CONTENT


def test_build_that_makes_nothing_is_an_error(cache: Path) -> None:
    with pytest.raises(GuestLabError, match=NAME):
        assets.cached_or_built(NAME, lambda partial: None)
    assert names(cache) == set()


def killed_while_building(partial: Path) -> None:
    partial.write_bytes(CONTENT[:100])
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_build_is_cleaned_up_by_the_next(cache: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=assets.cached_or_built, args=(NAME, killed_while_building)
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    left = names(cache)
    assert NAME not in left
    assert len(left) == 1
    assert assets.cached_or_built(NAME, build).read_bytes() == CONTENT
    assert names(cache) == {NAME}


def test_built_once_by_many_at_a_time(cache: Path) -> None:
    builders: list[Path] = []

    def build_slowly(partial: Path) -> None:
        builders.append(partial)
        time.sleep(0.2)
        build(partial)

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: assets.cached_or_built(NAME, build_slowly), range(6)))
    assert set(made) == {cache / NAME}
    assert len(builders) == 1
