"""Snapshot and fork: how long a clone takes and a VM stands still, when its fork answers, and what twenty keep.
Restoring: prefetch.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from guestlab import work
from guestlab.guest import Guest
from guestlab.qmp import QmpChannel

from benchlab import processes
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import Figure, from_repetitions
from benchlab.mounts import StoreMount
from benchlab.vms import prefetch
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.qemu_arguments import with_memory
from blockstore.vm.qemu.running import without_memory

CLONE_TARGET_MS: Final = 50.0
STOP_TARGET_MS: Final = 100.0
FORK_TARGET_S: Final = 2.0
OWN_TARGET_MS: Final = 200.0
TWENTY_TARGET: Final = 1.3

COUNT: Final = 20

_COMMAND: Final = (sys.executable, "-m", "blockstore")
_COMMAND_S: Final = 240.0
_ANSWER_S: Final = 60.0
_REPETITIONS: Final = 5

_WARM_MIB: Final = 64
_QUICK_MIB: Final = 4
"""What the guest fills of its memory."""

_IDLE_S: Final = 5.0
"""Clones do nothing for so long before what is stored of them is counted; in quick mode they have just answered."""

_CLONE: Final = """
import os, sys, time
from blockstore.vm.file_work import clone
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
began = time.perf_counter()
clone(source, target, os.fstat(source).st_size)
print(time.perf_counter() - began)
os.unlink(sys.argv[2])
"""

_FILL: Final = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
half = bytes(2048)
for start in range(0, int(sys.argv[2]), 1 << 20):
    blocks = os.urandom(256 * 2048)
    data = b"".join(blocks[at : at + 2048] + half for at in range(0, len(blocks), 2048))
    os.pwrite(descriptor, data, start * 4)
os.ftruncate(descriptor, int(sys.argv[2]) * 4)
os.fsync(descriptor)
"""
"""A quarter of the file, a MiB in four, each block half random."""


_EXTRACT: Final = """
import json, sys
from pathlib import Path
from blockstore.daemon.host.mounts import Mount
from blockstore.vm.snapshot import snapshot_file
path, state, folder = (Path(each) for each in sys.argv[1:])
found = snapshot_file.find(Mount(path, "", state), "plain")
(folder / "plain-state").write_bytes(found.device_state())
left = found.memory_bytes
with found.path.open("rb") as memory, (folder / "plain-memory").open("wb") as out:
    while left:
        left -= out.write(memory.read(min(left, 1 << 20)))
print(json.dumps(found.facts._asdict()))
"""


def measure(bench: Bench) -> list[Figure]:
    """Milliseconds and seconds."""
    figures = _clone(bench)
    memory_bytes = (128 if bench.quick else 512) << 20
    with StoreMount(bench.workspace, "fork", "--pool-limit", "2G") as mount:
        command = [*_COMMAND, "run", "vm", "--mount", str(mount.path), "--memory", f"{memory_bytes >> 20}M", "--"]
        with Guest("vm", memory_bytes, mount.path / "vm", runner=command, free_page_reporting=True) as guest:
            bench.say(f"fork: a guest of {memory_bytes >> 20} MiB warms up")
            guest.wait_ready(_COMMAND_S)
            if bench.quick:
                work.fill(guest, _QUICK_MIB, "random")  # text takes a guest six seconds
            else:
                work.fill_mixed(guest, _WARM_MIB)
            figures += _snapshot(bench, mount, guest)
            figures += prefetch.measure(bench, mount, guest, _repetitions(bench))
            figures += _fork(bench, mount, guest)
            figures += _twenty(bench, mount)
            if work.verify(guest):
                raise BenchError("the guest that was forked has lost something")
    return figures


def _repetitions(bench: Bench) -> int:
    return 1 if bench.quick else _REPETITIONS


def _clone(bench: Bench) -> list[Figure]:
    data_bytes = (1 << 30) >> (5 if bench.quick else 0)
    bench.say(f"fork: a volume of {data_bytes >> 18} MiB, a quarter of it data")
    with StoreMount(bench.workspace, "volume", "--pool-limit", "2G") as mount:
        path, copy = mount.path / "vm", mount.path / "copy"
        processes.run([sys.executable, "-c", _FILL, path, str(data_bytes)], mount.abort, _COMMAND_S)
        command: list[str | Path] = [sys.executable, "-c", _CLONE, path, copy]
        times = [1000 * float(processes.run(command, mount.abort, _COMMAND_S)) for _ in range(_repetitions(bench))]
    name = f"clone of {data_bytes >> 18} MiB with {data_bytes >> 20} MiB of data"
    return [from_repetitions("fork", name, times, "ms", CLONE_TARGET_MS)]


def _snapshot(bench: Bench, mount: StoreMount, guest: Guest) -> list[Figure]:
    """The guest works meanwhile, so that it has dirty pages."""
    bench.say("fork: snapshots")
    stops, others, walls = [], [], []
    guest.command("while :; do dd if=/dev/urandom of=/work/busy bs=1M count=4 2>/dev/null; done & echo $! >/work/pid")
    for number in range(_repetitions(bench)):
        began = time.perf_counter()
        said = _run(mount, "snapshot", "vm", f"s{number}", "--verbose")
        walls.append(time.perf_counter() - began)
        found = re.findall(r"([0-9.]+) ms", said.stderr)
        if len(found) != 4:
            raise BenchError(f"a snapshot says {said.stderr!r}")
        stops.append(float(found[0]))
        others.append(float(found[0]) - float(found[2]))
        _run(mount, "snapshots", "delete", f"s{number}")
    guest.command("kill $(cat /work/pid); rm -f /work/busy")
    return [
        from_repetitions("fork", "VM stopped, without its dirty pages", others, "ms", STOP_TARGET_MS),
        from_repetitions("fork", "VM stopped, all in all", stops, "ms", note="a guest that writes all the time"),
        from_repetitions("fork", "blockstore snapshot, the whole command", walls, "s"),
    ]


def _fork(bench: Bench, mount: StoreMount, guest: Guest) -> list[Figure]:
    """Beside it QEMU alone, which goes on from the same moment on plain memory."""
    bench.say("fork: one VM, until it answers")
    plain = _Plain(bench, mount, guest.memory_bytes)
    totals, alone = [], []
    for _ in range(_repetitions(bench)):
        began = time.perf_counter()
        with _forked(mount, 1) as names:
            _ask_at(_console(mount, names[0]), "echo here")
            totals.append(time.perf_counter() - began)
        alone.append(plain.answer_s())
    own = [1000 * (total - other) for total, other in zip(totals, alone, strict=True)]
    note = "snapshot, clone, cgroup, Python; the rest is QEMU's start and the guest's answer"
    return [
        from_repetitions("fork", "fork of a warm guest to an answer on its console", totals, "s", FORK_TARGET_S),
        from_repetitions("fork", "QEMU alone, from the same state on plain memory", alone, "s"),
        from_repetitions("fork", "the share of the fork that is ours", own, "ms", OWN_TARGET_MS, note=note),
    ]


class _Plain:
    """The guest as it is now, in plain files."""

    def __init__(self, bench: Bench, mount: StoreMount, memory_bytes: int) -> None:
        self._folder = bench.workspace.states
        self._memory_bytes = memory_bytes
        _run(mount, "snapshot", "vm", "plain")
        script: list[str | Path] = [sys.executable, "-c", _EXTRACT, mount.path, mount.state, self._folder]
        self._facts = processes.run_json(script, mount.abort, _COMMAND_S)
        _run(mount, "snapshots", "delete", "plain")

    def answer_s(self) -> float:
        """From QEMU's start to the guest's answer, on a fresh copy of the memory."""
        memory = self._folder / "plain-copy"
        processes.run(["cp", self._folder / "plain-memory", memory], processes.nothing_to_abort, _COMMAND_S)
        sockets = [socket.socketpair() for _ in range(2)]
        (qmp, qmp_theirs), (console, console_theirs) = sockets
        arguments = [each.replace("stdio,", _given(console_theirs), 1) for each in self._facts["arguments"]]
        arguments = [each.replace(",signal=off", "") for each in arguments]
        arguments = with_memory(
            arguments, str(memory), self._memory_bytes, balloon=False, backend=self._facts["backend"]
        )
        arguments += ["-chardev", f"{_given(qmp_theirs)}id=q", "-mon", "chardev=q,mode=control", "-incoming", "defer"]
        with ExitStack() as stack:
            for each in (qmp, qmp_theirs, console, console_theirs):
                stack.enter_context(each)
            began = time.perf_counter()
            process = subprocess.Popen(
                [self._facts["program"], *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[qmp_theirs.fileno(), console_theirs.fileno()],
            )
            stack.callback(process.wait, _ANSWER_S)
            stack.callback(process.kill)
            qmp_theirs.close()
            self._load(QmpChannel(qmp))
            _ask_at(console, "echo here")
            return time.perf_counter() - began

    def _load(self, channel: QmpChannel) -> None:
        channel.negotiate(_ANSWER_S)
        channel.execute(*without_memory(True))
        channel.execute("migrate-incoming", {"uri": f"exec:cat {self._folder / 'plain-state'}"})
        while channel.execute("query-migrate").get("status") != "completed":
            time.sleep(0.002)
        channel.execute("cont")


def _given(end: socket.socket) -> str:
    return f"socket,fd={end.fileno()},"


def _twenty(bench: Bench, mount: StoreMount) -> list[Figure]:
    count = 2 if bench.quick else COUNT
    bench.say(f"fork: {count} VMs")
    processes.run([*_COMMAND, "evict", mount.path], mount.abort, _COMMAND_S)
    one = mount.status()["volumes"]["vm"]["stored"]
    began = time.perf_counter()
    with _forked(mount, count) as names:
        up_s = time.perf_counter() - began
        answered = sum("here" in _ask(mount, name, "echo here") for name in names)
        time.sleep(0 if bench.quick else _IDLE_S)
        processes.run([*_COMMAND, "evict", mount.path], mount.abort, _COMMAND_S)
        stored = mount.status()["total"]["stored"]
        again = sum("here" in _ask(mount, name, "echo here") for name in names)
    name = f"stored with {count} idle clones, against one guest"
    note = f"{one / 2**20:.1f} MiB, and {stored / 2**20:.1f} MiB with {count} clones"
    return [
        Figure("fork", f"{count} clones up", up_s, "s"),
        Figure("fork", name, stored / one, "", TWENTY_TARGET, note=note),
        Figure("fork", f"of {count} clones, silent", count - min(answered, again), "", 0.0),
    ]


def _run(mount: StoreMount, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*_COMMAND, *arguments, "--mount", str(mount.path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_S, check=False
    )
    if done.returncode:
        raise BenchError(f"blockstore {' '.join(arguments)}: {done.stderr.strip()}")
    return done


@contextmanager
def _forked(mount: StoreMount, count: int) -> Iterator[list[str]]:
    """So many VMs, and none at the end."""
    names = _run(mount, "fork", "vm", "--count", str(count)).stdout.split()
    try:
        yield names
    finally:
        volumes = mount.status()["volumes"]
        pids = [volumes[name]["controller"]["pid"] for name in names if name in volumes and volumes[name]["controller"]]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _ANSWER_S
        while any(processes.is_alive(pid) for pid in pids) or any((mount.path / name).exists() for name in names):
            if time.monotonic() > deadline:
                raise BenchError("VMs that were forked do not end")
            time.sleep(0.05)


def _ask(mount: StoreMount, name: str, command: str) -> str:
    """What it prints, over its console."""
    with _console(mount, name) as console:
        return _ask_at(console, command)


def _console(mount: StoreMount, name: str) -> socket.socket:
    volume = (mount.path / name).stat().st_ino
    console = socket.socket(socket.AF_UNIX)
    console.connect(str(qmp_sockets.path_of(mount.state, qmp_sockets.CONSOLE, volume)))
    return console


def _ask_at(console: socket.socket, command: str) -> str:
    console.settimeout(_ANSWER_S)
    console.sendall(f"tag {command}\n".encode())
    text = ""
    while "guestlab-end tag 0" not in text:
        part = console.recv(4096).decode()
        if not part:
            raise BenchError("a console was closed")
        text += part
    return text.partition("guestlab-begin tag")[2].partition("@@")[0]
