"""The unit template under a real service manager: `systemd --user` in a mount name space of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.lab import COMMAND_S, PROJECT, ask, end, run, stop, until

SYSTEMD = Path("/lib/systemd/systemd")

pytestmark = [
    pytest.mark.mount,
    pytest.mark.long,
    pytest.mark.skipif(not SYSTEMD.exists() or not shutil.which("nsenter"), reason="systemd is not installed"),
]

MANAGER = """
mount -t tmpfs none /run/systemd && mkdir /run/systemd/system
exec "$0" --user --log-target=console --unit=basic.target
"""
"""systemd --user wants to see that systemd has booted the machine; it sees it in this name space only."""

HOLDER = """
import hashlib, mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(descriptor, 0)
for _ in sys.stdin:
    memory.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    print(hashlib.sha256(memory).hexdigest(), flush=True)
"""

OLD_KERNEL = "import blockstore.daemon.handover as handover\nhandover.can_resend = lambda init_request: False\n"
"""For the daemon: the kernel is one from before Linux 6.9."""


class Host:
    """A service manager with the unit for one mountpoint, of which nothing is there yet, as after a reboot."""

    def __init__(self, folder: Path) -> None:
        """Starts the manager; `folder` has a short name, because sockets lie in it."""
        self.path, self.state = folder / "run/vm-memory", folder / "state"
        self.defaults = folder / "default"
        self.defaults.write_text(f"BLOCKSTORE_OPTIONS=--pool-limit 128M --state {self.state}\n")
        self.errors = folder / "errors"
        units = folder / "config/systemd/user"
        units.mkdir(parents=True)
        (folder / "r").mkdir(mode=0o700)
        program = folder / "blockstore"
        program.write_text(f'#!/bin/sh\ncd "{PROJECT}" && exec "{sys.executable}" -m blockstore "$@"\n')
        program.chmod(0o755)
        (units / "blockstore@.service").write_text(self._unit(program))
        self._environment = {"XDG_RUNTIME_DIR": str(folder / "r"), "XDG_CONFIG_HOME": str(folder / "config")}
        self._log = (folder / "log").open("w")
        self._manager = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", MANAGER, str(SYSTEMD)],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        until((folder / "r/systemd/private").exists, "the service manager answers")
        escaped = run(["systemd-escape", "--path", "--template=blockstore@.service", str(self.path)])
        self.unit = escaped.stdout.strip()

    def _unit(self, program: Path) -> str:
        text = (PROJECT / "scripts/systemd/blockstore@.service").read_text()
        for there, here in (
            ("/usr/local/bin/blockstore", str(program)),
            ("/etc/default/blockstore", str(self.defaults)),
            ("systemctl list-jobs", "systemctl --user list-jobs"),
            ("WatchdogSec=10", f"StandardError=append:{self.errors}\nWatchdogSec=2"),
        ):
            assert there in text
            text = text.replace(there, here)
        return text

    def inside(self, *command: str) -> list[str]:
        """The command, in the name space that has the mount."""
        return ["nsenter", "-m", "-t", str(self._manager.pid), "--", *command]

    def systemctl(self, *arguments: str) -> str:
        """What it prints. Raises AssertionError when it fails."""
        done = run(self.inside("systemctl", "--user", *arguments), COMMAND_S, **self._environment)
        assert done.returncode == 0, f"{done.stderr}\n{self.errors.read_text() if self.errors.exists() else ''}"
        return done.stdout.strip()

    def shown(self, key: str) -> str:
        return self.systemctl("show", "--property", key, "--value", self.unit)

    def daemon_pid(self) -> int:
        return int(self.shown("MainPID"))

    @contextlib.contextmanager
    def holding(self) -> Iterator[subprocess.Popen[str]]:
        """A process that has a new file mapped, and answers each line with the digest of the file."""
        name = str(self.path / "memory")
        assert run(self.inside("dd", "if=/dev/urandom", f"of={name}", "bs=1M", "count=2")).returncode == 0
        holder = subprocess.Popen(
            self.inside(sys.executable, "-c", HOLDER, name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        try:
            yield holder
        finally:
            end(holder.pid)
            holder.wait()

    def close(self) -> None:
        """Ends what is left of the mount, and the manager."""
        with contextlib.suppress(AssertionError, ValueError, ProcessLookupError):
            self.systemctl("stop", "--no-block", self.unit)
            if pid := self.daemon_pid():
                os.kill(pid, signal.SIGKILL)
        end(self._manager.pid)
        self._manager.wait()
        self._log.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="bs-", ignore_cleanup_errors=True) as folder:
        made = Host(Path(folder))
        try:
            yield made
        finally:
            made.close()


def test_a_vm_notices_a_pause_and_nothing_else(host: Host) -> None:
    """The daemon is killed, is restarted, and hangs."""
    host.systemctl("start", host.unit)
    with host.holding() as holder:
        wanted, pid = ask(holder, "sum"), host.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        assert ask(holder, "sum") == wanted
        until(lambda: host.daemon_pid() not in (0, pid) and host.shown("ActiveState") == "active", "it is replaced")
        pid = host.daemon_pid()
        host.systemctl("restart", host.unit)
        assert host.daemon_pid() != pid and ask(holder, "sum") == wanted
        pid = host.daemon_pid()
        stop(pid)
        assert ask(holder, "sum") == wanted
        until(lambda: host.daemon_pid() not in (0, pid), "it is replaced")
        assert host.shown("NFileDescriptorStore") == "1"


def test_a_stop_waits_for_the_last_vm(host: Host) -> None:
    host.systemctl("start", host.unit)
    with host.holding() as holder:
        wanted = ask(holder, "sum")
        host.systemctl("stop", "--no-block", host.unit)
        until(lambda: host.shown("SubState") == "stop", "it is being stopped")
        assert ask(holder, "sum") == wanted
    until(lambda: host.shown("ActiveState") == "inactive", "it ends with its last user")
    assert host.shown("Result") == "success" and host.shown("NFileDescriptorStore") == "0"


def test_a_kernel_that_cannot_ask_again(host: Host, tmp_path: Path) -> None:
    """A restart there would end the memory of the VMs: it waits for their end, as a stop does."""
    (tmp_path / "sitecustomize.py").write_text(OLD_KERNEL)
    host.defaults.write_text(host.defaults.read_text() + f"PYTHONPATH={tmp_path}\n")
    host.systemctl("start", host.unit)
    pid = host.daemon_pid()
    with host.holding() as holder:
        wanted = ask(holder, "sum")
        host.systemctl("restart", "--no-block", host.unit)
        until(lambda: host.shown("SubState") == "stop", "it is being stopped")
        assert ask(holder, "sum") == wanted and host.daemon_pid() == pid
    until(lambda: host.daemon_pid() not in (0, pid) and host.shown("ActiveState") == "active", "it is started again")


def test_after_a_reboot(host: Host) -> None:
    """Mountpoint, state and stored descriptors are gone, and the unit is enabled."""
    host.systemctl("start", host.unit)
    host.systemctl("stop", host.unit)
    shutil.rmtree(host.state)
    shutil.rmtree(host.path.parent)
    host.systemctl("start", host.unit)
    assert host.shown("ActiveState") == "active" and host.shown("NRestarts") == "0"


def test_a_stop_that_was_cut_off_leaves_nothing_in_the_way(host: Host) -> None:
    """A VM that does not end in time has lost its memory then; the dead mount must not keep the next one away."""
    host.systemctl("start", host.unit)
    with host.holding() as holder:
        ask(holder, "sum")
        host.systemctl("stop", "--no-block", host.unit)
        until(lambda: host.shown("SubState") == "stop", "it is being stopped")
        os.kill(host.daemon_pid(), signal.SIGKILL)
        host.systemctl("kill", "--signal=KILL", "--kill-who=control", host.unit)
        until(lambda: host.shown("ActiveState") in ("inactive", "failed"), "systemd gives up")
        host.systemctl("reset-failed", host.unit)
        host.systemctl("start", host.unit)
        assert host.shown("ActiveState") == "active" and host.shown("NRestarts") == "0"
