"""Starting a mount: what must be true before, and how its start is told to whoever waits.

The supervisor is a new session without a terminal. It reports through a pipe, one JSON line: `ready` with warnings,
or `error` with the exit code; the end of the pipe without a line means that it died. The log is `daemon.log` in
the state directory, `daemon.stderr` what libfuse and Python print.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.daemon.host.unmount import unmount
from blockstore.daemon.options import MountOptions
from blockstore.daemon.state.states import check_default_states, check_links, check_owner, default_states
from blockstore.daemon.supervise import lean, phase, supervisor
from blockstore.daemon.supervise.listening import listen
from blockstore.daemon.supervise.notify_message import NOTIFY_VARIABLE
from blockstore.errors import BusyError, InputError, MountError, error_of, state_in_use
from blockstore.store.state.superblock import refuse_foreign

END_S: Final = 60.0
"""How long a start that has failed may take to end."""


def check(options: MountOptions) -> None:
    """Raise a sentence for what would make the mount fail. Never touches a mount."""
    target = Path(options.mountpoint)
    state = Path(os.path.realpath(options.state))
    for mount in mounts.all_mounts():
        if mount.path == target:
            if phase.load(mount.state) is None and client.is_refused(mount.state):
                raise BusyError(client.nobody_serves(mount.state))
            raise BusyError(f"{target} is a blockstore mount already; `blockstore status {target}` shows it")
        if Path(os.path.realpath(mount.state)) == state:
            raise BusyError(f"the state directory {options.state} is in use by the mount at {mount.path}")
    if phase.load(state) is not None:  # of a mount that is detached, or of another name space
        raise state_in_use(options.state)
    if state.is_relative_to(target):  # the daemon would wait for itself
        raise InputError(
            f"the state directory {options.state} lies in the mountpoint {target}; name another with --state"
        )
    for mount in mounts.all_mounts():  # whose files come and go with their own daemon
        if Path(os.path.abspath(options.state)).is_relative_to(mount.path):
            raise InputError(
                f"the state directory {options.state} lies in the blockstore mount {mount.path}; "
                "name another with --state"
            )
    check_owner(state)
    _check_tier(options.spill, target)
    _check_mountpoint(target)
    import_module("blockstore.plane")  # raises the sentence where it is not built
    _check_device()
    _check_state(Path(options.state))
    if options.metrics is not None:  # the daemon takes the port; by then there would be something to take back
        listen(*options.metrics).close()


def start(options: MountOptions) -> list[str]:
    """Start a supervised daemon in the background; its warnings, once the mount serves. Raises what it failed with."""
    check(options)
    state = Path(options.state)
    made = _make_state(state)
    try:
        report_fd, pipe_fd = os.pipe()
        process = subprocess.Popen(
            _supervisor(pipe_fd, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(pipe_fd,),
            start_new_session=True,
            cwd="/",
            env=lean.environment(),
        )
        os.close(pipe_fd)
        return _await_report(process, report_fd, state)
    except BusyError:
        raise  # somebody else has come to use the directory that we made
    except BaseException as error:
        if made and not mounts.served_from(state):
            log = state / "daemon.log"
            _forget_new_state(state, {log} if str(log) in str(error) else set())
        raise


def become(options: MountOptions) -> NoReturn:
    """Serve in the foreground, in the place of this process: as a supervisor; under systemd, as its daemon."""
    if NOTIFY_VARIABLE in os.environ:
        # A mount that was kept for us is not ours to check.
        if not os.environ.get("LISTEN_FDS"):
            _remove_dead_mount(options)
            check(options)
            _make_state(Path(options.state))
        command, environment = [sys.executable, "-m", "blockstore.daemon", options.to_json()], dict(os.environ)
    else:
        check(options)
        _make_state(Path(options.state))
        command, environment = _supervisor(-1, options), lean.environment()
    os.chdir("/")
    os.execve(sys.executable, command, environment)


def _remove_dead_mount(options: MountOptions) -> None:
    """Takes away what is left at the mountpoint of a mount with the same state whose daemon was killed at a stop. The
    service manager holds no descriptor of it any more, so its users have lost it, and each start would fail."""
    for mount in mounts.all_mounts():
        if str(mount.path) != options.mountpoint or os.path.realpath(mount.state) != os.path.realpath(options.state):
            continue
        if phase.load(mount.state) is not None or not client.is_refused(mount.state):
            continue
        try:
            os.listdir(mount.path)  # attributes might come from the kernel's cache
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                unmount(options.mountpoint, lazy=True)


def _supervisor(report_fd: int, options: MountOptions) -> list[str]:
    return supervisor.command(
        options.state,
        options.to_json(),
        report_fd,
        watchdog_s=options.watchdog_s,
        is_foreground=options.foreground,
    )


def _await_report(process: subprocess.Popen[bytes], report_fd: int, state: Path) -> list[str]:
    # The supervisor sets the limit; the pipe ends when it does.
    with os.fdopen(report_fd) as pipe:
        try:
            line = pipe.readline()
        except KeyboardInterrupt:
            process.terminate()
            process.wait(END_S)
            raise
    if not line:
        code = process.wait(END_S)
        raise MountError(f"the supervisor of {state} died at its start (exit code {code}); look at {state}/daemon.log")
    message: dict[str, Any] = json.loads(line)
    if "error" in message:
        process.wait(END_S)
        raise error_of(message["code"])(message["error"])
    warnings: list[str] = message["ready"]
    return warnings


def _check_tier(url: str, target: Path) -> None:
    """A tier in a file of a blockstore mount would keep in memory what it is to take out of it, or wait for itself."""
    scheme, _, place = url.partition(":")
    if scheme != "file":
        return
    path = Path(os.path.realpath(Path(place).parent))
    for mounted in (target, *(mount.path for mount in mounts.all_mounts())):
        if path.is_relative_to(mounted):
            raise InputError(f"--spill {url} lies in the blockstore mount {mounted}; name a file on a disk")


def _check_mountpoint(target: Path) -> None:
    try:
        if next(target.iterdir(), None) is not None:
            raise InputError(f"{target} is not empty; name an empty directory to mount on")
    except FileNotFoundError:
        raise InputError(f"there is no directory {target}; make it first: mkdir -p {target}") from None
    except NotADirectoryError:
        raise InputError(f"{target} is no directory; name an empty directory to mount on") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(
                f"{target} is the mount of a file system whose daemon died; remove it first: umount {target}"
            ) from None
        raise InputError(f"{target} cannot be used to mount on: {error.strerror}") from None


def _check_state(state: Path) -> None:
    try:
        refuse_foreign((entry.name for entry in state.iterdir()), str(state))
        check_links(state)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(
            f"the state directory {state} cannot be used: {error.strerror}; name another with --state"
        ) from None


def _check_device() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError("there is no /dev/fuse; load the kernel's module first: modprobe fuse") from None
    except OSError as error:
        raise MountError(
            f"/dev/fuse cannot be opened: {error.strerror}; mount as root, or ask root to allow it"
        ) from None


def _make_state(state: Path) -> bool:
    """Make the state directory if need be; True if it was not there. Errors are the daemon's to find, but for these."""
    try:
        if state.parent == default_states():
            state.parent.mkdir(mode=0o700, exist_ok=True)
            check_default_states(state)
        state.mkdir(mode=0o700, parents=True)
    except FileExistsError:  # of an earlier mount, or of one that starts at the same moment
        if not state.is_dir() or os.access(state, os.W_OK | os.X_OK):
            return False
        raise InputError(f"the state directory {state} cannot be written to; name another with --state") from None
    except OSError as error:
        raise InputError(
            f"the state directory {state} cannot be made: {error.strerror}; name another with --state"
        ) from None
    return True


def _forget_new_state(state: Path, told: set[Path]) -> None:
    """Take back a state directory that this start has made and that holds nothing of anybody's; files that the user is
    `told` to look at stay, and do not keep the directory from being mounted with."""
    try:
        for entry in set(state.iterdir()) - told:
            entry.unlink()
        if not told:
            state.rmdir()
    except OSError:
        return
