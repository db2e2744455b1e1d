"""The kernel's write-back limit: lifted on a mount, and a sentence where that is impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.daemon.fuse import throttle
from tests.daemon.lab import Mounted, device_of


@pytest.mark.mount
def test_a_mount_lifts_it(mounted: Mounted) -> None:
    knobs = Path("/sys/class/bdi") / device_of(mounted.path)
    assert (knobs / "max_ratio").read_text().strip() == "100"
    assert (knobs / "strict_limit").read_text().strip() == "0"


def test_a_device_that_is_not_there() -> None:
    sentence = throttle.lift("0:999999999")
    assert sentence is not None and "0:999999999/max_ratio" in sentence and "mount as root" in sentence
