"""Fixtures of the core's tests."""

from __future__ import annotations

from tests.store.closed import closed_stores as closed_stores
