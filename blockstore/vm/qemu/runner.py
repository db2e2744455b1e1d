"""`blockstore run`: a VM in a cgroup of its own, with a file of the mount as its memory, and nothing left of it after.

The process that the user has started becomes a shell, which takes 0.2 MB for as long as the VM runs, where Python takes
10. It waits for QEMU, passes signals on, and takes away file and cgroup before it ends with QEMU's exit code. Should it
be killed, the controller does that (controlled.end).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn

from blockstore.daemon.control import client
from blockstore.daemon.control.attachments import BY_RUN, Attachment, Residency, ask_to_attach
from blockstore.daemon.host.mounts import Mount
from blockstore.daemon.host.process_stat import start_time
from blockstore.daemon.state import state_loss
from blockstore.errors import BusyError, InputError, MountError, OutOfRoom, StateLost
from blockstore.vm import file_work
from blockstore.vm.deadline import deadline
from blockstore.vm.memory import cgroups
from blockstore.vm.memory.cgroups import Cgroup
from blockstore.vm.qemu import qemu_arguments, qmp_sockets, recorded_arguments, refused_calls

EARLY_S: Final = 3
"""A QEMU that fails within so many seconds has not begun to run a guest: that is said, below its own words."""

CLONE_S: Final = 30.0
"""How long a clone of a snapshot's memory may take: milliseconds, unless the store is full."""

SHELL: Final = "/bin/sh"

REFUSAL: Final = signal.SIGRTMAX
"""Tells the shell of a VM that cannot go on to kill QEMU and end with 1. Its sender has said why."""

# Arguments: file to delete and its device:inode, because another file may have its name by then; folder to delete if
# nothing is in it, cgroup (each may be empty), the cgroup that we come from, seconds of EARLY_S, the number of REFUSAL;
# then QEMU's command.
# Stdin is passed by a descriptor, because a shell gives /dev/null to what it starts in the background. QEMU dies with
# the shell, however that dies. `wait` ends at each signal, hence the loop, and has a shell say "Killed", which names no
# program.
_SCRIPT: Final = r"""
file=$1 inode=$2 folder=$3 cgroup=$4 home=$5 early=$6 refusal=$7
shift 7
[ -e /proc/self/fd/0 ] || exec </dev/null
started=$(date +%s)
program=$1
if command -v setpriv >/dev/null; then set -- setpriv --pdeathsig KILL -- "$@"; fi
exec 3<&0
"$@" <&3 3<&- &
vm=$!
asked= refused=
for signal in TERM HUP INT QUIT USR1 USR2; do trap "asked=1; kill -$signal $vm 2>/dev/null" $signal; done
trap "refused=1; kill -KILL $vm 2>/dev/null" $refusal
while :; do
    wait $vm 2>/dev/null
    code=$?
    kill -0 $vm 2>/dev/null || break
done
if [ -n "$refused" ]; then
    code=1
elif [ $code -gt 128 ] && [ -z "$asked" ]; then
    echo "blockstore: $program was ended by signal $((code - 128))" >&2
elif [ $code -ne 0 ] && [ $code -lt 128 ] && [ $(($(date +%s) - started)) -lt $early ]; then
    echo "blockstore: $program ended at once, with exit code $code; what it said stands above" >&2
fi
if [ -n "$cgroup" ]; then echo $$ >"$home/cgroup.procs"; fi
if [ -n "$file" ] && [ "$(stat -c %d:%i -- "$file" 2>/dev/null)" = "$inode" ]; then rm -f -- "$file"; fi
if [ -n "$folder" ]; then rmdir -- "$folder" 2>/dev/null; fi
if [ -n "$cgroup" ]; then
    for try in 1 2 3 4 5 6 7 8 9 10; do rmdir -- "$cgroup" 2>/dev/null && break; sleep 0.1; done
fi
exit $code
"""


def run(
    mount: Mount,
    name: str,
    size_bytes: int,
    residency: Residency,
    command: Sequence[str],
    *,
    keep: bool,
    warn: Callable[[str], None],
    memory: Path | None = None,
    is_apart: bool = False,
    started: Callable[[int], None] = lambda volume: None,
) -> NoReturn:
    """Make the file `name` of the mount and start `command` (QEMU and its arguments) in the place of this process.

    `memory` is the file of a snapshot whose memory it begins with. A VM that `is_apart` has a socket in the place of
    the terminal. `started` is called, with the file's number, when nothing can fail any more but the start of QEMU.

    Raises a sentence instead when something is not to be had, and then nothing is left behind.
    """
    program = shutil.which(command[0])
    if program is None:
        raise InputError(f"there is no program '{command[0]}'; install QEMU, or say where it is")
    path = mount.path / name
    with ExitStack() as undo:
        folder = _make_folder(mount, path, undo)
        _make_file(mount, path, size_bytes, memory, undo)
        cgroup, home = _make_cgroup(name, undo, warn)
        made, pid = path.stat(), os.getpid()
        attachment = Attachment(
            made.st_ino,
            pid,
            start_time(pid),
            **residency._asdict(),
            cgroup=str(cgroup.path) if cgroup else "",
            cgroup_version=cgroup.version if cgroup else "",
            owned=True,
            kept=keep,
            made_folder=folder is not None and not keep,
            by=BY_RUN,
        )
        ask_to_attach(mount.state, attachment)
        undo.callback(_detach, mount, path)
        if not refused_calls.refuse():
            warn(
                "this VM may keep more resident than it uses, because QEMU asks for huge pages and only root can have "
                "that refused"
            )
        arguments = _with_sockets(mount, made.st_ino, command[1:], is_apart, undo)
        if cgroup is not None:
            cgroup.enter(pid)
            undo.callback(_leave, home)
        script = [SHELL, "-c", _SCRIPT, "blockstore-run"]
        what = ["" if keep else str(path), f"{made.st_dev}:{made.st_ino}", str(folder or "")]
        what += [attachment.cgroup, home, str(EARLY_S), str(int(REFUSAL))]
        started(made.st_ino)
        os.execv(SHELL, [*script, *what, program, *arguments])


def _make_folder(mount: Mount, path: Path, undo: ExitStack) -> Path | None:
    """The folder of the file, if it was not there. One that has others above it that were not there is the user's."""
    folder = path.parent
    if folder == mount.path:
        return None
    try:
        folder.mkdir()
    except FileExistsError:
        return None
    except FileNotFoundError:
        raise InputError(f"there is no folder {folder.parent}; make it first: mkdir -p {folder}") from None
    except OSError as error:
        raise MountError(f"{folder} cannot be made: {error.strerror}") from None
    undo.callback(_remove_folder, folder)
    return folder


def _with_sockets(mount: Mount, volume: int, arguments: Sequence[str], is_apart: bool, undo: ExitStack) -> list[str]:
    """QEMU's arguments with a monitor of ours, and a console where there is no terminal. The controller takes the
    sockets away when the VM has ended."""
    undo.callback(qmp_sockets.remove, mount.state, volume)
    made = qemu_arguments.with_monitor(arguments, _inherited(mount, qmp_sockets.QMP, volume, undo))
    if is_apart and recorded_arguments.has_console(made):
        made = recorded_arguments.with_console(made, _inherited(mount, qmp_sockets.CONSOLE, volume, undo))
    return made


def _inherited(mount: Mount, kind: str, volume: int, undo: ExitStack) -> int:
    descriptor = qmp_sockets.listen(mount.state, kind, volume)
    undo.callback(os.close, descriptor)
    os.set_inheritable(descriptor, True)
    return descriptor


def _make_file(mount: Mount, path: Path, size_bytes: int, memory: Path | None, undo: ExitStack) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BusyError(
            f"{path} is there already; name another VM, or delete it if nobody needs it: rm {path}"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutOfRoom(f"{path} cannot be made: {error.strerror}") from None
        if loss := state_loss.find_served(mount.state):
            raise StateLost(f"{path} cannot be made: {loss}") from None
        raise MountError(f"{path} cannot be made: {error.strerror}") from None
    undo.callback(path.unlink, missing_ok=True)
    try:
        if memory is not None:
            clone_memory(memory, descriptor, size_bytes, f"the memory of {memory} cannot be cloned")
        os.ftruncate(descriptor, size_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be {size_bytes} bytes long: {error.strerror}") from None
    finally:
        os.close(descriptor)


def clone_memory(memory: Path, target: int, size_bytes: int, failed: str) -> None:
    """Let an open file begin with another one's memory. Raises OutOfRoom, MountError, which begin with `failed`."""
    with deadline(CLONE_S, failed):
        source = os.open(memory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            file_work.clone(source, target, size_bytes)
        finally:
            os.close(source)


def _make_cgroup(name: str, undo: ExitStack, warn: Callable[[str], None]) -> tuple[Cgroup | None, str]:
    """A cgroup for the VM, if there can be one, and the directory of the one that we come from."""
    try:
        own = cgroups.home()
        made = cgroups.create(name, own)
    except (LookupError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        warn(f"no memory cgroup can be had for this VM ({reason}); its pages are taken back by madvise instead")
        return None, ""
    undo.callback(made.remove)
    return made, str(own.path)


def _leave(home: str) -> None:
    Path(home, "cgroup.procs").write_text(str(os.getpid()))


def _detach(mount: Mount, path: Path) -> None:
    with contextlib.suppress(MountError, OSError):
        client.ask(mount.state, {"do": "detach", "volume": path.stat().st_ino, "ended": True})


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
