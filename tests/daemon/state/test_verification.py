"""What verification says of names, without a mount."""

from __future__ import annotations

import stat
from pathlib import Path

from blockstore.daemon.namespace.names import ROOT, Names
from blockstore.daemon.state.verification import verify_state
from blockstore.store.state.home import DirectoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store


def findings(state: Path) -> list[str]:
    """Each as its text."""
    told = verify_state(state, repair=False, progress=lambda done, total: None)
    return [finding["text"] for finding in told["findings"]]


def test_a_file_that_is_being_deleted_is_no_finding(tmp_path: Path) -> None:
    """Its memory goes first, then the name that it had while somebody had it open; a named one needs its memory."""
    state = tmp_path / "state"
    store = Store(DirectoryHome(state), 16 << 20)
    names = Names(state / "names.sqlite", 0, 0)
    numbers = [names.create(ROOT, name, stat.S_IFREG | 0o644, 0, 0).inode for name in (b"gone", b"kept", b"lost")]
    for number in numbers:
        store.create_volume(number, ROOT)
    gone, _, lost = numbers
    names.remove(ROOT, b"gone", directory=False)
    run(store.delete_steps(store.volumes[gone]))
    store.close()
    names.close()
    assert findings(state) == []
    (state / f"volume-{lost}").unlink()
    assert findings(state) == [f"the file lost has no memory: volume-{lost} is not there"]
