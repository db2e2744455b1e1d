"""What a run left is named and removed; what another run has stays."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from suitelab.identity import VARIABLE
from suitelab.leftovers import Leftovers

from blockstore.vm.memory import cgroups
from tests.daemon.lab import ended, readable

GRACE_S = 0.0


@contextlib.contextmanager
def process_of(run: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that runs for as long as it is let."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    environment = {**os.environ, VARIABLE: run}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and readable(process.stdout.fileno(), 30)
        yield process
        process.kill()


@contextlib.contextmanager
def folder_of(run: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix=f"blockstore-test-{run}-", dir="/dev/shm", ignore_cleanup_errors=True
    ) as path:
        (Path(path) / "file").touch()
        yield Path(path)


def but_cgroups(found: list[str]) -> list[str]:
    """Tests that run meanwhile may have killed what made one."""
    return [text for text in found if not text.startswith("the cgroup ")]


def test_nothing_is_left() -> None:
    assert but_cgroups(Leftovers(secrets.token_hex(4)).take_away(GRACE_S)) == []


def test_processes_and_folders_of_this_run_only() -> None:
    run, other = secrets.token_hex(4), secrets.token_hex(4)
    leftovers = Leftovers(run)
    with process_of(run) as ours, process_of(other) as theirs, folder_of(run) as left, folder_of(other) as kept:
        found = but_cgroups(leftovers.take_away(GRACE_S))
        assert len(found) == 2 and f"process {ours.pid}: " in found[0] and str(left) in found[1]
        assert ended(ours.pid) and not left.exists()
        assert theirs.poll() is None and kept.exists()


def test_a_cgroup_whose_maker_has_died() -> None:
    try:
        own = cgroups.home()
        before = cgroups.create("of-before", own)
    except LookupError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    leftovers = Leftovers(secrets.token_hex(4))
    script = "from blockstore.vm.memory.cgroups import create, home; print(create('left', home()).path)"
    made = Path(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    )
    alive = cgroups.create("of-a-living-process", own)
    try:
        assert f"the cgroup {made}" in leftovers.take_away(GRACE_S)
        assert not made.exists() and before.path.exists() and alive.path.exists()
    finally:
        for cgroup in (before, alive):
            cgroup.remove()


@pytest.mark.mount
def test_a_mount_with_swap_settings_and_files_below_it(tmp_path: Path) -> None:
    run, setting = secrets.token_hex(4), tmp_path / "setting"
    setting.write_text("1\n")
    leftovers = Leftovers(run)
    with folder_of(run) as left:
        (left / "mount").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", left / "mount"], check=True)
        (left / "mount" / "file").touch()
        (left / "undo.json").write_text(f'[["write", "{setting}", "0"]]')
        assert but_cgroups(leftovers.take_away(GRACE_S)) == [f"the mount {left}/mount", f"the folder {left}"]
        assert not left.exists() and setting.read_text() == "0"
