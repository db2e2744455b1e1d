"""Fixtures of the tests of death: a tier whose file is small, and dictionaries for small domains."""

from __future__ import annotations

import pytest

from blockstore.store.moves import training


@pytest.fixture(autouse=True)
def _small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)


@pytest.fixture(autouse=True)
def _small_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAIN_FROM_BLOCKS", 40)
