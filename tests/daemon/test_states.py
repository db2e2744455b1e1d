"""Where states are by default, and deleting one while a mount begins with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockstore.daemon import phase
from blockstore.daemon.states import check_default_states, default_state, remove_state
from blockstore.errors import InputError
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


@pytest.mark.parametrize("kind", ["another's", "everybody's", "link"])
def test_the_folder_of_states_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    states = tmp_path / "states"
    monkeypatch.setattr("blockstore.daemon.states.default_states", lambda: states)
    state = default_state(tmp_path)
    states.mkdir(mode=0o700)
    check_default_states(state)
    if kind == "another's":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(states, 1234, 1234)
    elif kind == "everybody's":
        states.chmod(0o777)
    else:
        states.rename(tmp_path / "moved")
        states.symlink_to("moved")
    with pytest.raises(InputError, match=f"{states}.*--state"):
        check_default_states(state)
    check_default_states(tmp_path / "named")
