"""What was saved, computed from numbers that were recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from benchlab.errors import BenchError
from benchlab.peers import ksm
from benchlab.saved import saved_cost, saved_systems
from benchlab.saved.saved_cells import LAST, Cell
from benchlab.saved.saved_cost import Sample

MIB = 1 << 20

SMAPS = """\
7f0000000000-7f0020000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:              300000 kB
Pss:              120000 kB
Anonymous:        300000 kB
KSM:              200000 kB
Swap:              40000 kB
SwapPss:           10000 kB
VmFlags: rd wr mr mw me ac sd mg
7f0020000000-7f0020001000 ---p 00000000 00:00 0
Size:                  4 kB
Rss:                   0 kB
7f0030000000-7f0050000000 rw-s 00000000 00:2a 77                         /mnt/vm1
Size:             524288 kB
Rss:              100000 kB
Pss:              100000 kB
Swap:                  0 kB
7f0060000000-7f0080000000 r-xp 00000000 00:00 0
Size:             524288 kB
Rss:                   4 kB
"""


def cell(system: str, *savings: float) -> Cell:
    samples = [Sample(float(n), 1000, {"resident": round(1000 * (1 - s))}, {"vm": n}) for n, s in enumerate(savings)]
    return Cell(system, samples)


def test_guest_memory_is_the_anonymous_mapping_of_its_size() -> None:
    found = saved_cost.guest_memory(SMAPS, 512 * MIB)
    assert found == (300000 << 10, 120000 << 10, 40000 << 10, 10000 << 10)


def test_guest_memory_that_is_not_one_mapping_is_refused() -> None:
    with pytest.raises(BenchError, match="0 were found"):
        saved_cost.guest_memory(SMAPS, 256 * MIB)
    with pytest.raises(BenchError, match="2 were found"):
        saved_cost.guest_memory(SMAPS + SMAPS, 512 * MIB)


def test_page_tables_of_a_process() -> None:
    assert 0 < saved_cost.page_table_bytes(os.getpid()) < 64 * MIB
    with pytest.raises(BenchError, match="has no QEMU"):
        saved_cost.qemu_of(os.getpid())


def test_swap_is_read_from_the_sum_of_all_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_cost, "Path", lambda place: tmp_path / Path(place).name)
    (tmp_path / "smaps_rollup").write_text(SMAPS)
    assert saved_cost.swapped_bytes(1) == 10_000 << 10


def test_saved_is_what_is_not_paid_for() -> None:
    sample = Sample(1.0, 1000, {"resident": 200, "pool": 40, "tables": 10}, {})
    assert sample.cost == 250
    assert sample.saved == pytest.approx(0.75)
    assert Sample(1.0, 100, {"resident": 120}, {}).saved == pytest.approx(-0.2)
    assert Sample(0.0, 0, {"processes": 5}, {}).saved == 0


def test_result_is_the_mean_of_the_last_samples() -> None:
    found = cell("store", 0.0, 0.1, 0.6, 0.7, 0.8)
    assert LAST == 3
    assert found.saved == pytest.approx(0.7)
    assert found.residents == {"vm": 3}
    assert [each["saved"] for each in found.as_json()["series"]] == [0.0, 0.1, 0.6, 0.7, 0.8]


def test_tables_of_ksm() -> None:
    counters = ksm.Counters(pages_shared=10, pages_sharing=70, pages_unshared=15, pages_volatile=5, full_scans=4)
    assert counters.rmap_items == 100
    each = ksm.table_bytes(counters._replace(pages_shared=0), 1, 0)
    assert 48 <= each <= 128
    assert ksm.table_bytes(counters, 100, 2) > 110 * 48


def test_store_is_waited_for_while_its_cost_shrinks() -> None:
    shrinking = [round(700 * 0.95**look) for look in range(60)]
    assert not any(saved_systems.is_steady(shrinking[:looks]) for looks in range(len(shrinking) + 1))
    level = [*shrinking, *([32, 40] * saved_systems.STEADY_LOOKS)]
    assert saved_systems.is_steady(level)
    assert not saved_systems.is_steady([40] * (saved_systems.STEADY_FROM - 1))
