"""The kill loop, short: scripts/soak runs a thousand kills."""

from __future__ import annotations

import pytest
from soaklab.kill_loop import Losses, kill_loop
from soaklab.mounted import PREFIX

from tests.daemon.lab import end_daemons_with

KILLS = 25


@pytest.mark.mount
def test_nothing_is_lost_with_daemons_that_are_killed() -> None:
    try:
        losses = kill_loop(KILLS, seed=3, say=lambda text: None)
    finally:
        end_daemons_with(PREFIX)
    assert losses.is_none, losses
    assert losses.kills == KILLS and losses.rounds > 0 and losses.reads > 0


def test_any_loss_is_one() -> None:
    assert Losses(5, 9, 9, 0, 0, 0).is_none
    assert not any(Losses(5, 9, 9, *counts).is_none for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
