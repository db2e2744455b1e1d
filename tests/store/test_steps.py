"""Taking steps: one at a time, for those who wait, and all of them now."""

from __future__ import annotations

import pytest

from blockstore.errors import OutOfRoom
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import Blocks, NotHere, Outcome, Steps, run, take_step
from blockstore.store.store import Store


def test_one_step_at_a_time() -> None:
    def steps() -> Steps:
        yield Outcome.WENT_ON
        yield Outcome.NO_ROOM

    taken = steps()
    assert take_step(taken) is Outcome.WENT_ON
    assert take_step(taken) is Outcome.NO_ROOM
    assert take_step(taken) is None and take_step(taken) is None


def test_all_steps_now() -> None:
    needed = Blocks(Store(MemoryHome(), 16 << 20).create_volume(1, 1), 3, 5)
    done = []

    def steps(outcome: Outcome | Blocks) -> Steps:
        yield Outcome.WENT_ON
        yield outcome
        done.append(outcome)

    with pytest.raises(OutOfRoom):
        run(steps(Outcome.NO_ROOM))
    with pytest.raises(NotHere):
        run(steps(needed))
    assert not done
    fetched: list[Blocks] = []
    run(steps(needed), fetched.append)
    assert fetched == done == [needed]
