"""The unit template: systemd understands it, and it speaks of options that exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.daemon.lab import PROJECT, blockstore, run

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
