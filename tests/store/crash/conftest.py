"""Fixtures of the tests of death: a tier whose file is small."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)
