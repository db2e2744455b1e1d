"""The whole bench, --quick: everything is measured, every byte is right, and nothing is left behind. No times."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchlab.cli import GROUPS
from benchlab.mounts import PREFIX
from benchlab.plots import PLOTS
from suitelab.identity import RUN
from suitelab.leftovers import left_cgroups

from tests.daemon.lab import PROJECT, run, until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts with real-time priority, KSM and swap are for root"),
]

LONGEST_S = 840.0
ONE_GROUP_S = 300.0
MINE = RUN or PREFIX
"""In the names of what the bench makes here: another run of the suite may go on beside this one."""

KSM = Path("/sys/kernel/mm/ksm/run")


def surroundings() -> dict[str, object]:
    """What a run may not change."""
    return {
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if MINE in line],
        "swaps": Path("/proc/swaps").read_text(),
        "ksm": KSM.read_text() if KSM.exists() else "",
        "zram": sorted(path.name for path in Path("/sys/block").glob("zram*")),
        "shm": sorted(path.name for path in Path("/dev/shm").glob(f"*{MINE}*")),
    }


def no_cgroup_is_left(before: list[Path]) -> None:
    """Those of VMs that run are another run's."""
    until(lambda: not set(left_cgroups()) - set(before), "no cgroup is left")


@pytest.mark.nightly
def test_everything_quick(tmp_path: Path) -> None:
    before, cgroups_before = surroundings(), left_cgroups()
    environment = {"PYTHONPATH": f"{PROJECT / 'scripts'}"}
    command = [sys.executable, "-m", "benchlab", "--quick", "--output", str(tmp_path)]
    result = run(command, LONGEST_S, **environment)
    report = json.loads((tmp_path / "results.json").read_text())
    assert result.returncode == 0 and not report["failures"], (report["failures"], result.stderr[-3000:])
    assert {figure["group"] for figure in report["figures"]} >= {name.partition("-")[0] for name in GROUPS}
    for plot in PLOTS:
        assert (tmp_path / f"{plot}.png").read_bytes().startswith(b"\x89PNG"), plot
    page = (tmp_path / "index.html").read_text()
    # The pictures are in the page: base64 text, in which any four letters may come up.
    words, pictures = re.subn(r"<img alt='[^']*' src='data:image/png;base64,[A-Za-z0-9+/=]+'>", "", page)
    assert pictures == len(PLOTS) and "http" not in words.replace("http-equiv", "")
    assert all(figure["name"] in (tmp_path / "table.md").read_text() for figure in report["figures"])
    assert surroundings() == before
    no_cgroup_is_left(cgroups_before)
    left = subprocess.run(["pgrep", "-f", MINE], capture_output=True, text=True, check=False).stdout
    assert not left, "no process is left"


def test_one_group_quick(tmp_path: Path) -> None:
    before, cgroups_before = surroundings(), left_cgroups()
    environment = {"PYTHONPATH": f"{PROJECT / 'scripts'}"}
    command = [sys.executable, "-m", "benchlab", "start", "--quick", "--output", str(tmp_path)]
    result = run(command, ONE_GROUP_S, **environment)
    report = json.loads((tmp_path / "results.json").read_text())
    assert result.returncode == 0 and not report["failures"], (report["failures"], result.stderr[-3000:])
    assert {figure["group"] for figure in report["figures"]} == {"start"}
    assert surroundings() == before
    no_cgroup_is_left(cgroups_before)


def test_bad_input(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": f"{PROJECT / 'scripts'}"}
    for arguments, words in (
        (["no-such-group"], "no-such-group"),
        (["--redraw", "--output", str(tmp_path)], "there are no results to draw"),
        (["--images", str(tmp_path), "engine", "--output", str(tmp_path / "out")], "record it"),
    ):
        result = run([sys.executable, "-m", "benchlab", *arguments], 60, **environment)
        assert result.returncode in (1, 2) and "Traceback" not in result.stderr, result
        assert words in result.stderr.replace("\n", " "), result
