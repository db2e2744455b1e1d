"""Which tier a state has: what is remembered, and what is refused with which words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from blockstore.daemon.tiers import spill
from blockstore.errors import InputError, MountError, StateError
from blockstore.store.moves.mover import Mover
from blockstore.store.state.home import DirectoryHome
from blockstore.store.store import Store
from tests.store.material import noise, put


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(DirectoryHome(state), 16 << 20)
    yield store
    store.close()


def mount(state: Path, store: Store, url: str) -> list[str]:
    """As a first daemon does it, and its end; the warnings."""
    tier, warnings = spill.open_for_mount(state, store, url, takes_over=False)
    if tier is not None:
        tier.close()
    return warnings


def page_out(state: Path, store: Store) -> None:
    put(store, store.create_volume(1, 1), 0, b"".join(map(noise, range(300))))
    tier = spill.open_remembered(state, store)
    assert tier is not None
    while Mover(store.paging, store.pool, tier, nullcontext()).out():
        pass
    tier.close()
    assert store.pool.pieces.count == 1


def discard(state: Path) -> None:
    home = DirectoryHome(state)
    try:
        spill.discard(home)
    finally:
        home.close()


def test_none(state: Path, store: Store) -> None:
    assert spill.open_for_mount(state, store, "", takes_over=False) == (None, [])
    assert spill.open_remembered(state, store) is None and not (state / spill.NAME).exists()
    store.close()
    discard(state)


def test_it_is_remembered(state: Path, store: Store, tmp_path: Path) -> None:
    assert mount(state, store, f"file:{tmp_path}/a tier") == [] == mount(state, store, "")
    tier = spill.open_remembered(state, store)
    assert tier is not None and tier.describe() == f"file:{tmp_path}/a tier"
    assert (state / spill.NAME).stat().st_mode & 0o777 == 0o600


def test_an_empty_one_may_be_exchanged_and_no_other(state: Path, store: Store, tmp_path: Path) -> None:
    mount(state, store, f"file:{tmp_path}/first")
    mount(state, store, f"file:{tmp_path}/second")
    page_out(state, store)
    with pytest.raises(InputError, match=f"1 pieces of the VMs' memory are in --spill file:{tmp_path}/second; mount"):
        mount(state, store, f"file:{tmp_path}/third")
    assert not (tmp_path / "third").exists()
    assert mount(state, store, f"file:{tmp_path}/second") == []


def test_one_that_has_pieces_may_be_away_and_is_not_made_anew(state: Path, store: Store, tmp_path: Path) -> None:
    url = f"file:{tmp_path}/tier"
    mount(state, store, url)
    page_out(state, store)
    (tmp_path / "tier").unlink()
    assert mount(state, store, "") == [f"the tier {url} is not there; what is in the tier is waited for"]
    assert not (tmp_path / "tier").exists()


def test_a_state_that_does_not_know_where_its_pieces_are(state: Path, store: Store, tmp_path: Path) -> None:
    mount(state, store, f"file:{tmp_path}/tier")
    page_out(state, store)
    (state / spill.NAME).unlink()
    with pytest.raises(StateError, match="the file 'spill', which names it, is missing"):
        mount(state, store, f"file:{tmp_path}/tier")
    with pytest.raises(StateError, match="is missing"):
        spill.open_remembered(state, store)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/var/lib/tier", "names no tier: use file:/PATH or valkey://HOST:PORT"),
        ("file:tier", "names no tier"),
        ("file:{place}", "Is a directory"),
        ("file:{place}/missing/tier", "No such file or directory"),
        ("file:{place}/text", "holds something else than a tier of blockstore; name another file"),
        ("valkey://:secret@host", "holds a password"),
    ],
)
def test_what_is_refused(state: Path, store: Store, tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "text").write_text("something else\n" * 1000)
    with pytest.raises(InputError) as caught:
        mount(state, store, url.format(place=tmp_path))
    assert words in str(caught.value) and "secret" not in str(caught.value)
    assert not (state / spill.NAME).exists()


def test_one_that_is_away_may_come_later(state: Path, store: Store) -> None:
    """Not bad input, after which systemd would not try again: after a reboot its server may start last."""
    with pytest.raises(MountError, match="cannot be used: "):
        mount(state, store, "valkey://127.0.0.1:1")
    assert not (state / spill.NAME).exists()


def test_another_stores(state: Path, store: Store, tmp_path: Path) -> None:
    other = Store(DirectoryHome(tmp_path / "other"), 16 << 20)
    mount(tmp_path / "other", other, f"file:{tmp_path}/tier")
    page_out(tmp_path / "other", other)
    other.close()
    with pytest.raises(InputError, match="is another store's, and holds memory of its VMs; name another file"):
        mount(state, store, f"file:{tmp_path}/tier")


def test_discard(state: Path, store: Store, tmp_path: Path) -> None:
    mount(state, store, f"file:{tmp_path}/tier")
    page_out(state, store)
    store.close()
    discard(state)
    assert not os.path.exists(tmp_path / "tier")
    with pytest.raises(MountError, match="is not there"):
        discard(state)
