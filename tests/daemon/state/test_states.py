"""Where states are by default, and deleting one while a mount begins with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockstore.daemon.state.states import STATE_FILES, check_default_states, default_state, remove_state
from blockstore.daemon.supervise import phase_file
from blockstore.errors import InputError
from blockstore.store.state.home import LOCK_NAME
from tests.daemon.lab import Lab, put


def test_no_mount_begins_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks go last; a mount that begins after that keeps what it has made."""
    state, gone = tmp_path / "state", list[str]()
    state.mkdir()
    for name in (
        *(f"volume-{number}" for number in range(20)),
        phase_file.NAME,
        LOCK_NAME,
        *(f"rows-{letter}" for letter in "abcdefghij"),
    ):
        (state / name).touch()
    unlink = Path.unlink

    def unlink_and_begin(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        gone.append(path.name)
        if path.name == phase_file.NAME:
            path.touch()

    monkeypatch.setattr(Path, "unlink", unlink_and_begin)
    remove_state(state)
    assert len(gone) == 32 and gone[-2:] == [LOCK_NAME, phase_file.NAME]
    assert [entry.name for entry in state.iterdir()] == [phase_file.NAME]


def test_what_no_state_has_is_left_and_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    foreign = ["daemon", "pool.raw", "rows", "thesis.txt", "volume-x", "zeta"]
    for name in (
        "superblock",
        "pool",
        "volume-12",
        "dictionary-0-1",
        "names.sqlite-wal",
        "daemon.log.1",
        "qmp-3",
        ".working-set-7.12",
        *foreign,
    ):
        (state / name).touch()
    (state / "thesis.txt").write_text("ten years of work")
    (state / "pieces").mkdir()
    with pytest.raises(InputError, match=r"\(daemon, pieces, pool.raw, rows, thesis.txt and 2 more\)"):
        remove_state(state)
    assert sorted(os.listdir(state)) == sorted([*foreign, "pieces"])
    assert (state / "thesis.txt").read_text() == "ten years of work"


@pytest.mark.mount
def test_all_that_a_mount_leaves_is_known(lab: Lab) -> None:
    """Also while it runs: what is there only then may be left by one that is killed."""
    mounted = lab.mount("--spill", f"file:{lab.path}/tier")
    put(mounted.path / "vm1", b"data")
    mounted.controller_ticks()
    while_it_runs = set(os.listdir(mounted.state))
    assert mounted.umount().returncode == 0
    left = while_it_runs | set(os.listdir(mounted.state))
    assert len(left) > 20 and not [name for name in left if not STATE_FILES.fullmatch(name)]


@pytest.mark.parametrize("kind", ["another's", "everybody's", "link"])
def test_the_folder_of_states_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    states = tmp_path / "states"
    monkeypatch.setattr("blockstore.daemon.state.states.default_states", lambda: states)
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
