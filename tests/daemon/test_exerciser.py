"""The mount under the random exerciser: one process on files in two domains, and several at once on a small pool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.exerciser import STEPS_BETWEEN_COMPARES, model_name
from tests.daemon.lab import COMMAND_S, PROJECT, Lab, Mounted, end, run, said

STEPS = 1500
PROCESSES = 4
KILLS = 4


def command(seed: int, steps: int, models: Path, paths: list[Path]) -> list[str]:
    program = [sys.executable, "-m", "tests.daemon.exerciser", str(seed), str(steps), str(models)]
    return [*program, *map(str, paths)]


def check_after_remount(lab: Lab, mounted: Mounted, models: Path, paths: list[Path]) -> None:
    """The store has what the models have, also for the next daemon."""
    assert mounted.umount().returncode == 0
    again = lab.mount(state=mounted.state)
    for path in paths:
        result = run(["cmp", str(path), str(models / model_name(path))])
        assert result.returncode == 0, result
    assert "Traceback" not in again.log(), again.log()[-5000:]


@pytest.mark.mount
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (2, 3))])
def test_one_process(lab: Lab, mounted: Mounted, seed: int) -> None:
    models = lab.path / "models"
    for folder in (models, mounted.path / "one", mounted.path / "two"):
        folder.mkdir()
    paths = [mounted.path / "one/a", mounted.path / "one/b", mounted.path / "two/c"]
    result = run(command(seed, STEPS, models, paths))
    assert result.returncode == 0, result.stdout + result.stderr
    check_after_remount(lab, mounted, models, paths)


@pytest.mark.mount
def test_several_processes_on_a_small_pool(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="64M")
    models = lab.path / "models"
    for folder in (models, mounted.path / "one", mounted.path / "two"):
        folder.mkdir()
    groups = [[mounted.path / folder / f"{number}" for folder in ("one", "two")] for number in range(PROCESSES)]
    processes = [
        subprocess.Popen(
            command(10 + number, STEPS // 2, models, paths),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=PROJECT,
        )
        for number, paths in enumerate(groups)
    ]
    outputs = [process.communicate(timeout=COMMAND_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(outputs)
    total = mounted.total()
    assert all(total[kind] for kind in ("zero", "shared", "patched", "compressed", "raw")), total
    check_after_remount(lab, mounted, models, [path for paths in groups for path in paths])


@pytest.mark.mount
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (2, 3))])
def test_one_process_while_the_daemon_is_killed(lab: Lab, seed: int) -> None:
    """Again and again by SIGKILL, whatever is being written, cloned, punched or read meanwhile."""
    mounted, models = lab.mount(), lab.path / "models"
    for folder in (models, mounted.path / "one", mounted.path / "two"):
        folder.mkdir()
    paths = [mounted.path / "one/a", mounted.path / "one/b", mounted.path / "two/c"]
    process = subprocess.Popen(
        command(20 + seed, STEPS, models, paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        start_new_session=True,
    )
    try:
        for number in range(1, KILLS + 1):
            while (line := said(process)) != str(number * STEPS_BETWEEN_COMPARES):
                assert line, "it has ended"
            mounted.kill_daemon()
        output, _ = process.communicate(timeout=COMMAND_S)
    finally:
        end(process.pid)
    assert process.returncode == 0, output
    check_after_remount(lab, mounted, models, paths)
