"""What the bench changes on the machine is as it was afterwards, and what others use is not touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from benchlab import mounts, undo
from benchlab.peers import ksm, swap
from benchlab.undo import Undo

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Failure(Exception):
    """Of the measurement."""


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A folder like KSM's, as a kernel has it that nobody has touched."""
    folder = tmp_path / "ksm"
    folder.mkdir()
    values = {"run": "0", "pages_to_scan": "100", "sleep_millisecs": "20", "smart_scan": "1", "max_page_sharing": "256"}
    values |= dict.fromkeys(ksm.Counters._fields, "0")
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_settings_are_put_back_after_a_failure(kernel: Path, tmp_path: Path) -> None:
    before = contents(kernel)
    with pytest.raises(Failure), Undo(tmp_path) as changes:
        applied = ksm.turn_on(changes, kernel)
        assert applied["pages_to_scan"] == ksm.SETTINGS["pages_to_scan"] == contents(kernel)["pages_to_scan"]
        assert contents(kernel)["run"] == "1"
        raise Failure
    assert contents(kernel) == before
    assert not (tmp_path / undo.FILE).exists()


def test_merged_pages_are_unmerged_before_ksm_is_as_it_was(kernel: Path, tmp_path: Path) -> None:
    with Undo(tmp_path) as changes:
        ksm.turn_on(changes, kernel)
        steps = json.loads((tmp_path / undo.FILE).read_text())
    assert steps[-2:] == [["write", str(kernel / "run"), "0"], ["write", str(kernel / "run"), "2"]]


def test_a_later_run_puts_back_what_a_killed_one_changed(kernel: Path, tmp_path: Path) -> None:
    before = contents(kernel)
    left = tmp_path / f"{mounts.PREFIX}4194999-x"
    left.mkdir()
    ksm.turn_on(Undo(left), kernel)
    assert contents(kernel) != before
    mounts._remove_leftovers(tmp_path)
    assert contents(kernel) == before
    assert not left.exists()


def test_the_way_back_goes_on_where_a_step_fails(tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("[old] new\n")
    with Undo(tmp_path) as changes:
        changes.write(setting, "new")
        changes.write_at_end(tmp_path / "missing" / "file", "1")
        changes.remove_at_end(tmp_path / "no-cgroup")
    assert setting.read_text() == "old"


def test_ksm_that_somebody_uses_is_refused(kernel: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    assert ksm.refusal(kernel) == ""
    (kernel / "run").write_text("1\n")
    assert "somebody else" in ksm.refusal(kernel)
    (kernel / "run").write_text("0\n")
    (kernel / "pages_shared").write_text("12\n")
    assert "somebody else" in ksm.refusal(kernel)
    assert "no KSM" in ksm.refusal(kernel / "none")


@needs_root
def test_zram_and_swap_that_somebody_uses_are_refused(tmp_path: Path) -> None:
    first, control, swaps = tmp_path / "zram0", tmp_path / "control", tmp_path / "swaps"
    assert "no zram" in swap.refusal(control, first, swaps)
    first.mkdir()
    (first / "disksize").write_text("16777216\n")
    swaps.write_text("Filename\tType\n")
    assert "zram0 is set up already" in swap.refusal(control, first, swaps)
    (first / "disksize").write_text("0\n")
    assert "somebody" not in swap.refusal(control, first, swaps)
    swaps.write_text("Filename\tType\n/dev/sda2\tpartition\n")
    assert "swaps already" in swap.refusal(control, first, swaps)


@needs_root
def test_real_settings_are_put_back_after_a_failure(tmp_path: Path) -> None:
    if reason := ksm.refusal() or swap.refusal():
        pytest.skip(reason)
    names = (*ksm.SETTINGS, "run")
    before = [(ksm.FOLDER / name).read_text() for name in names]
    devices = sorted(path.name for path in Path("/sys/block").glob("zram*"))
    cluster = Path("/proc/sys/vm/page-cluster").read_text()
    with pytest.raises(Failure), Undo(tmp_path) as changes:
        made = swap.Swap(changes, 64 << 20)
        ksm.turn_on(changes)
        assert "zram" in Path("/proc/swaps").read_text()
        assert made.table_bytes > 0 and 0 < made.figures()["used"] < 1 << 20, "the header of the swap is in it"
        raise Failure
    assert [(ksm.FOLDER / name).read_text() for name in names] == before
    assert sorted(path.name for path in Path("/sys/block").glob("zram*")) == devices
    assert Path("/proc/sys/vm/page-cluster").read_text() == cluster
    assert "zram" not in Path("/proc/swaps").read_text()
