"""Numbers on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from blockstore.cli.mounts.mount import mount
from blockstore.cli.vms.attach import attach
from blockstore.cli.vms.fork import fork
from blockstore.cli.watch.top import top
from blockstore.daemon.host import mounts
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import InputError


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (fork, ["vm1", "--count", "0"], "0 is too small; the least is 1"),
        (fork, ["vm1", "--count", "x"], "'x' is no whole number"),
        (fork, ["vm1", "--count", "1.5"], "'1.5' is no whole number"),
        (fork, ["vm1", "--count", "1001"], "1001 is too large; the most is 1000"),
        (mount, ["/x", "--watchdog", "nan"], "'nan' is no number of seconds"),
        (mount, ["/x", "--watchdog", "0.1"], "0.1 is too small; the least is 0.5"),
        (mount, ["/x", "--cold-after", "soon"], "'soon' is no number of seconds; write it as 10 or 0.5"),
        (mount, ["/x", "--background-cpu", "101"], "101 is too large; the most is 100"),
        (mount, ["/x", "--background-cpu", "nan"], "'nan' is no number of per cent"),
        (top, ["--interval", "inf"], "'inf' is no number of seconds"),
        (top, ["--count", "0"], "0 is too small"),
    ],
)
def test_what_is_refused(command: click.Command, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2 and words in result.output and "range" not in result.output


def test_root_is_not_told_to_be_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        Path("/proc/1/maps").read_bytes()
        pytest.skip("process 1 can be looked at")
    except PermissionError:
        if os.geteuid():
            pytest.skip("needs root")
    monkeypatch.setattr(mounts, "all_mounts", lambda: [Mount(tmp_path, "0:1", tmp_path)])  # else it need not look
    error = CliRunner().invoke(attach, ["1"]).exception
    assert isinstance(error, InputError) and "CAP_SYS_PTRACE" in str(error) and "as root" not in str(error)
