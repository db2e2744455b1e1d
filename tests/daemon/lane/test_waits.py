"""Pauses before a tier that was away is asked again."""

from __future__ import annotations

from blockstore.daemon.lane.waits import TierRetry


def test_pauses_double_up_to_the_longest_and_begin_anew_after_an_answer() -> None:
    retry = TierRetry(0.5, 3.0)
    assert [retry.pause_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    retry.answered()
    assert [retry.pause_s() for _ in range(2)] == [0.5, 1.0]
