"""What /proc says of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchlab.machine import pinned

from blockstore.daemon.host import process_stat
from blockstore.daemon.state import state_loss

FORKS = "import os, sys; child = os.fork(); child and print(child, flush=True); sys.stdin.read()"
"""Has a child with its own command line, as each child is until it has called execve."""


def test_a_child_that_has_not_called_execve_is_not_taken_for_its_parent(tmp_path: Path) -> None:
    arguments = ["blockstore.daemon", json.dumps({"state": str(tmp_path)})]
    command = [sys.executable, "-c", FORKS, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        child = int(process.stdout.readline())
        assert process_stat.parent(child) == process.pid
        assert process_stat.command(process.pid)[:-1] == [os.fsencode(word) for word in command]
        assert process_stat.command(child) == []
        assert state_loss.processes(tmp_path) == (process.pid, 0)
        process.stdin.close()
    assert process_stat.command(process.pid) == []


def test_where_a_thread_ran_last() -> None:
    for core in os.sched_getaffinity(0):
        with pinned(core):
            assert process_stat.parent_and_core(os.getpid()) == (os.getppid(), core)
    with subprocess.Popen(["true"]) as ended:
        pass
    assert process_stat.parent_and_core(ended.pid) is None
