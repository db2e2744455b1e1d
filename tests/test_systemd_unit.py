"""The unit template: systemd understands it, and it speaks of options that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from blockstore.daemon.options import MountOptions
from blockstore.errors import BusyError, InputError, StateError
from tests.daemon.lab import PROJECT, blockstore, run

pytestmark = pytest.mark.long

UNIT = PROJECT / "scripts/systemd/blockstore@.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_it(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/usr/local/bin/blockstore", "/bin/true")
    unit = tmp_path / "blockstore@run-vm.service"
    unit.write_text(text)
    said = run(["systemd-analyze", "verify", "--man=no", str(unit)])
    # Keys that systemd before 254 does not know are ignored by it; the restarts are then all alike.
    complaints = [line for line in said.stderr.splitlines() if not re.search("'Restart(Steps|MaxDelaySec)'", line)]
    assert not [line for line in complaints if unit.name in line], said.stderr


def test_its_options_exist() -> None:
    for command, options in re.findall(r"bin/blockstore (\w+)(.*)", UNIT.read_text()):
        told = blockstore(command, "--help").stdout
        assert all(option in told for option in re.findall(r"--[\w-]+", options)), (command, options)
    keys = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert keys["Type"] == "notify" and keys["Restart"] == "always" and int(keys["FileDescriptorStoreMax"]) >= 1


def test_it_stops_with_commands_that_exist() -> None:
    line = next(line for line in UNIT.read_text().splitlines() if line.startswith("ExecStop="))
    assert f"$$? = {BusyError.exit_code} ]" in line
    commands = re.findall(r'"\$\$2" (\w+)((?: --[\w-]+)*) -- "\$\$0"', line)
    assert commands == [("reload", " --no-wait"), ("umount", "")]
    assert "--no-wait" in blockstore("reload", "--help").stdout


def test_the_mountpoint_is_made_and_not_looked_at(tmp_path: Path) -> None:
    """It is there after a reboot; and a mount that systemd holds while no daemon serves keeps whoever looks waiting, as
    `mkdir -p` does."""
    line = next(line for line in UNIT.read_text().splitlines() if line.startswith("ExecStartPre="))
    words = shlex.split(line.removeprefix("ExecStartPre=").lstrip("-+").replace("%%", "%").replace("$$", "$"))
    target = tmp_path / "not there yet/vm"
    command = [*words[:-1], str(target)]
    assert words[-1] == "%f" and run(command).returncode == 0 and target.is_dir()
    recorder = tmp_path / "mkdir"
    recorder.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n')
    recorder.chmod(0o755)
    assert run(command, PATH=f"{tmp_path}:{os.environ['PATH']}").returncode == 0
    assert (tmp_path / "calls").read_text().splitlines() == [f"-p -- {target.parent}", f"-- {target}"]


def test_what_would_fail_again_is_not_tried_again_unless_there_is_a_mount(tmp_path: Path) -> None:
    """systemd ends the mount when it gives up."""
    keys = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    codes = [int(code) for code in keys["RestartPreventExitStatus"].split()]
    assert codes == [InputError.exit_code, StateError.exit_code]
    mount = [*(sys.executable, "-m", "blockstore", "mount", "--foreground"), str(tmp_path), "--pool-limit"]
    held = ["sh", "-c", 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"', "sh"]
    for limit in ("lots", "1"):  # refused by click, and by us
        assert run([*mount, limit]).returncode == 2
        assert run([*held, *mount, limit]).returncode == 1
    (tmp_path / "state").mkdir()
    (tmp_path / "state/foreign").touch()
    options = MountOptions(str(tmp_path), str(tmp_path / "state"), 64 << 20, foreground=True).to_json()
    daemon = [sys.executable, "-m", "blockstore.daemon", options]
    assert run(daemon).returncode == 4
    assert run([*held[:2], held[2].replace("exec", "exec 3</dev/null; exec"), "sh", *daemon]).returncode == 1
