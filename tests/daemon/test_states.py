"""Deleting a state while a mount begins with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.daemon import phase
from blockstore.daemon.states import remove_state
from blockstore.store.home import LOCK_NAME


def test_no_mount_begins_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks go last; a mount that begins after that keeps what it has made."""
    state, gone = tmp_path / "state", list[str]()
    state.mkdir()
    for name in (*(f"volume-{number}" for number in range(20)), phase.NAME, LOCK_NAME, *"abcdefghij"):
        (state / name).touch()
    unlink = Path.unlink

    def unlink_and_begin(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        gone.append(path.name)
        if path.name == phase.NAME:
            path.touch()

    monkeypatch.setattr(Path, "unlink", unlink_and_begin)
    remove_state(state)
    assert len(gone) == 32 and gone[-2:] == [LOCK_NAME, phase.NAME]
    assert [entry.name for entry in state.iterdir()] == [phase.NAME]
