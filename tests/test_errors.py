"""Signals of the code are no errors for users, and no handler of these takes one."""

from __future__ import annotations

import pytest

from blockstore.daemon.tiers.sources import SourceAway
from blockstore.errors import BlockstoreError, InternalSignal, MountError
from blockstore.store.steps import NotHere
from blockstore.store.tiers import PieceMissing, TierAway, away_is_an_error


@pytest.mark.parametrize("signal", (NotHere, TierAway, PieceMissing, SourceAway))
def test_a_signal_is_no_error_for_users(signal: type[Exception]) -> None:
    assert issubclass(signal, InternalSignal) and not issubclass(signal, BlockstoreError)


def test_a_command_tells_its_user_that_the_tier_is_away() -> None:
    with pytest.raises(MountError, match="valkey://far is away"), away_is_an_error():
        raise TierAway("valkey://far is away")
    with pytest.raises(PieceMissing), away_is_an_error():
        raise PieceMissing("this is for the code")
