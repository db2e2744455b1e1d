"""How far a guest came with its light load, from what the script in it has noted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from benchlab.saved import saved_progress
from benchlab.saved.saved_progress import Progress
from benchlab.saved.saved_sets import Light


def test_of_a_unit_under_way_its_part_counts() -> None:
    progress = Progress.parse("0 100.50 100.50\n5 100.50 102.50\n6 100.50 106.50\n")
    assert (progress.done, progress.seconds) == (6, 6.0)
    answered = [progress.answered_by(seconds) for seconds in (0.0, 1.0, 2.0, 3.0, 6.0, 60.0)]
    assert answered == pytest.approx([0.0, 2.5, 5.0, 5.25, 6.0, 6.0])


def test_a_guest_that_came_nowhere() -> None:
    for text in ("", "0 7.00 7.00\n"):
        progress = Progress.parse(text)
        assert (progress.done, progress.seconds, progress.answered_by(20.0)) == (0, 0.0, 0.0)


def test_the_script_notes_each_unit_and_counts_none_that_failed(tmp_path: Path) -> None:
    lights = (Light("true", 5, 3), Light("false", 7, 1))
    script = saved_progress.script(lights).replace("/work", str(tmp_path))
    subprocess.run(["sh", "-c", script], check=True, timeout=60)
    progress = Progress.parse((tmp_path / "progress").read_text())
    assert [done for _, done in progress.steps] == [0, 5, 5, 10, 15]
    assert (tmp_path / "ended").exists()


def test_the_script_ends_early_when_it_is_told_to(tmp_path: Path) -> None:
    lights = (Light(f"touch {tmp_path}/stop", 5, 3),)
    script = saved_progress.script(lights).replace("/work", str(tmp_path))
    subprocess.run(["sh", "-c", script], check=True, timeout=60)
    assert Progress.parse((tmp_path / "progress").read_text()).done == 5
