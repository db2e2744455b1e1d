"""The file of a disk, from how QEMU says it."""

from __future__ import annotations

import json

import pytest

from blockstore.vm.snapshot.disks import _file_of

OVERLAY = "/var/lib/overlays/vm1.disk1.qcow2"
BELOW = {"driver": "qcow2", "file": {"driver": "file", "filename": "disk.qcow2"}}


@pytest.mark.parametrize(
    ("said", "file"),
    [
        ("disk.qcow2", "disk.qcow2"),
        (
            "json:"
            + json.dumps({"backing": BELOW, "driver": "qcow2", "file": {"driver": "file", "filename": OVERLAY}}),
            OVERLAY,
        ),
        ("json:" + json.dumps({"driver": "file", "filename": OVERLAY}), OVERLAY),
        ("json:{", "json:{"),
        ("json:[]", "json:[]"),
        ('json:{"driver": "nbd", "server": {}}', 'json:{"driver": "nbd", "server": {}}'),
    ],
)
def test_the_file_of_a_disk(said: str, file: str) -> None:
    """Found by a newcomer: a VM that was started with a relative path could be forked once."""
    assert _file_of(said) == file
