"""The process of a libvirt domain, by the files that libvirt keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blockstore.errors import InputError
from blockstore.vm.qemu.libvirt import process_of

WAITS = "import sys; print(flush=True); sys.stdin.read()"


def test_process_of_a_domain(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITS, "-name", "guest=vm1,debug-threads=on"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        (tmp_path / "vm1.pid").write_text(f"{process.pid}\n")
        assert process_of("vm1", [tmp_path / "none", tmp_path]) == process.pid
        (tmp_path / "vm11.pid").write_text(f"{process.pid}\n")
        with pytest.raises(InputError, match="is not the domain vm11; it has ended"):
            process_of("vm11", [tmp_path])
        process.communicate()


def test_a_name_with_a_comma(tmp_path: Path) -> None:
    """QEMU has each twice."""
    command = [sys.executable, "-c", WAITS, "-name", "guest=vm,,1,debug-threads=on"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        for name in ("vm,1", "vm"):
            (tmp_path / f"{name}.pid").write_text(str(process.pid))
        assert process_of("vm,1", [tmp_path]) == process.pid
        with pytest.raises(InputError, match="is not the domain vm;"):
            process_of("vm", [tmp_path])
        process.communicate()


def test_what_is_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="libvirt runs no VMs here: there is no"):
        process_of("vm1", [tmp_path / "none"])
    with pytest.raises(InputError, match="libvirt has no domain 'vm1' that runs"):
        process_of("vm1", [tmp_path])
    for name in ("../vm1", "", "..", "a/b"):
        with pytest.raises(InputError, match="is no name of a libvirt domain"):
            process_of(name, [tmp_path])
    (tmp_path / "vm1.pid").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read: it has no number in it"):
        process_of("vm1", [tmp_path])
    (tmp_path / "vm1.pid").write_text(str(os.getpid()))
    with pytest.raises(InputError, match="is not the domain vm1"):
        process_of("vm1", [tmp_path])
