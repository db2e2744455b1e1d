"""An overlay that QEMU can work with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from guestlab.errors import GuestLabError
from guestlab.overlay import make_overlay


def test_overlay_names_its_base_and_size(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(bytes(3 << 20))
    overlay = make_overlay(tmp_path / "overlay.qcow2", base).read_bytes()
    assert overlay[:8] == b"QFI\xfb\0\0\0\3"
    assert int.from_bytes(overlay[24:32], "big") == 3 << 20
    start = int.from_bytes(overlay[8:16], "big")
    assert overlay[start : start + int.from_bytes(overlay[16:20], "big")].decode() == str(base.resolve())
    assert len(overlay) == 4 << 16


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_overlay_is_sound(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    with base.open("wb") as out:
        out.truncate(2 << 30)
    overlay = make_overlay(tmp_path / "overlay.qcow2", base)
    subprocess.run(["qemu-img", "check", overlay], check=True, capture_output=True, timeout=60)
    subprocess.run(["qemu-img", "compare", overlay, base], check=True, capture_output=True, timeout=60)


def test_base_that_is_too_large_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    with base.open("wb") as out:
        out.truncate(5 << 40)
    with pytest.raises(GuestLabError, match="too large"):
        make_overlay(tmp_path / "overlay.qcow2", base)
