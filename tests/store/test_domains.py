"""Domains: entered and left with their volumes, remembered, and each with a secret of its own."""

from __future__ import annotations

from pathlib import Path

from blockstore.store.domains import Domains
from blockstore.store.state.home import DirectoryHome, MemoryHome


def test_entering_and_leaving() -> None:
    domains = Domains(MemoryHome())
    first, second = domains.enter(10), domains.enter(20)
    assert first.index != second.index and first.seed != second.seed
    assert domains.enter(10) is first and first.volumes == 2
    domains.leave(first)
    assert domains.enter(10) is first
    domains.leave(first)
    domains.leave(first)
    again = domains.enter(10)
    assert again is not first and again.seed != first.seed, "a secret was used for another domain"
    assert again.index != second.index


def test_many_domains() -> None:
    domains = Domains(MemoryHome())
    entered = [domains.enter(key) for key in range(1, 700)]
    assert len({domain.index for domain in entered}) == len({domain.seed for domain in entered}) == 699
    assert domains.size_bytes >= 699 * 16


def test_domains_are_remembered(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    domains = Domains(home)
    kept, left, empty = (domains.enter(key) for key in (7, 8, 9))
    domains.leave(left)
    domains.close()

    domains = Domains(home)
    assert (domains.enter(7).index, domains.enter(7).seed) == (kept.index, kept.seed)
    domains.forget_empty()
    domains.close()

    domains = Domains(home)
    assert domains.enter(7).seed == kept.seed
    assert domains.enter(9).seed != empty.seed
    domains.close()
    home.close()
