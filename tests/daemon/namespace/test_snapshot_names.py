"""Which files are snapshots by their names."""

from __future__ import annotations

import pytest

from blockstore.daemon.namespace.snapshot_names import is_snapshot, snapshots


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        (".base.snapshot", True),
        ("blue/.base-2.snapshot", True),
        (".17-4711.snapshot-of-0a1b2c3d", True),
        ("blue/.17-4711.snapshot-of-0a1b2c3d", True),
        ("blue/green/.base.snapshot", False),
        ("base.snapshot", False),
        (".snapshot", False),
        ("..snapshot", False),
        (".base.snapshot/vm1", False),
        (".base.snapshot\n", False),
        (".base.snapshots", False),
        ("vm1", False),
        ("(deleted 7)", False),
    ],
)
def test_names(path: str, is_one: bool) -> None:
    assert is_snapshot(path) == is_one
    assert snapshots({3: path, 4: "vm2"}) == ({3} if is_one else set())
