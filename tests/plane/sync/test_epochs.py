"""Epochs: nothing is over before all who were inside have left, and only they count."""

from __future__ import annotations

import pytest

from blockstore.plane.sync.epochs import Epochs


def test_what_is_retired_waits_for_those_who_were_inside_then() -> None:
    epochs = Epochs()
    assert epochs.is_over(epochs.retire())
    first = epochs.enter()
    retired = epochs.retire()
    second = epochs.enter()
    assert first != second and not epochs.is_over(retired)
    later = epochs.retire()
    epochs.leave(first)
    assert epochs.is_over(retired) and not epochs.is_over(later), "who entered later cannot have seen it"
    epochs.leave(second)
    assert epochs.is_over(later)


def test_a_slot_is_used_again_and_only_the_one_that_was_entered_is_left() -> None:
    epochs = Epochs()
    slots = [epochs.enter() for _ in range(64)]
    assert len(set(slots)) == 64
    for slot in slots:
        epochs.leave(slot)
        with pytest.raises(ValueError, match="inside"):
            epochs.leave(slot)
        assert epochs.enter() == slot, "the only one that is free"
    for slot in (-1, 64):
        with pytest.raises(ValueError, match="inside"):
            epochs.leave(slot)
