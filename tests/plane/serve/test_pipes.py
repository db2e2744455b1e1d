"""The pipes of a queue of requests: how they are used is tested in test_encoders.py."""

from __future__ import annotations

import pytest

from blockstore.plane.serve.pipes import Pipes


def test_they_are_counted_and_limited() -> None:
    assert [len(Pipes([(3, 4)] * count)) for count in (0, 1, 32)] == [0, 1, 32]
    with pytest.raises(ValueError, match="at most 32"):
        Pipes([(3, 4)] * 33)
