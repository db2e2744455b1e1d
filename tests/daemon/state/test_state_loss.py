"""The state is deleted or renamed under a mount: every command says so, and `umount` ends nothing that can be saved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from blockstore.cli.views.health import CRITICAL, OK
from blockstore.daemon.host import mounts
from blockstore.daemon.state import state_loss
from tests.cli.runner import invoke
from tests.daemon.lab import (
    PROJECT,
    Lab,
    Mounted,
    blockstore,
    cold,
    daemons_of,
    end,
    ended,
    mounts_below,
    noisy,
    one_line,
    put,
    run,
    supervisors_of,
    until,
)

MIB = 1 << 20
LOST_EXIT_CODE = 4


def check_tells(mounted: Mounted, *words: str) -> None:
    """`status --check` is critical, with one line that has these words."""
    told = invoke("status", str(mounted.path), "--check")
    assert told.returncode == CRITICAL and told.stdout.startswith("blockstore CRITICAL - "), told
    assert told.stdout.count("\n") == 1 and not told.stderr, told
    assert all(word in told.stdout for word in words), told


@pytest.mark.mount
@pytest.mark.logs("was deleted under the mount", r"/volume-\d+ cannot be opened: No such file")
def test_every_command_tells_that_the_state_was_deleted(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", noisy(4 * MIB, 1))
    mounted.controller_pid()  # it has opened its log by then
    shutil.rmtree(mounted.state)
    words = (str(mounted.state), "was deleted under the mount", "copy the files out of the mount", "umount --force")
    for command in (
        ["status"],
        ["status", "--json"],
        ["set", "--pool-limit", "1G"],
        ["reload"],
        ["verify"],
        ["evict"],
        ["report", "--output", str(lab.path / "page.html")],
        ["umount"],
    ):
        one_line(blockstore(command[0], str(mounted.path), *command[1:]), LOST_EXIT_CODE, *words)
    vm = ["run", "vm", "--mount", str(mounted.path), "--memory", "16M", "--", "true"]
    one_line(blockstore(*vm), LOST_EXIT_CODE, *words)
    check_tells(mounted, *words)
    assert mounts_below(lab.path) == [mounted.path], "umount was refused"
    saved = lab.path / "saved"
    assert run(["cp", "--sparse=always", str(mounted.path / "file"), str(saved)]).returncode == 0
    assert saved.read_bytes() == noisy(4 * MIB, 1)
    forced = mounted.umount("--force")
    lost = f"the state directory {mounted.state} was deleted under the mount: what was stored is gone with the mount"
    assert forced.returncode == 0 and forced.stderr == f"blockstore: warning: {lost}\n", forced
    assert not mounts_below(lab.path) and not daemons_of(lab.path) and not supervisors_of(lab.path)
    assert not mounted.state.exists()


@pytest.mark.mount
@pytest.mark.logs("was deleted under the mount", "the controller (ended|cannot be started)")
def test_the_daemon_outlives_its_controller_when_the_state_was_deleted(lab: Lab) -> None:
    """No other controller can be started, for its log has no folder; the files can be copied out all the same."""
    mounted = lab.mount()
    data = noisy(4 * MIB, 1)
    put(mounted.path / "file", data)
    daemon, controller = mounted.daemon_pid(), mounted.controller_pid()
    with (mounted.state / "daemon.log").open() as log:
        shutil.rmtree(mounted.state)
        os.kill(controller, signal.SIGKILL)
        told = ""

        def says_so() -> bool:
            nonlocal told
            told += log.read()
            return "the controller cannot be started" in told

        until(says_so, "the daemon has tried to start another one")
    assert not ended(daemon, 0) and cold(mounted.path / "file") == data
    assert mounted.umount("--force").returncode == 0


@pytest.mark.mount
@pytest.mark.parametrize("name", ["pool", "superblock", "names.sqlite", "rows-where"])
@pytest.mark.logs("were deleted under the mount")
def test_a_file_of_the_state_was_deleted(lab: Lab, name: str) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", noisy(MIB, 1))
    (mounted.state / name).unlink()
    check_tells(mounted, f"files of the state {mounted.state} were deleted under the mount ({name})")
    shown = blockstore("status", str(mounted.path))
    assert shown.returncode == 0 and f"({name})" in shown.stderr and "MiB" in shown.stdout, shown
    one_line(blockstore("reload", str(mounted.path)), LOST_EXIT_CODE, "the next daemon could not go on", name)
    one_line(mounted.umount(), LOST_EXIT_CODE, "stays mounted", name)
    until(lambda: "CRITICAL" in mounted.log(), "the daemon has noticed")
    assert cold(mounted.path / "file") == noisy(MIB, 1)
    assert mounted.umount("--discard").returncode == 0 and not mounted.state.exists()
    assert not mounts_below(lab.path) and not daemons_of(lab.path)


@pytest.mark.mount
@pytest.mark.logs(r"were deleted under the mount \(volume-\d+\)")
def test_a_map_of_the_state_was_deleted_but_not_with_its_file(lab: Lab) -> None:
    mounted = lab.mount()
    for name in ("keep", "drop"):
        put(mounted.path / name, noisy(MIB, name))
    kept = (mounted.path / "keep").stat().st_ino
    (mounted.path / "drop").unlink()
    assert invoke("status", str(mounted.path), "--check").returncode == OK
    (mounted.state / f"volume-{kept}").unlink()
    check_tells(mounted, f"(volume-{kept})")
    until(lambda: f"(volume-{kept})" in mounted.log(), "the daemon has noticed")


@pytest.mark.mount
@pytest.mark.logs("was renamed to .* under the mount")
def test_a_state_that_was_renamed_is_found_again(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", noisy(MIB, 1))
    mounted.controller_pid()  # it has opened its log by then
    elsewhere = lab.path / "elsewhere"
    mounted.state.rename(elsewhere)
    words = (f"was renamed to {elsewhere} under the mount", f"mv {elsewhere} {mounted.state}")
    check_tells(mounted, *words)
    one_line(mounted.umount(), LOST_EXIT_CODE, *words)
    until(lambda: words[0] in (elsewhere / "daemon.log").read_text(), "the daemon has noticed")
    elsewhere.rename(mounted.state)
    assert invoke("status", str(mounted.path), "--check").returncode == OK
    until(lambda: "are where they were again" in mounted.log(), "the daemon has noticed that, too")
    assert mounted.log().count("CRITICAL") == 1, "it is said once"
    mounted.kill_daemon()
    assert cold(mounted.path / "file") == noisy(MIB, 1)
    assert mounted.umount().returncode == 0
    assert cold(lab.mount(state=mounted.state).path / "file") == noisy(MIB, 1)


@pytest.mark.mount
@pytest.mark.logs("was deleted under the mount")
def test_the_daemon_dies_after_the_state_was_deleted(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", noisy(MIB, 1))
    shutil.rmtree(mounted.state)
    mounted.kill_daemon()
    words = (str(mounted.state), "its daemon has died since", "lost")
    until(lambda: words[1] in invoke("status", str(mounted.path), "--check").stdout, "the daemon has died")
    check_tells(mounted, *words)
    one_line(blockstore("status", str(mounted.path)), LOST_EXIT_CODE, *words)
    one_line(mounted.umount(), LOST_EXIT_CODE, *words)
    assert mounted.umount("--force").returncode == 0
    assert not mounts_below(lab.path) and not daemons_of(lab.path) and not supervisors_of(lab.path)


@pytest.mark.mount
def test_a_mount_without_daemon_and_supervisor_can_be_ended(lab: Lab) -> None:
    """There is nothing to save."""
    mounted = lab.mount()
    mounted.kill()
    shutil.rmtree(mounted.state)
    assert mounted.umount().returncode == 0 and not mounts_below(lab.path)


@pytest.mark.mount
def test_it_is_told_in_the_foreground_and_an_empty_default_state_may_be_gone(lab: Lab) -> None:
    path = lab.mountpoint()
    read_fd, write_fd = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "blockstore", "mount", "--foreground", str(path), "--pool-limit", "64M"],
        {**os.environ, "PYTHONPATH": str(PROJECT)},
        file_actions=[(os.POSIX_SPAWN_DUP2, write_fd, 1), (os.POSIX_SPAWN_DUP2, write_fd, 2)],
        setsid=True,
    )
    os.close(write_fd)
    try:
        until(lambda: bool(mounts_below(path)), "the mount is there")
        mounted = Mounted(path, mounts.find(path).state)
        until(lambda: "OK" in invoke("status", str(path), "--check").stdout, "the daemon answers")
        shutil.rmtree(mounted.state)
        with os.fdopen(read_fd, errors="replace") as output:
            line = next(line for line in output if "CRITICAL" in line)
            assert f"the state directory {mounted.state} was deleted under the mount" in line, line
            assert mounted.umount("--force").returncode == 0
            assert ended(pid)
            rest = output.read()
        assert "Traceback" not in rest and "CRITICAL" not in rest, rest
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with contextlib.suppress(OSError):
            mounted.state.parent.rmdir()  # of no other mount
    finally:
        end(pid)


@pytest.mark.mount
def test_a_state_is_whole_and_locked_for_cleaners(lab: Lab) -> None:
    """systemd-tmpfiles(8) leaves alone what is below a directory that is locked."""
    mounted = lab.mount()
    assert set(state_loss.ESSENTIAL) <= set(os.listdir(mounted.state))
    descriptor = os.open(mounted.state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not state_loss.find_served(mounted.state)
        served = state_loss.processes(mounted.state)
        assert served == (mounted.daemon_pid(), mounted.supervisor_pid())
        assert mounted.umount().returncode == 0
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    assert state_loss.processes(mounted.state) == (0, 0)


UID = 4_000_000_001
"""A user that is in no table of users, and so has no name."""


def test_what_logind_will_delete_is_told(tmp_path: Path) -> None:
    state = Path("/dev/shm/blockstore-4000000001/mnt")
    assert not state_loss.risk(state, UID, tmp_path), "there is no logind"
    (tmp_path / "run/systemd/users").mkdir(parents=True)
    told = state_loss.risk(state, UID, tmp_path)
    assert str(state) in told and f"loginctl enable-linger {UID}" in told and "--state" in told
    assert not state_loss.risk(state, 0, tmp_path) and not state_loss.risk(state, 999, tmp_path)
    assert not state_loss.risk(Path("/var/tmp/state"), UID, tmp_path)
    settings = tmp_path / "etc/systemd/logind.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text("[Login]\n#RemoveIPC=no\nRemoveIPC=yes\n")
    assert state_loss.risk(state, UID, tmp_path)
    (tmp_path / "usr/lib/systemd/logind.conf.d").mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/logind.conf.d/vm.conf").write_text("[Login]\nRemoveIPC = No\n")
    assert not state_loss.risk(state, UID, tmp_path)
    (tmp_path / "usr/lib/systemd/logind.conf.d/vm.conf").unlink()
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / f"var/lib/systemd/linger/{UID}").touch()
    assert not state_loss.risk(state, UID, tmp_path)
