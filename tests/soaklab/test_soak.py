"""The soak itself, short: what scripts/soak does at full length before a release."""

from __future__ import annotations

import shutil

import pytest
from soaklab.mounted import PREFIX
from soaklab.soak import Verdict, soak

from tests.daemon.lab import NEEDS_QEMU, end_daemons_with

pytestmark = [
    pytest.mark.mount,
    pytest.mark.guest,
    NEEDS_QEMU,
    pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed"),
]

KILLS = 12


@pytest.mark.nightly
def test_short_soak() -> None:
    try:
        verdict = soak(KILLS, 1.0, 64 << 20, seed=1, say=lambda text: None)
    finally:
        end_daemons_with(PREFIX)
    assert verdict.kills == KILLS and 0 < verdict.restarts <= KILLS
    assert len(verdict.stalls_s) == KILLS and verdict.stall_s(0.5) > 0, "the kills were not felt: they hit nothing"
    assert verdict.done["mapped"]["writes"] > 500 and verdict.done["names"]["calls"] > 50


def test_the_share_of_stalls() -> None:
    verdict = Verdict(stalls_s=[float(number) for number in range(100)])
    assert verdict.stall_s(0.5) == 50 and verdict.stall_s(0.99) == 99 and verdict.stall_s(1) == 99
    assert Verdict().stall_s(0.99) == 0
