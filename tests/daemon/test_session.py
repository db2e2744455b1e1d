"""The sign of life of a daemon: not given while requests wait and the lane takes none."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from blockstore.daemon.lane.lane import Progress
from blockstore.daemon.session import BEATS, Session

WATCHDOG_S = 10.0


@pytest.mark.parametrize(
    ("looks", "beats"),
    [
        ([False] * 4, 4),
        ([False, True, False, True], 4),  # a request has just come, and the lane wakes up
        ([True, True, True, False], 2),
    ],
    ids=["idle", "a request each now and then", "stuck"],
)
def test_a_lane_is_stuck_that_is_so_at_two_looks(
    looks: list[bool], beats: int, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[bool] = []
    states = iter(looks)
    session: Any = SimpleNamespace(
        _service=SimpleNamespace(watchdog_s=WATCHDOG_S, beat=lambda: given.append(True)),
        store_lock=nullcontext(),
        lane=SimpleNamespace(is_stuck=lambda before: next(states), progress=Progress(0, 0, 0)),
    )

    async def look() -> None:
        with trio.move_on_after((len(looks) - 0.5) * WATCHDOG_S / BEATS):
            await Session._beat(session)

    trio.run(look, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(given) == beats
    assert [record.getMessage() for record in caplog.records] == ["requests wait, but the lane takes none"] * (
        len(looks) - beats
    )
